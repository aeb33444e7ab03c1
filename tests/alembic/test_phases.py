"""What autogenerate writes in each phase of a rollout, and when it has nothing to say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from alembic import command
from sqlalchemy import Column, Index, Integer, MetaData, String, Table, Text, insert, select, text

from sealchemy import EncryptedJSON, EncryptedString, Key, KeyRing, Rollout, attach_key_ring
from sealchemy.alembic.rendering import MIXED
from tests.support.alembic import Application

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

RING = KeyRing(primary=Key.generate())
OURS = ("widen_columns", "encrypt_columns", "bind_columns", "require_encryption", "allow_plaintext", "decrypt_columns")


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def engine(request: pytest.FixtureRequest, make_engine: Callable[..., Engine], tmp_path: Path) -> Engine:
    url = f"sqlite:///{tmp_path / 'x.db'}"
    return make_engine(url if request.param == "sqlite" else request.getfixturevalue(f"{request.param}_url"), RING)


def models(*more: Any, token: Any = None, name: str = "users") -> MetaData:
    token = EncryptedString("users.token") if token is None else token
    return Table(name, MetaData(), Column("id", Integer, primary_key=True), Column("token", token), *more).metadata


def stage(engine: Engine, rollout: Rollout) -> None:
    attach_key_ring(engine, RING, rollout=rollout)


def ours(script: str) -> list[str]:
    upgrade = script.partition("def upgrade")[2].partition("def downgrade")[0]
    return [name for name in OURS if f"op.{name}(" in upgrade]


def fill(engine: Engine, metadata: MetaData, count: int = 5) -> None:
    with engine.begin() as connection:
        connection.execute(insert(metadata.tables["users"]), [{"token": f"token-{number}"} for number in range(count)])


def project(tmp_path: Path, engine: Engine, rows: int) -> Application:
    before = models(token=String(300))
    before.create_all(engine)
    if rows:
        fill(engine, before, rows)
    return Application(tmp_path, engine, models(), compare_type=True)


def widen(application: Application, engine: Engine) -> None:
    if engine.dialect.name != "sqlite":
        (script,) = application.complete()
        assert ours(script) == ["widen_columns"]


@pytest.mark.parametrize("rows", [0, 5])
def test_each_stage_has_its_revision_and_is_quiet_after_it(engine: Engine, tmp_path: Path, rows: int) -> None:
    application = project(tmp_path, engine, rows)
    stage(engine, Rollout.PREPARE)
    widen(application, engine)
    assert application.is_clean()
    stage(engine, Rollout.MIGRATE)
    (script,) = application.complete()
    assert ours(script) == ["encrypt_columns"]
    stage(engine, Rollout.STRICT)
    (script,) = application.complete()
    assert ours(script) == ["require_encryption"]
    assert "decrypt_columns" not in script
    stage(engine, Rollout.MIGRATE)
    assert application.is_clean()


@pytest.mark.parametrize("rollout", [Rollout.PREPARE, Rollout.MIGRATE])
def test_an_unrelated_change_brings_none_of_our_operations(engine: Engine, tmp_path: Path, rollout: Rollout) -> None:
    application = project(tmp_path, engine, 5)
    stage(engine, Rollout.PREPARE)
    widen(application, engine)
    stage(engine, rollout)
    application.complete()
    application.attributes["metadata"] = models(Column("note", String(20)), Index("ix_note", "note"))
    script = application.autogenerate()
    assert "add_column" in script
    assert ours(script) == []
    application.upgrade()
    assert application.is_clean()


def test_encrypting_is_due_again_only_while_there_is_plaintext(engine: Engine, tmp_path: Path) -> None:
    application = project(tmp_path, engine, 5)
    stage(engine, Rollout.MIGRATE)
    application.complete()
    with engine.begin() as connection:
        connection.execute(text("UPDATE users SET token = 'ya29.plain' WHERE id = 1"))
    stage(engine, Rollout.STRICT)
    scripts = application.complete()
    assert [ours(script) for script in scripts] == [["encrypt_columns"], ["require_encryption"]]


def test_the_downgrade_of_the_requirement_decrypts_nothing(engine: Engine, tmp_path: Path) -> None:
    application = project(tmp_path, engine, 50)
    application.complete()
    application.downgrade("-1", rollout=Rollout.STRICT)
    with engine.connect() as connection:
        stored = connection.scalars(text("SELECT token FROM users")).all()
    assert all(value.startswith("sealchemy:v1:") for value in stored)
    application.upgrade()
    assert application.is_clean()


def test_a_revision_that_takes_its_columns_from_a_constant_is_known(engine: Engine, tmp_path: Path) -> None:
    application = project(tmp_path, engine, 0)
    stage(engine, Rollout.PREPARE)
    widen(application, engine)
    stage(engine, Rollout.MIGRATE)
    application.autogenerate()
    (path,) = [item for item in (application.folder / "versions").glob("*.py") if "op.encrypt_" in item.read_text()]
    source = path.read_text()
    call = "op.encrypt_columns('users', {'token': 'users.token'})"
    assert call in source
    path.write_text(
        source.replace(call, "op.encrypt_columns(TABLE, COLUMNS)")
        + "\nTABLE = 'users'\nCOLUMNS = {'token': 'users.token'}\n"
    )
    application.upgrade()
    assert application.is_clean()


CALLS = {
    "a constant": ("op.encrypt_columns(TABLE, COLUMNS)", True),
    "keywords": ("op.encrypt_columns(table_name='users', columns={'token': 'users.token'})", True),
    "a loop": ("for name in ['users']: op.encrypt_columns(name, {'token': f'{name}.token'})", True),
    "another table": ("op.encrypt_columns('others', {'token': 'others.token'})", False),
    "another column": ("op.encrypt_columns('users', {'other': 'users.token'})", False),
    "another schema": ("op.encrypt_columns('users', {'token': 'users.token'}, schema='s')", False),
}


@pytest.mark.parametrize("call", CALLS)
def test_which_calls_of_a_revision_count(tmp_path: Path, make_engine: Callable[..., Engine], call: str) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'x.db'}", RING, rollout=Rollout.MIGRATE)
    models(token=Text()).create_all(engine)
    for position, (statement, counts) in {"upgrade": CALLS[call], "downgrade": (CALLS[call][0], False)}.items():
        folder = tmp_path / position
        folder.mkdir()
        application = Application(folder, engine, models())
        application.revision("pass", "pass")
        path = application.folder / "versions/r0.py"
        body = f"def {position}():\n    if op is None: pass\n    {statement}"
        source = path.read_text().replace(f"def {position}():\n    pass", body)
        path.write_text(f"# -*- coding: latin-1 -*-\nTABLE, COLUMNS = 'users', {{'token': 'users.token'}}\n{source}")
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE IF EXISTS alembic_version")
        command.stamp(application.config(), "head")
        assert application.is_clean() is counts, position


def test_a_revision_for_another_table_does_not_count(engine: Engine, tmp_path: Path) -> None:
    models(token=Text()).create_all(engine)
    models(token=Text(), name="others").create_all(engine)
    stage(engine, Rollout.MIGRATE)
    application = Application(tmp_path, engine, models(name="others"))
    application.attributes["configure"]["include_name"] = lambda name, kind, _parents: (
        kind != "table" or name == "others"
    )
    application.complete()
    application.attributes["metadata"] = models()
    application.attributes["configure"]["include_name"] = lambda name, kind, _parents: (
        kind != "table" or name == "users"
    )
    assert [ours(script) for script in application.complete()][-1] == ["encrypt_columns"]


def test_values_that_are_encrypted_already_need_no_revision_that_encrypts(engine: Engine, tmp_path: Path) -> None:
    models().create_all(engine)
    fill(engine, models())
    application = Application(tmp_path, engine, models())
    assert [ours(script) for script in application.complete()] == [["require_encryption"]]


@pytest.mark.parametrize("type_", [EncryptedString("users.more"), EncryptedJSON("users.more")])
def test_a_new_column_that_is_not_null_does_not_end_halfway(engine: Engine, tmp_path: Path, type_: Any) -> None:
    models(token=Text()).create_all(engine)
    fill(engine, models(token=Text()))
    application = Application(tmp_path, engine, models(Column("more", type_, nullable=False), token=Text()))
    script = application.autogenerate()
    assert "sa.Column('more'" in script
    assert "nullable=True" in script
    assert ours(script) == ["require_encryption"]
    application.upgrade()
    metadata = application.attributes["metadata"]
    users = metadata.tables["users"]
    with engine.begin() as connection:
        connection.execute(users.update().values(more="filled"))
    if engine.dialect.name == "sqlite":
        application.attributes["configure"]["render_as_batch"] = True
        assert "nullable=False" in application.autogenerate()
        return  # batch mode copies the table, which this library's own operations never do
    (script,) = application.complete()
    assert "nullable=False" in script
    with engine.connect() as connection:
        assert set(connection.scalars(select(users.c.more))) == {"filled"}


def test_a_new_table_waits_for_its_requirement_until_the_stage_is_strict(engine: Engine, tmp_path: Path) -> None:
    stage(engine, Rollout.MIGRATE)
    application = Application(tmp_path, engine, models())
    script = application.autogenerate()
    assert ours(script) == []
    application.upgrade()
    fill(engine, models())
    assert application.is_clean()
    stage(engine, Rollout.STRICT)
    assert [ours(script) for script in application.complete()] == [["require_encryption"]]


def test_without_a_key_ring_the_stage_is_strict(tmp_path: Path, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'x.db'}")
    models(token=Text()).create_all(engine)
    assert ours(Application(tmp_path, engine, models()).autogenerate()) == ["encrypt_columns"]


def test_a_revision_with_other_changes_says_that_they_are_committed(engine: Engine, tmp_path: Path) -> None:
    application = project(tmp_path, engine, 5)
    if engine.dialect.name != "sqlite":
        assert MIXED not in application.autogenerate()
        application.upgrade()
    application.attributes["metadata"] = models(Column("note", String(20)))
    script = application.autogenerate()
    assert f"{MIXED}\n    # the values are taken for plaintext" in script
    application.upgrade()
    assert MIXED not in application.autogenerate()
