"""`Project`: which tables, in which database, with which keys."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import NoReturn, TypeVar

from dotenv import dotenv_values
from sqlalchemy import URL, Engine, MetaData, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.pool import NullPool

from sealchemy import KeyRing, MissingKeyError, Rollout, RolloutError, attach_key_ring
from sealchemy._column.redact_errors import redact_errors
from sealchemy._databases.access import database_of
from sealchemy._databases.async_drivers import make_engine
from sealchemy._databases.table import TableColumns
from sealchemy._rewriting.declared import declared_tables
from sealchemy._values.environment import KeyIds, read_ids
from sealchemy.errors import ColumnDefinitionError, UnsupportedOperationError

from . import configuration

_Result = TypeVar("_Result")


def set_verbosity(verbose: int) -> None:
    """Show warnings; with -v information, and with -vv debug output as well."""
    logging.basicConfig(level=[logging.WARNING, logging.INFO, logging.DEBUG][min(verbose, 2)])


def _without_password(url: URL) -> str:
    """Return a URL as text, without its passwords: drivers take some in the query."""
    return url.difference_update_query([name for name in url.query if "pass" in name]).render_as_string()


class Project:
    """The models, the database and the keys that a command works with."""

    def __init__(self, models: str | None, url: str | None, prefix: str | None, verbose: int) -> None:
        """Take the options of a command; each that is None comes from the environment, or from `[tool.sealchemy]`."""
        set_verbosity(verbose)
        given = {"models": models, "prefix": prefix, "url": url}
        self._options = {name: value for name, value in given.items() if value is not None}
        self._file = configuration.read()
        self.models = self._setting("models") or "sealchemy.integrations.models:Base"
        self.prefix = self._setting("prefix") or configuration.PREFIX

    def _setting(self, name: str, *more_variables: str) -> str | None:
        environment = self._environment()
        variables = (environment.get(variable) for variable in (f"SEALCHEMY_{name.upper()}", *more_variables))
        return next(filter(None, (self._options.get(name), *variables)), self._file.get(name))

    @property
    def key_variable(self) -> str:
        """The name of the variable of the primary key."""
        return f"{self.prefix}_KEY"

    @property
    def rollout_variable(self) -> str:
        """The name of the variable of the rollout stage."""
        return f"{self.prefix}_ROLLOUT"

    def command_options(self) -> str:
        """Return the options that another command needs for the same models, database and keys."""
        shown = dict(self._options)
        if "url" in shown:
            shown["url"] = _without_password(make_url(shown["url"]))
        return shlex.join(part for name, value in shown.items() for part in (f"--{name}", value))

    def key_ring(self) -> KeyRing:
        """Return the keys of the environment.

        Raises:
            MissingKeyError: there is no key; the text names the variables that are set and look alike.
        """
        return self._from_keys(KeyRing.from_env)

    def key_ids(self) -> KeyIds:
        """Return the ids of these keys, without asking a KMS; raises `MissingKeyError`."""
        return self._from_keys(read_ids)

    def _from_keys(self, read: Callable[[str, dict[str, str]], _Result]) -> _Result:
        environment = self._environment()
        try:
            return read(self.prefix, environment)
        except MissingKeyError as error:
            problem = str(error)
        alike = [name for name in environment if name.endswith(("_KEY", "_KEY_FILE")) and "ENCRYPT" in name.upper()]
        alike += get_close_matches(self.key_variable, environment, cutoff=0.75)
        names = ", ".join(sorted({name for name in alike if not name.startswith(f"{self.prefix}_")}))
        hint = f"; these are set: {names}" if names else ""
        raise MissingKeyError(f"{problem}. Another prefix is chosen with --prefix (now {self.prefix}){hint}")

    def stage(self) -> Rollout:
        """Return the rollout stage of the environment."""
        stage = self._environment().get(self.rollout_variable, Rollout.STRICT)
        if stage not in list(Rollout):
            raise RolloutError(f"{self.rollout_variable} must be one of {', '.join(Rollout)}")
        return Rollout(stage)

    def url(self) -> URL:
        """Return the URL of the database."""
        try:
            return make_url(self._setting("url", "DATABASE_URL") or "sqlite:///integrations.db")
        except (ValueError, ArgumentError):
            raise UnsupportedOperationError(
                "the database's URL cannot be parsed; it is dialect+driver://user:password@host:port/database"
            ) from None

    def name_database(self, *, writes: bool = True) -> None:
        """Say which database a command is about to write to, without its password."""
        if writes:
            print(f"database: {_without_password(self.url())}", file=sys.stderr)

    def engine(self) -> Engine:
        """Return an engine without keys."""
        url = self.url()
        try:
            engine = make_engine(url, poolclass=NullPool, hide_parameters=True)
        except NoSuchModuleError:
            raise UnsupportedOperationError(
                f"the database's URL begins with {url.drivername}, which SQLAlchemy does not know; for PostgreSQL it is"
                " postgresql+psycopg"
            ) from None
        except ModuleNotFoundError as error:
            raise UnsupportedOperationError(
                f"the database's URL begins with {url.drivername}, and its driver is not installed: pip install"
                f" {error.name}, or name another driver"
            ) from None
        database_of(engine.dialect).refuse_missing(url)
        redact_errors(engine)
        return engine

    def protected_engine(self) -> Engine:
        """Return an engine with the keys and the rollout stage of the environment."""
        return attach_key_ring(self.engine(), self.key_ring(), rollout=self.stage())

    def metadata(self) -> MetaData:
        """Import the models, and return their MetaData."""
        module, _, name = self.models.partition(":")
        sys.path[:0] = [str(Path.cwd()), *configuration.folders()]  # the first one as `python -m` does
        try:
            base = getattr(import_module(module), name)
            metadata = base if isinstance(base, MetaData) else base.metadata
        except Exception as error:  # noqa: BLE001 - it is the user's code that runs here
            self._refuse_models(f"{type(error).__name__}: {error}")
        if not isinstance(metadata, MetaData):
            self._refuse_models("it has no MetaData")
        return metadata

    def tables(self, only: str | None = None) -> list[TableColumns]:
        """Return the tables that have encrypted columns, or the one with a name."""
        found = declared_tables(self.metadata())
        names = [f"{item.schema}.{item.name}" if item.schema else item.name for item in found]
        wanted = [item for item, name in zip(found, names, strict=True) if only in {None, name, item.name}]
        if not wanted:
            raise UnsupportedOperationError(f"--table {only}: no such table has encrypted columns: {', '.join(names)}")
        return wanted

    def _environment(self) -> dict[str, str]:
        """Return the variables of `.env` and of the process, which take precedence; an empty one is absent."""
        try:
            both = (dotenv_values(configuration.env_file()), os.environ)
        except UnicodeDecodeError:  # it holds the file
            both = None
        if both is None:
            raise UnsupportedOperationError(".env is not UTF-8 text; correct or remove it")
        return {name: value for variables in both for name, value in variables.items() if value}

    def _refuse_models(self, problem: str) -> NoReturn:
        raise ColumnDefinitionError(
            f"--models {self.models}: {problem}; it is package.module:Base, where Base is a declarative base or a"
            " MetaData, and the module imports every model"
        )
