"""Flask-Security keeps its TOTP secrets and recovery codes encrypted, through its own two-factor sign-in."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from flask_security import Security, SQLAlchemyUserDatastore, hash_password
from flask_security.models import fsqla_v3
from flask_sqlalchemy import SQLAlchemy
from passlib.totp import TOTP
from sqlalchemy import select, text
from sqlalchemy.ext.mutable import MutableList
from sqlalchemy.orm import mapped_column

from sealchemy import EncryptedJSON, EncryptedString, KeyRing, attach_key_ring

PASSWORD = "a password of this test"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_sign_in_with_two_factors(url: str, ring: KeyRing) -> None:
    app = Flask("security")
    app.config.update(
        SQLALCHEMY_DATABASE_URI=url,
        SECRET_KEY="test",
        SECURITY_PASSWORD_SALT="1",
        SECURITY_PASSWORD_HASH="plaintext",
        SECURITY_PASSWORD_SINGLE_HASH=["plaintext"],
        SECURITY_TWO_FACTOR=True,
        SECURITY_TWO_FACTOR_ENABLED_METHODS=["authenticator"],
        SECURITY_MULTI_FACTOR_RECOVERY_CODES=True,
        SECURITY_UNIFIED_SIGNIN=True,
        SECURITY_US_ENABLED_METHODS=["password", "authenticator"],
        SECURITY_TOTP_SECRETS={"1": "test"},
        SECURITY_TOTP_ISSUER="test",
        WTF_CSRF_ENABLED=False,
    )
    db = SQLAlchemy(app)
    fsqla_v3.FsModels.set_db_info(db)

    class Role(db.Model, fsqla_v3.FsRoleMixin):  # type: ignore[name-defined] # made above
        pass

    class User(db.Model, fsqla_v3.FsUserMixin):  # type: ignore[name-defined] # made above
        tf_totp_secret = mapped_column(EncryptedString("user.tf_totp_secret"))
        us_totp_secrets = mapped_column(EncryptedString("user.us_totp_secrets"))
        mf_recovery_codes = mapped_column(
            MutableList.as_mutable(EncryptedJSON("user.mf_recovery_codes")), nullable=True
        )

    security = Security(app, SQLAlchemyUserDatastore(db, User, Role))
    with app.app_context():
        attach_key_ring(db.engine, ring)
        db.create_all()
        security.datastore.create_user(email="ann@example.com", password=hash_password(PASSWORD))
        db.session.commit()

    def post(browser: Any, path: str, **given: str) -> Any:
        answer = browser.post(path, json=given, headers={"Accept": "application/json"})
        assert answer.status_code == 200, answer.json
        return answer.json["response"]

    browser = app.test_client()
    post(browser, "/login", email="ann@example.com", password=PASSWORD)
    said = post(browser, "/us-setup", chosen_method="authenticator")
    unified = TOTP(key=said["authr_key"])
    post(browser, f"/us-setup/{said['state']}", passcode=unified.generate().token)
    said = post(browser, "/tf-setup", setup="authenticator")
    totp = TOTP(key=said["tf_authr_key"])
    validate = f"/tf-setup/{said['tf_state_token']}" if "tf_state_token" in said else "/tf-validate"
    post(browser, validate, code=totp.generate().token)
    codes = post(browser, "/mf-recovery-codes")["recovery_codes"]

    browser = app.test_client()
    said = post(browser, "/login", email="ann@example.com", password=PASSWORD)
    assert said["tf_required"]
    post(browser, "/tf-validate", code=totp.generate().token)

    browser = app.test_client()
    post(browser, "/us-signin", identity="ann@example.com", passcode=unified.generate().token)
    for code, status in ((codes[0], 200), (codes[0], 400), (codes[1], 200)):  # each of them works once
        browser = app.test_client()
        post(browser, "/login", email="ann@example.com", password=PASSWORD)
        answer = browser.post("/mf-recovery", json={"code": code}, headers={"Accept": "application/json"})
        assert answer.status_code == status

    with app.app_context():
        columns = "tf_totp_secret, us_totp_secrets, mf_recovery_codes"
        row = db.session.execute(text(f'SELECT {columns} FROM "user"')).one()
        assert all(value.startswith("sealchemy:v1:") for value in row)
        user = db.session.scalars(select(User)).one()
        assert user.tf_totp_secret
        assert list(user.mf_recovery_codes) == codes[2:]
        assert codes[2] not in repr(user.mf_recovery_codes)
        db.session.remove()
        db.engine.dispose()
