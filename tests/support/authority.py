"""A certificate authority of a test, and the files of what it issued."""

from __future__ import annotations

import ssl
from pathlib import Path

import trustme


class Authority:
    """A certificate authority, and the files of what it issued."""

    def __init__(self, folder: Path) -> None:
        self.authority, self.folder = trustme.CA(), folder
        self.file = str(folder / "authority.pem")
        self.authority.cert_pem.write_to_path(self.file)

    def files(self, name: str) -> tuple[str, str]:
        issued = self.authority.issue_cert(name)
        certificate, key = str(self.folder / f"{name}.pem"), str(self.folder / f"{name}.key")
        issued.private_key_pem.write_to_path(key)
        issued.cert_chain_pems[0].write_to_path(certificate)
        return certificate, key

    def context(self, requires: ssl.VerifyMode) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.file)
        self.authority.issue_cert("localhost").configure_cert(context)
        context.verify_mode = requires
        return context
