"""Runs over ranges of the primary key."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event, text

from sealchemy import Key, KeyRing, Rollout, UnsupportedOperationError
from sealchemy.rewrite import ENCRYPT, VERIFY, Options, rewrite, split

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

RING = KeyRing(primary=Key.generate())
COLUMNS = {"token": "t.token"}
KEYS = {
    "integer": ("id INTEGER", "i"),
    "bigint, backwards": ("id BIGINT", "10000 - i"),
    "text": ("id TEXT", "md5(i::text)"),
    "text in any language": ('id TEXT COLLATE "und-x-icu"', "chr(97 + mod(i, 26)) || 'é' || i"),
    "text in the order of English": ('id TEXT COLLATE "en-x-icu"', "substr('oSaXbYcZ', 1 + mod(i, 8), 1) || i"),
    "uuid": ("id UUID", "md5(i::text)::uuid"),
    "timestamp": ("id TIMESTAMPTZ", "timestamptz '2024-01-01' + i * interval '1 second'"),
    "numeric": ("id NUMERIC", "i / 7.0"),
    "bytes": ("id BYTEA", "decode(md5(i::text), 'hex')"),
    "date, negative": ("id DATE", "date '1999-01-01' - i"),
}
ROWS = 3000


@pytest.fixture
def engine(postgresql_url: str, make_engine: Callable[..., Engine]) -> Engine:
    return make_engine(postgresql_url, RING, rollout=Rollout.MIGRATE)


def create(engine: Engine, key: str, value: str, rows: int = ROWS, more: str = "") -> None:
    with engine.begin() as connection:
        names = key.split(maxsplit=1)[0]
        connection.exec_driver_sql(f"CREATE TABLE t ({key}, token TEXT, PRIMARY KEY ({names})) {more}")
        connection.exec_driver_sql(
            f"INSERT INTO t SELECT {value}, repeat('S', 50) || i FROM generate_series(1, {rows}) AS i"
        )


def plaintext(engine: Engine) -> int:
    with engine.connect() as connection:
        return connection.scalar(text("SELECT count(*) FROM t WHERE token NOT LIKE 'sealchemy:%'")) or 0


def encrypt(engine: Engine, line: str) -> int:
    return rewrite(ENCRYPT, engine, "t", COLUMNS, options=Options(range=line, batch_size=100)).rewritten


@pytest.mark.slow
@pytest.mark.parametrize("kind", KEYS)
def test_ranges_are_the_table_and_do_not_overlap(engine: Engine, kind: str) -> None:
    create(engine, *KEYS[kind])
    ranges = split(engine, "t", 8)
    assert len(ranges) == 8
    assert [json.loads(line)[0] for line in ranges][1:] == [json.loads(line)[1] for line in ranges][:-1]
    assert (json.loads(ranges[0])[0], json.loads(ranges[-1])[1]) == (None, None)
    left, counts = ROWS, []
    for line in reversed(ranges):  # in any order
        counts.append(encrypt(engine, line))
        left -= counts[-1]
        assert plaintext(engine) == left
        assert encrypt(engine, line) == 0
    assert left == 0
    assert max(counts) <= 3 * ROWS / 8
    assert rewrite(VERIFY, engine, "t", COLUMNS).failed == 0


def test_ranges_of_a_composite_key_and_of_partitions(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE t (a INTEGER, b TEXT, token TEXT, PRIMARY KEY (a, b)) PARTITION BY RANGE (a)"
        )
        for number in range(4):
            bounds = f"FROM ({number * 10}) TO ({number * 10 + 10})"
            connection.exec_driver_sql(f"CREATE TABLE t{number} PARTITION OF t FOR VALUES {bounds}")
        connection.exec_driver_sql(
            f"INSERT INTO t SELECT mod(i, 40), 'k' || i, 'S' || i FROM generate_series(1, {ROWS}) AS i"
        )
    ranges = split(engine, "t", 5)
    counts = [encrypt(engine, line) for line in ranges]
    assert sum(counts) == ROWS
    assert max(counts) <= 3 * ROWS / 5


@pytest.mark.parametrize("rows", [0, 1, 2, 5])
def test_a_small_table_has_fewer_ranges(engine: Engine, rows: int) -> None:
    create(engine, *KEYS["integer"], rows=rows)
    ranges = split(engine, "t", 64)
    assert len(ranges) == max(rows, 1)
    assert sum(encrypt(engine, line) for line in ranges) == rows


def test_rows_at_the_ends_belong_to_one_range(engine: Engine) -> None:
    create(engine, *KEYS["integer"], rows=30)
    assert encrypt(engine, '[["10"], ["20"]]') == 10
    with engine.connect() as connection:
        done = connection.scalars(text("SELECT id FROM t WHERE token LIKE 'sealchemy:%' ORDER BY id")).all()
    assert done == list(range(11, 21))


def test_a_range_does_not_read_the_rest_of_the_table(engine: Engine) -> None:
    create(engine, *KEYS["integer"])
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE t SET token = 'sealchemy:v1:damaged' WHERE id > 2000")
    report = rewrite(ENCRYPT, engine, "t", COLUMNS, options=Options(range='[["5"],["100"]]'))
    assert (report.rewritten, report.failed) == (95, 0)
    assert rewrite(VERIFY, engine, "t", COLUMNS, options=Options(range='[["5"],["100"]]')).failed == 0


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "a range is a line of JSON"),
        ("[]", "a range is a line of JSON"),
        ("[null]", "a range is a line of JSON"),
        ("[1, 2]", "a range is a line of JSON"),
        ("[[1], [2]]", "a range is a line of JSON"),
        ("[[], null]", "a range is a line of JSON"),
        ('{"low": 1}', "a range is a line of JSON"),
        ('[["1"], ["2"], ["3"]]', "a range is a line of JSON"),
        ('[["20"], ["10"]]', "does not come before"),
        ('[["10"], ["10"]]', "does not come before"),
        ('[["1", "2"], null]', "not primary keys of"),
        ('[["x"], null]', "not primary keys of"),
        ('[["\\ud800"], null]', "not primary keys of"),
        ('[null, ["99999999999999999999"]]', "not primary keys of"),
    ],
)
def test_a_line_that_is_no_range_of_the_table_is_refused(engine: Engine, line: str, says: str) -> None:
    create(engine, *KEYS["integer"], rows=3)
    with pytest.raises(UnsupportedOperationError, match=says):
        encrypt(engine, line)
    assert plaintext(engine) == 3


@pytest.mark.parametrize("kind", ["sqlite", "mariadb"])
def test_other_databases_say_that_they_need_no_ranges(
    request: pytest.FixtureRequest, make_engine: Callable[..., Engine], tmp_path: Any, kind: str
) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}" if kind == "sqlite" else request.getfixturevalue("mariadb_url")
    engine = make_engine(url, RING, rollout=Rollout.MIGRATE)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (id INTEGER PRIMARY KEY, token VARCHAR(900))"))
    with pytest.raises(UnsupportedOperationError, match="only PostgreSQL supports ranges"):
        split(engine, "t", 4)
    with pytest.raises(UnsupportedOperationError, match="only PostgreSQL supports ranges"):
        rewrite(ENCRYPT, engine, "t", COLUMNS, options=Options(range='[null, ["5"]]'))


def test_no_statement_of_a_range_reads_the_whole_table(engine: Engine) -> None:
    create(engine, *KEYS["text"], rows=20_000)
    (line, *_) = split(engine, "t", 64)
    statements: list[tuple[str, Any]] = []

    @event.listens_for(engine, "before_cursor_execute")
    def _collect(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: object) -> None:
        if " t" in statement and statement.lstrip().startswith("SELECT"):
            statements.append((statement, parameters))

    encrypt(engine, line)
    event.remove(engine, "before_cursor_execute", _collect)
    counts = [item for item, _ in statements if "count(*)" in item or "max(" in item]
    assert all("WHERE" in item for item in counts)
    with engine.connect() as connection:
        connection.execute(text("SET enable_seqscan = off"))
        for statement, parameters in statements:
            if "FROM t" in statement or ".t " in statement:
                plan = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars().all()
                assert "Seq Scan on t" not in "\n".join(plan), statement
