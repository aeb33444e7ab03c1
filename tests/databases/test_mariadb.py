"""MariaDB: the column type, rewrites, the service, and the CHECK."""

from __future__ import annotations

import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Column, Integer, MetaData, String, Table, Text, Uuid, event, insert, inspect, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session, sessionmaker

from sealchemy import Key, KeyRing, attach_key_ring
from sealchemy.integrations import Base, TokenGrant, disconnect_integration, get_valid_token, upsert_integration
from sealchemy.rewrite import DECRYPT, ENCRYPT, REKEY, VERIFY, Options, RewriteError, rewrite
from sealchemy.status import column_status
from tests.support.leaks import assert_silent
from tests.support.models import Account, create
from tests.support.tables import COLUMNS, grants, raw

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

    from tests.support.provider import Provider

RING = KeyRing(primary=Key.generate())


@pytest.fixture
def engine(mariadb_url: str, make_engine: Callable[..., Engine]) -> Engine:
    return make_engine(mariadb_url, RING)


def test_column_holds_long_values(engine: Engine) -> None:
    create(engine)
    with Session(engine) as session:
        session.add(Account(token="x" * 100_000))
        session.commit()
        assert session.get_one(Account, 1).token == "x" * 100_000


def test_encrypt_rekey_and_decrypt_restore_the_table(engine: Engine) -> None:
    before = grants(engine, 1200)
    assert rewrite(ENCRYPT, engine, "grants", COLUMNS).rewritten == 1200
    rewrite(VERIFY, engine, "grants", COLUMNS)
    attach_key_ring(engine, KeyRing(primary=Key.generate(), previous=[RING.primary]))
    assert rewrite(REKEY, engine, "grants", COLUMNS, options=Options(batch_size=100)).rewritten == 1200
    status, _ = column_status(engine, "grants", COLUMNS)
    assert (status.null, status.plaintext, status.unknown, sum(status.keys.values())) == (0, 0, 0, 1200)
    assert rewrite(DECRYPT, engine, "grants", COLUMNS).rewritten == 1200
    assert raw(engine) == before


def test_integration_service_works_in_another_time_zone(engine: Engine, oauth_provider: Provider) -> None:
    with engine.begin() as connection:  # another time zone; the service uses UTC
        connection.execute(text("SET time_zone = '+05:00'"))
    Base.metadata.create_all(engine)
    sessions, client, token = sessionmaker(engine), oauth_provider.client(), oauth_provider.grant()
    whose: dict[str, Any] = {"user_id": "u1", "provider": "google"}
    for expires_in in (600, 0):
        with sessions.begin() as session:
            grant = TokenGrant(
                access_token=token.access_token, refresh_token=token.refresh_token, expires_in=expires_in
            )
            upsert_integration(session, **whose, grant=grant)
        oauth_provider.delay = 1
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(get_valid_token, sessions, **whose, client=client) for _ in range(8)]
            tokens = {item.result() for item in asked}
        assert len(tokens) == 1
        assert (tokens == {token.access_token}) == bool(expires_in)
    assert oauth_provider.counts["/token"] == 1
    disconnect_integration(sessions, **whose, client=client)
    assert all(item.revoked for item in oauth_provider.tokens)


def test_prefix_match_is_case_sensitive(engine: Engine) -> None:
    grants(engine, 0)
    upper = RING.encrypt("x", "grants.access").upper()
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO grants (id, access) VALUES (1, :value)"), {"value": upper})
    assert column_status(engine, "grants", COLUMNS)[0].plaintext == 1
    assert rewrite(ENCRYPT, engine, "grants", COLUMNS).rewritten == 1


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ([Column("k", String(40))], [(f"k{number}",) for number in range(25)]),
        ([Column("k", Uuid)], [(uuid.uuid4(),) for _ in range(25)]),
        ([Column("a", Integer), Column("b", String(9))], [(n // 7, f"b{n}") for n in range(25)]),
        ([Column("a", Integer), Column("b", Integer), Column("c", Integer)], [(n // 9, n // 3, n) for n in range(25)]),
    ],
    ids=["text", "uuid", "two columns", "three columns"],
)
def test_any_primary_key_type_and_quoted_names_work(
    engine: Engine, key: list[Column[Any]], values: list[tuple[Any, ...]]
) -> None:
    columns = [Column(item.name, item.type, primary_key=True, autoincrement=False) for item in key]
    table = Table("Integration", MetaData(), *columns, Column("accessToken", Text))
    table.create(engine)
    names = [item.name for item in key]
    with engine.begin() as connection:
        connection.execute(
            insert(table), [dict(zip(names, value, strict=True)) | {"accessToken": f"t{value}"} for value in values]
        )
    contexts = {"accessToken": "i.access"}
    report = rewrite(ENCRYPT, engine, "Integration", contexts, options=Options(batch_size=4))
    assert report.rewritten == 25
    with engine.connect() as connection:
        for *found, stored in connection.execute(table.select()):
            assert RING.decrypt(stored, "i.access") == f"t{tuple(found)}"


def test_auto_updating_timestamps_are_left_unchanged(engine: Engine) -> None:
    grants(engine, 3)
    with engine.begin() as connection:
        kind = "TIMESTAMP NOT NULL DEFAULT '2020-01-01 00:00:00' ON UPDATE CURRENT_TIMESTAMP"
        connection.exec_driver_sql(f"ALTER TABLE grants ADD COLUMN `updated at` {kind}")
    rewrite(ENCRYPT, engine, "grants", COLUMNS)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM grants WHERE `updated at` < '2021-01-01'")) == 3


def test_rows_locked_by_other_sessions_are_waited_for_and_then_reported(engine: Engine) -> None:
    before = grants(engine, 25)
    with engine.connect() as holder:
        holder.execute(text("SELECT 1 FROM grants WHERE id IN (4, 9) FOR UPDATE"))
        with pytest.raises(RewriteError, match="2 rows were locked") as caught:
            rewrite(ENCRYPT, engine, "grants", COLUMNS, options=Options(lock_timeout=1))
        assert_silent(caught.value, "access-SENTINEL")
        assert caught.value.report is not None
        assert caught.value.report.rewritten == 23
        threading.Timer(0.5, holder.rollback).start()
        assert rewrite(ENCRYPT, engine, "grants", COLUMNS).rewritten == 2
        time.sleep(0.1)
    assert rewrite(DECRYPT, engine, "grants", COLUMNS).rewritten == 25
    assert raw(engine) == before


def test_batch_is_not_committed_if_the_database_truncates_a_value(engine: Engine) -> None:
    before = grants(engine, 3, type_=String(60))

    @event.listens_for(engine, "connect")
    def be_lenient(connection: Any, _record: object) -> None:  # not for the whole server, which other tests use
        connection.cursor().execute("SET SESSION sql_mode = ''")

    engine.dispose()
    with pytest.raises(RewriteError, match=r"grants\.access, primary key \(1,\).*does not keep"):
        rewrite(ENCRYPT, engine, "grants", COLUMNS)
    assert raw(engine) == before


def test_operations_require_and_remove_encryption(engine: Engine) -> None:
    before = grants(engine, 5, type_=String(60, collation="utf8mb4_bin"))
    with engine.connect() as connection:
        op: Any = Operations(MigrationContext.configure(connection))
        op.encrypt_columns("grants", COLUMNS)
        types = {item["name"]: item["type"] for item in inspect(engine).get_columns("grants")}
        assert repr(types["access"]) == "MEDIUMTEXT(charset='utf8mb4', collation='utf8mb4_bin')"
        op.require_encryption("grants", COLUMNS)
        op.require_encryption("grants", COLUMNS)
        with pytest.raises(DBAPIError, match="ck_grants_access_encrypted") as caught:
            connection.execute(text("INSERT INTO grants (id, access) VALUES (9, 'access-SENTINEL')"))
        assert isinstance(caught.value, OperationalError)
        connection.rollback()
        op.allow_plaintext("grants", COLUMNS)
    rewrite(DECRYPT, engine, "grants", COLUMNS)
    assert raw(engine) == before
