"""Convert and authenticate the columns of a page: at once where that is possible, else value by value."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

from sealchemy._column.engine_keys import engine_keys
from sealchemy._column.rollout import Rollout
from sealchemy._databases.access import Access
from sealchemy._databases.table import RowKey
from sealchemy._values import rows
from sealchemy._values.secret import SecretString
from sealchemy.errors import PlaintextTypeError, SealchemyError

from .cipher import Cipher, LegacyReader
from .conversions import DECRYPT, ENCRYPT, REKEY, VERIFY, Change, Conversion, NotAtOnceError
from .page import Page

OnFailure: TypeAlias = Callable[[RowKey, str, SealchemyError], None]


@dataclass(frozen=True)
class Written:
    """What changes in a page: the keys of its rows, and for each column the new values and their plaintexts.

    They are None where a value stays as it is.
    """

    keys: Sequence[RowKey]
    stored: Sequence[Sequence[str | None]]
    plaintexts: Sequence[Sequence[SecretString | None]]


class Columns:
    """What a conversion does to the columns of a table."""

    @classmethod
    def of(cls, access: Access, conversion: Conversion, legacy_reader: LegacyReader | None = None) -> Self:
        """Return it for an open table, with the keys and the rollout stages of its engine."""
        keys, target = engine_keys(access.connection.dialect), access.target
        ciphers = [
            Cipher.of(
                keys.require_ring(target.name),
                context,
                kind,
                legacy_reader,
                is_bound=bool(bind_to),
                accepts_unbound=conversion is not VERIFY or keys.stage(context) is not Rollout.STRICT,
            )
            for context, kind, bind_to in zip(target.contexts, target.kinds, target.bind_to, strict=True)
        ]
        return cls(access, conversion, ciphers)

    def __init__(self, access: Access, conversion: Conversion, ciphers: Sequence[Cipher]) -> None:
        self._conversion, self._ciphers, self._target = conversion, ciphers, access.target
        self._database = access.database
        names = list(access.target.parts)
        self._parts = [[names.index(name) for name in bind_to] for bind_to in access.target.bind_to]

    def convert(self, page: Page) -> Written:
        """Return what changes; values that cannot be read stay as they are."""
        stored: list[list[str | None]] = []
        plaintexts: list[list[SecretString | None]] = []
        changed: set[int] = set()
        for index, values in enumerate(page.values):
            places, new, texts = self._convert(page, index)
            changed.update(places)
            stored.append(_spread(places, new, len(values)))
            plaintexts.append(_spread(places, texts, len(values)))
        if len(changed) == len(page):
            return Written(page.keys, stored, plaintexts)
        rows = sorted(changed)
        return Written(
            [page.keys[row] for row in rows],
            [[column[row] for row in rows] for column in stored],
            [[column[row] for row in rows] for column in plaintexts],
        )

    def _convert(self, page: Page, index: int) -> tuple[Sequence[int], Any, Any]:
        cipher, values = self._ciphers[index], page.values[index]
        try:
            return self._conversion.convert_all(cipher, values, self._row_data(page, index))
        except SealchemyError:
            pass
        found = list(self._one_by_one(page, index, _ignore))
        places = [place for place, change in found if change is not None]
        changes = [change for _, change in found if change is not None]
        return places, [change.stored for change in changes], [change.plaintext for change in changes]

    def _one_by_one(self, page: Page, index: int, on_failure: OnFailure) -> Iterator[tuple[int, Change | None]]:
        """Yield the place and the change of each value that can be read."""
        cipher, name = self._ciphers[index], self._target.columns[index].name
        for place, stored in enumerate(page.values[index]):
            if stored is None:
                continue
            try:
                change = self._conversion.convert(self._enter(page, index, place), stored)
                if change is not None:
                    self._require_storable(change, cipher)
                yield place, change
            except SealchemyError as error:
                on_failure(page.keys[place], name, error)

    def _require_storable(self, change: Change, cipher: Cipher) -> None:
        if self._conversion is DECRYPT and not self._database.can_store(change.stored or ""):
            raise PlaintextTypeError(f"{cipher.context}: this database cannot store the plaintext, which has a NUL")

    def _enter(self, page: Page, index: int, place: int) -> Cipher:
        """Return the functions for a column in a row."""
        cipher = self._ciphers[index]
        if self._parts[index]:
            cipher.enter([page.parts[part][place] for part in self._parts[index]])
        return cipher

    def _row_data(self, page: Page, index: int) -> list[bytes] | None:
        """Return the associated data of the rows of a column that is bound to them.

        Raises:
            NotAtOnceError: to a row among them nothing can be bound.
        """
        if not self._parts[index]:
            return None
        parts = [page.parts[part] for part in self._parts[index]]
        if any(part is None or "\n" in part for column in parts for part in column):
            raise NotAtOnceError
        try:
            return [rows.associated_data(row) for row in zip(*parts, strict=True)]
        except UnicodeEncodeError as error:
            raise NotAtOnceError from error

    def survey(self, page: Page, on_failure: OnFailure) -> list[RowKey]:
        """Return the keys of the rows that are pending."""
        pending: set[int] = set()
        for index, values in enumerate(page.values):
            try:
                if self._conversion in {ENCRYPT, VERIFY} or self._is_rekeyed(index, values):
                    self._ciphers[index].decrypt_all(values, self._row_data(page, index))
                    continue
            except SealchemyError:
                pass
            changes = self._one_by_one(page, index, on_failure)
            pending.update(place for place, change in changes if change is not None)
        return [page.keys[place] for place in sorted(pending)]

    def _is_rekeyed(self, index: int, values: Sequence[Any]) -> bool:
        """Return whether this is a rekey, and all values are under the key that it gives them."""
        current = self._ciphers[index].current
        return self._conversion is REKEY and all(
            value is None or (isinstance(value, str) and value.startswith(current)) for value in values
        )

    def authenticate(self, page: Page, on_failure: OnFailure) -> list[list[Any]]:
        """Return the plaintexts of the columns: None for a value that is pending, or cannot be read."""
        return [self._authenticate(page, index, on_failure) for index in range(len(page.values))]

    def _authenticate(self, page: Page, index: int, on_failure: OnFailure) -> list[Any]:
        values = page.values[index]
        if self._conversion is DECRYPT and all(value is None or type(value) is SecretString for value in values):
            return values
        try:
            return self._ciphers[index].decrypt_all(values, self._row_data(page, index))
        except SealchemyError:
            plaintexts: list[Any] = [None] * len(values)
        for place, change in self._one_by_one(page, index, on_failure):
            if change is None:
                plaintexts[place] = self._plaintext(page, index, place)
        return plaintexts

    def _plaintext(self, page: Page, index: int, place: int) -> Any:
        stored = page.values[index][place]
        return stored if self._conversion is DECRYPT else self._enter(page, index, place).decrypt(stored)

    def is_same(self, index: int, found: Any, plaintext: SecretString) -> bool:
        """Return whether what the database has now stands for a plaintext that was written."""
        is_same_json = self._conversion is DECRYPT and self._ciphers[index].is_same_json(found, plaintext)
        return bool(found == plaintext) or is_same_json


def _spread(places: Sequence[int], values: Sequence[Any], size: int) -> list[Any]:
    if len(places) == size:
        return list(values)
    spread: list[Any] = [None] * size
    for place, value in zip(places, values, strict=True):
        spread[place] = value
    return spread


def _ignore(_key: RowKey, _column: str, _error: SealchemyError) -> None:
    pass
