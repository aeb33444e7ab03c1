"""Flask-Migrate writes and runs our operations, and the checks of pytest-alembic hold."""

from __future__ import annotations

from pathlib import Path

import flask_migrate
import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from pytest_alembic import runner
from pytest_alembic.config import Config
from pytest_alembic.tests import default
from sqlalchemy import create_engine, text
from sqlalchemy.orm import mapped_column

from sealchemy import EncryptedString, Key, KeyRing, Rollout, attach_key_ring


@pytest.mark.filterwarnings("ignore:'get_engine'")
def test_flask_migrate_writes_and_runs_what_is_due(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ring, folder = KeyRing(primary=Key.generate()), str(tmp_path / "migrations")

    def application(is_encrypted: bool) -> tuple[Flask, SQLAlchemy]:
        app = Flask("migrate")
        app.config["SQLALCHEMY_DATABASE_URI"] = url
        db = SQLAlchemy(app)

        class Account(db.Model):  # type: ignore[name-defined] # made above
            __tablename__ = "accounts"

            id = db.Column(db.Integer, primary_key=True)
            token = mapped_column(EncryptedString("accounts.token") if is_encrypted else db.Text)

        options = {"autogenerate_plugins": ["alembic.autogenerate.*", "sealchemy"]} if is_encrypted else {}
        flask_migrate.Migrate(app, db, directory=folder, **options)
        if is_encrypted:
            with app.app_context():
                attach_key_ring(db.engine, ring, rollout=Rollout.MIGRATE)
        return app, db

    app, db = application(is_encrypted=False)
    with app.app_context():
        flask_migrate.init(folder)
        flask_migrate.migrate(message="plain")
        flask_migrate.upgrade()
        db.session.execute(text("INSERT INTO accounts (id, token) VALUES (1, 'ya29.SENTINEL')"))
        db.session.commit()
        db.session.remove()
        db.engine.dispose()
    app, db = application(is_encrypted=True)
    with app.app_context():
        flask_migrate.migrate(message="encrypt")
        flask_migrate.upgrade()
        stored = db.session.scalar(text("SELECT token FROM accounts"))
        assert stored.startswith("sealchemy:v1:")
        assert ring.decrypt(stored, "accounts.token") == "ya29.SENTINEL"
        before = len(list((tmp_path / "migrations/versions").glob("*.py")))
        flask_migrate.migrate(message="nothing is left to be done")
        assert len(list((tmp_path / "migrations/versions").glob("*.py"))) == before
        db.session.remove()
        db.engine.dispose()
    revisions = "".join(path.read_text() for path in (tmp_path / "migrations/versions").glob("*.py"))
    assert "op.encrypt_columns('accounts', {'token': 'accounts.token'}" in revisions
    assert "SENTINEL" not in revisions


@pytest.mark.slow
def test_the_checks_of_pytest_alembic_hold(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its plugin does not start with pytest 9.2, so they are called here."""
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("INTEGRATION_TOKEN_ENCRYPTION_KEY", Key.generate().reveal())
    engine = create_engine(url)
    config = Config(config_options={"script_location": str(Path(__file__).parents[2] / "migrations")})
    with runner(config, engine) as alembic_runner:
        for check in (
            default.test_single_head_revision,
            default.test_upgrade,
            default.test_up_down_consistency,
            default.test_model_definitions_match_ddl,
        ):
            check(alembic_runner)
    engine.dispose()
