"""No statement of a walk reads or sorts a whole table, whatever the planner believes."""

from __future__ import annotations

import re
from threading import Event
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Connection, create_engine, event, func, select, text

from sealchemy import Key, KeyRing, attach_key_ring
from sealchemy._databases import postgresql_parts
from sealchemy._databases.access import open_table
from sealchemy._databases.table import TableColumns
from sealchemy._rewriting.pages import Pages
from sealchemy._rewriting.ranges import ends
from sealchemy._rewriting.walk import Walk
from sealchemy.rewrite import ENCRYPT, REKEY, VERIFY, Options, rewrite

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

KEY = Key.generate()
RING = KeyRing(primary=KEY)
ROWS = 4_500
TABLES = {
    "integer": ("id int PRIMARY KEY", "i"),
    "composite": ("a int, b text, PRIMARY KEY (a, b)", "i / 100, 'k' || i"),
    "uuid": ("id uuid PRIMARY KEY", "md5(i::text)::uuid"),
    "text": ("id text PRIMARY KEY", "md5(i::text)"),
    "partitions": ("id int PRIMARY KEY", "i"),
}


class Plans:
    """Explains every statement on the table `t`, with its parameters, before it runs."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.seen = engine, list[str]()
        event.listen(engine, "before_cursor_execute", self._explain)

    def _explain(self, _connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if re.match(r"(SELECT|UPDATE)", statement) and re.search(r"\bt\b", statement) and "pg_" not in statement:
            cursor.execute(f"EXPLAIN {statement}", parameters)
            self.seen.append(f"{statement}\n" + "\n".join(row[0] for row in cursor.fetchall()))

    def stop(self) -> None:
        event.remove(self.engine, "before_cursor_execute", self._explain)


@pytest.fixture(params=TABLES)
def engine(request: pytest.FixtureRequest, postgresql_url: str, make_engine: Callable[..., Engine]) -> Engine:
    found = make_engine(postgresql_url, RING)
    key, value = TABLES[request.param]
    names = "a, b" if request.param == "composite" else "id"
    is_partitioned = request.param == "partitions"
    with found.begin() as connection:
        partitions = " PARTITION BY RANGE (id)" if is_partitioned else ""
        connection.exec_driver_sql(f"CREATE TABLE t ({key}, access text, refresh text){partitions}")
        for start in range(0, ROWS + 1, ROWS // 3) if is_partitioned else ():
            bounds = f"FROM ({start}) TO ({start + ROWS // 3})"
            connection.exec_driver_sql(f"CREATE TABLE t{start} PARTITION OF t FOR VALUES {bounds}")
        if not is_partitioned:
            connection.exec_driver_sql("ALTER TABLE t SET (autovacuum_enabled = off)")
        connection.exec_driver_sql("ANALYZE t")  # of an empty table
        connection.exec_driver_sql(
            f"INSERT INTO t ({names}, access, refresh) SELECT {value}, 'access ' || i, 'refresh ' || i"
            f" FROM generate_series(1, {ROWS}) AS i"
        )
    return found


@pytest.mark.parametrize(
    "share", [pytest.param(0.01, marks=pytest.mark.soak), 0.5, pytest.param(0.99, marks=pytest.mark.soak)]
)
def test_no_plan_has_a_scan_or_a_sort_of_the_table(engine: Engine, share: float) -> None:
    columns = {"access": "t.access", "refresh": "t.refresh"}
    rewrite(ENCRYPT, engine, "t", columns, options=Options(max_rows=round(ROWS * share)))
    new = KeyRing(primary=Key.generate(), previous=[KEY])
    for conversion in (ENCRYPT, REKEY, VERIFY):
        if conversion is REKEY:
            attach_key_ring(engine, new)
        plans = Plans(engine)
        rewrite(conversion, engine, "t", columns, progress=lambda _: None)
        plans.stop()
        assert len(plans.seen) > 10
        wrong = [plan for plan in plans.seen if re.search(r"Seq Scan|Sort", plan)]
        assert wrong == []
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM t WHERE access LIKE 'sealchemy:v1:%'")) == ROWS


@pytest.mark.parametrize("is_partitioned", [False, True])
def test_the_light_walk_finds_a_row_wherever_it_is(
    is_partitioned: bool, postgresql_url: str, make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql_parts, "_BYTES", 4 * 8192)
    engine = make_engine(postgresql_url, RING)
    with engine.begin() as connection:
        partitions = " PARTITION BY HASH (id)" if is_partitioned else ""
        connection.exec_driver_sql(f"CREATE TABLE t (id integer PRIMARY KEY, access text){partitions}")
        for number in range(3 if is_partitioned else 0):
            connection.exec_driver_sql(
                f"CREATE TABLE t{number} PARTITION OF t FOR VALUES WITH (MODULUS 3, REMAINDER {number})"
            )
        connection.exec_driver_sql(f"INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, {ROWS}) AS i")
    with open_table(engine, TableColumns("t", {"access": "t.access"})) as access:
        walk, key = Walk(access, Pages(access), 1000, Event()), access.target.key[0]
        assert [number for number in range(0, ROWS, 7) if not walk.has(key == number)] == [0]
        assert walk.has(key == ROWS)
        assert not walk.has(key == ROWS + 1)


@pytest.mark.parametrize("range_", [None, '[null, ["3000"]]'])
@pytest.mark.parametrize("statement", ["ALTER TABLE {} ALTER COLUMN n TYPE bigint", "VACUUM FULL {}"])
@pytest.mark.parametrize("is_partitioned", [False, True])
def test_the_light_walk_sees_the_rows_of_a_table_that_is_copied_meanwhile(
    is_partitioned: bool, statement: str, range_: str | None, postgresql_url: str, make_engine: Callable[..., Engine]
) -> None:
    """In its snapshot, the table would look empty."""
    engine = make_engine(postgresql_url, RING)
    with engine.begin() as connection:
        partitions = " PARTITION BY RANGE (id)" if is_partitioned else ""
        connection.exec_driver_sql(f"CREATE TABLE t (id integer PRIMARY KEY, n integer, access text){partitions}")
        if is_partitioned:
            connection.exec_driver_sql("CREATE TABLE t1 PARTITION OF t DEFAULT")
        connection.exec_driver_sql(f"INSERT INTO t SELECT i, i, 'x' FROM generate_series(1, {ROWS}) AS i")
    copies, others = list[str](), create_engine(postgresql_url, isolation_level="AUTOCOMMIT")

    def copy(connection: Connection, _cursor: Any, sent: str, *_: Any) -> None:
        """Copy the table once the snapshot is there, before anything has locked the table."""
        if "lock_timeout" in sent and connection.get_isolation_level() == "REPEATABLE READ" and not copies:
            copies.append(sent)
            table = "t1" if is_partitioned and statement.startswith("VACUUM") else "t"
            with others.connect() as other:
                other.exec_driver_sql(statement.format(table))

    with open_table(engine, TableColumns("t", {"access": "t.access"})) as access:
        pages = Pages(access, None, ends(access, range_)) if range_ else Pages(access)
        walk, key = Walk(access, pages, 1000, Event()), access.target.key[0]
        event.listen(engine, "after_cursor_execute", copy)
        assert walk.has(key == ROWS // 2)
        assert copies
        assert not walk.has(key == ROWS + 1)
    others.dispose()


def test_the_values_of_a_part_are_few_where_they_are_large(
    postgresql_url: str, make_engine: Callable[..., Engine]
) -> None:
    engine = make_engine(postgresql_url, RING)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (id integer PRIMARY KEY, access text)")
        connection.exec_driver_sql("ALTER TABLE t ALTER COLUMN access SET STORAGE EXTERNAL")
        connection.exec_driver_sql("INSERT INTO t SELECT i, repeat('x', 200000) FROM generate_series(1, 2000) AS i")
    with open_table(engine, TableColumns("t", {"access": "t.access"})) as access:
        parts = list(access.database.parts.of(access.connection, access.target))
        counted = select(func.count(), func.coalesce(func.sum(func.length(access.target.columns[0])), 0))
        found = [access.connection.execute(counted.where(part)).one() for part in parts]
        with engine.begin() as connection:
            connection.exec_driver_sql("INSERT INTO t SELECT i, 'late' FROM generate_series(3001, 3500) AS i")
        last = access.connection.execute(counted.where(parts[-1])).one()
    assert sum(count for count, _ in found) == 2000
    assert max(size for _, size in found) < 200_000_000
    assert last[0] > found[-1][0] + 400  # what came meanwhile


@pytest.mark.parametrize("is_partitioned", [False, True])
def test_the_light_walk_and_a_cross_check_read_the_table_in_parts(
    is_partitioned: bool, postgresql_url: str, make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The latter is needed for keys that may not compare as the table orders them."""
    monkeypatch.setattr(postgresql_parts, "_BYTES", 8 * 8192)
    engine, counts, looks = make_engine(postgresql_url, RING), list[str](), list[str]()
    with engine.begin() as connection:
        partitions = " PARTITION BY RANGE (id)" if is_partitioned else ""
        connection.exec_driver_sql(f"CREATE TABLE t (id numeric PRIMARY KEY, access text){partitions}")
        if is_partitioned:
            connection.exec_driver_sql("CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (1000)")
            connection.exec_driver_sql("CREATE TABLE t2 PARTITION OF t DEFAULT")
        connection.exec_driver_sql(f"INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, {ROWS}) AS i")

    def look(_connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "ctid" in statement:
            cursor.execute(f"EXPLAIN {statement}", parameters)
            plan = "\n".join(row[0] for row in cursor.fetchall())
            (counts if statement.startswith("SELECT count") else looks).append(plan)

    event.listen(engine, "before_cursor_execute", look)
    with open_table(engine, TableColumns("t", {"access": "t.access"})) as access:
        assert Pages(access).count() == ROWS
    assert rewrite(ENCRYPT, engine, "t", {"access": "t.access"}).rewritten == ROWS
    assert min(len(counts), len(looks)) > 5
    assert all("Tid Range Scan" in plan and "Seq Scan" not in plan for plan in counts + looks)
