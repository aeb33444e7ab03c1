"""What the commands share: which tables, in which database, with which keys, and how to go about it."""

from __future__ import annotations

import logging
import os
import re
import sys
from importlib import import_module
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, NoReturn, get_type_hints

import typer
from dotenv import dotenv_values
from sqlalchemy import Engine, MetaData, create_engine, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import NullPool

from .engine import Rollout, attach_key_ring, scrub_errors
from .errors import ColumnDefinitionError, RolloutError, UnsupportedOperationError
from .keys import KeyRing
from .rewrite import Options

if TYPE_CHECKING:
    from collections.abc import Callable


class Common(NamedTuple):
    """Which tables, in which database, with which keys."""

    models: Annotated[
        str, typer.Option(help="The declarative base or MetaData of your models, as package.module:Base.")
    ] = "sealchemy.integrations.models:Base"
    url: Annotated[str | None, typer.Option(help="The database; by default DATABASE_URL.")] = None
    prefix: Annotated[str, typer.Option(help="How the variables of the keys begin.")] = "INTEGRATION_TOKEN_ENCRYPTION"
    verbose: Annotated[int, typer.Option("--verbose", "-v", count=True, help="Log more; twice for most.")] = 0

    def environment(self) -> dict[str, str]:
        """Return the variables of `.env` and of the process, which go first; an empty one is absent."""
        both = (dotenv_values(".env"), os.environ)
        return {name: value for variables in both for name, value in variables.items() if value}

    def engine(self) -> Engine:
        """Return an engine without keys."""
        environ = self.environment()
        try:
            url = make_url(self.url or environ.get("DATABASE_URL", "sqlite:///integrations.db"))
        except (ValueError, ArgumentError):
            message = "the database's URL cannot be parsed: it is dialect+driver://user:password@host:port/database"
            raise UnsupportedOperationError(message) from None
        if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
            message = f"there is no database {url.database!r} here: set DATABASE_URL or --url"
            raise UnsupportedOperationError(message)
        engine = create_engine(url, poolclass=NullPool, hide_parameters=True)
        scrub_errors(engine)
        return engine

    def protected_engine(self) -> Engine:
        """Return an engine with the keys and the rollout stage of the environment."""
        environ = self.environment()
        key_ring = KeyRing.from_env(self.prefix, environ)
        stage: Any = environ.get(f"{self.prefix}_ROLLOUT", Rollout.STRICT)
        if stage not in list(Rollout):
            message = f"{self.prefix}_ROLLOUT must be one of {', '.join(Rollout)}"
            raise RolloutError(message)
        return attach_key_ring(self.engine(), key_ring, rollout=stage)

    def metadata(self) -> MetaData:
        """Import the models, and return what they declare."""
        module, _, name = self.models.partition(":")
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
        try:
            base = getattr(import_module(module), name)
            metadata = base if isinstance(base, MetaData) else base.metadata
        except Exception as error:  # noqa: BLE001 - it is the code of the user that runs here
            _refuse_models(self.models, f"{type(error).__name__}: {error}")
        if not isinstance(metadata, MetaData):
            _refuse_models(self.models, "it has no MetaData")
        return metadata


class Limits(NamedTuple):
    """How to go about it."""

    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and count; change nothing.")] = False
    batch_size: Annotated[int, typer.Option(help="Rows in a transaction.")] = 1000
    pause: Annotated[float, typer.Option(help="Seconds to rest between two batches.")] = 0
    lock_timeout: Annotated[float, typer.Option(help="Seconds to wait for what others have locked.")] = 5
    max_rows: Annotated[int | None, typer.Option(help="Stop after so many rows.")] = None
    shard: Annotated[
        str | None, typer.Option(help="Do one share, such as 2/8, while others do the rest; on PostgreSQL.")
    ] = None

    def options(self) -> Options:
        """Return what `rewrite` takes."""
        part = re.fullmatch("([0-9]{1,6})/([0-9]{1,6})", self.shard) if self.shard is not None else None
        if self.shard is not None and part is None:
            message = "--shard takes one of a number, such as 2/8"
            raise UnsupportedOperationError(message)
        return Options(
            dry_run=self.dry_run,
            batch_size=self.batch_size,
            pause=self.pause,
            lock_timeout=self.lock_timeout,
            max_rows=self.max_rows,
            shard=(int(part[1]), int(part[2])) if part else None,
        )


def takes(*groups: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of groups, each of which it takes as one argument."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        def command(**given: Any) -> None:
            gathered = [group(**{name: given.pop(name) for name in group._fields}) for group in groups]
            logging.basicConfig(level=[logging.WARNING, logging.INFO, logging.DEBUG][min(gathered[0].verbose, 2)])
            function(*gathered, **given)

        own = list(signature(function, eval_str=True).parameters.values())[len(groups) :]
        shared = [
            Parameter(name, Parameter.KEYWORD_ONLY, default=group._field_defaults[name], annotation=annotation)
            for group in groups
            for name, annotation in get_type_hints(group, include_extras=True).items()
        ]
        command.__name__, command.__doc__ = function.__name__, function.__doc__
        command.__signature__ = Signature(  # type: ignore[attr-defined] # which is what typer reads
            [*(item.replace(kind=Parameter.KEYWORD_ONLY) for item in own), *shared]
        )
        return command

    return decorate


def _refuse_models(models: str, problem: str) -> NoReturn:
    message = (
        f"--models {models}: {problem}; it is package.module:Base, where Base is a declarative base or a MetaData,"
        " and the module imports every model"
    )
    raise ColumnDefinitionError(message)
