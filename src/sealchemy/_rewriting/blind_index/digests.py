"""`Digests`: the digests that the rows of a page should have, and how they are written.

A release that does not know the index replaces secrets and leaves their old digests behind. So a digest that is there
proves nothing: each secret is decrypted and hashed again.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

from sqlalchemy import bindparam, null, update

from sealchemy._column.engine_keys import engine_keys
from sealchemy._databases.access import Access
from sealchemy._databases.table import RowKey, Target
from sealchemy._rewriting.cipher import Cipher
from sealchemy._rewriting.columns import Columns
from sealchemy._rewriting.conversions import VERIFY
from sealchemy._rewriting.page import Page
from sealchemy._rewriting.walk import Failed
from sealchemy._values.codecs import TEXT
from sealchemy._values.secret import SecretString
from sealchemy.errors import SealchemyError

from .index_columns import IndexColumns


class Digests:
    """The digests of one index, in an open table whose columns are those of `IndexColumns.wanted`."""

    def __init__(self, access: Access, columns: IndexColumns) -> None:
        dialect = access.connection.dialect
        keys, context = engine_keys(dialect), columns.type_.context
        keys.digester(context)  # raises without a key
        self._access, self._names = access, columns
        self._digest, self._reads_plaintext = columns.type_.digester(dialect), keys.reads_plaintext(context)
        cipher = Cipher.of(
            keys.require_ring(context), context, TEXT, None, is_bound=bool(columns.bind_to), accepts_unbound=True
        )
        self._columns = Columns(replace(access, target=_part(access.target, 0)), VERIFY, [cipher])
        self._target = _part(access.target, 1)
        self._writer = cache(partial(access.database.writer, access.connection, self._target, ()))

    def changes(self, page: Page, failures: list[Failed]) -> list[tuple[RowKey, str | None]]:
        """Return the keys of the rows whose digest is not that of their secret, and the right digests."""
        secrets, unread = self._secrets(page, failures), {key for key, *_ in failures}
        changes = []
        for key, secret, stored in zip(page.keys, secrets, page.values[1], strict=True):
            if key in unread:
                continue
            try:
                digest = self._digest(secret)
            except SealchemyError as error:
                failures.append((key, self._names.secret, error))
                continue
            if digest != stored:
                changes.append((key, digest))
        return changes

    def _secrets(self, page: Page, failures: list[Failed]) -> list[Any]:
        stored = page.values[0]
        places = [
            place for place, value in enumerate(stored) if not (self._reads_plaintext and type(value) is SecretString)
        ]
        some = page if len(places) == len(page) else page.take(places)
        some = replace(some, values=some.values[:1])
        (plaintexts,) = self._columns.authenticate(some, lambda *failure: failures.append(failure))
        if some.keys == page.keys:
            return plaintexts
        secrets = list(stored)
        for place, plaintext in zip(places, plaintexts, strict=True):
            secrets[place] = plaintext
        return secrets

    def write(self, changes: Sequence[tuple[RowKey, str | None]]) -> None:
        """Write digests; None clears one."""
        found = [(key, digest) for key, digest in changes if digest is not None]
        if found:
            keys, digests = zip(*found, strict=True)
            self._writer()(keys, [digests], {})
        if cleared := [key for key, digest in changes if digest is None]:
            names = [f"sealchemy_k{at}" for at in range(len(self._target.key))]
            same = [item == bindparam(name) for item, name in zip(self._target.key, names, strict=True)]
            values = {self._names.column: null()} | self._access.database.unchanged(
                self._access.connection, self._target
            )
            rows = [dict(zip(names, key, strict=True)) for key in cleared]
            self._access.connection.execute(update(self._target.table).where(*same).values(values), rows)


def _part(target: Target, at: int) -> Target:
    """Return a target with one of its two columns."""
    return replace(
        target,
        columns=target.columns[at : at + 1],
        contexts=target.contexts[at : at + 1],
        kinds=target.kinds[at : at + 1],
        types=target.types[at : at + 1],
        bind_to=target.bind_to[at : at + 1],
    )
