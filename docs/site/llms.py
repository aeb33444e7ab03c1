"""Write `docs/llms.txt`, the list of pages for language models (llmstxt.org): `python docs/site/llms.py`."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[1]
NAVIGATION = Path(__file__).with_name("mkdocs.yml")
HEAD = """# sealchemy

> Encrypted columns for SQLAlchemy, an in-place migration from plaintext that is safe on a live table, and a ready-made
> table of OAuth tokens that keeps them valid. Install with `pip install "sealchemy[all]"`.

Declare `EncryptedString("table.column")` on a column, and call `attach_key_ring(engine, KeyRing.from_env("PREFIX"))`
where the engine is made. The name in `EncryptedString` is permanent. Do not catch `DecryptionError` to go on without
the value, and do not compare an encrypted column with a value unless it has a `BlindIndex`. Run `sealchemy plan` before
a migration, and migrate a live table in the phases of the developer playbook.

## Start
"""


def text() -> str:
    """Return what the file has to be: the pages in the order of the navigation."""
    lines = [HEAD]
    navigation = NAVIGATION.read_text().split("\nnav:\n")[1]
    for title, page in re.findall(r"^ +- (?:([\w -]+):|([\w/.-]+\.md))$", navigation, re.MULTILINE):
        lines.append(f"\n## {title}\n" if title else _entry(page))
    return "\n".join(lines) + "\n"


def _entry(page: str) -> str:
    title = (DOCS / page).read_text().partition("\n")[0].removeprefix("# ").strip()
    return f"- [{title}]({re.sub(r'(?:index)?[.]md$', '', page).rstrip('/') or '.'}/)"


if __name__ == "__main__":
    (DOCS / "llms.txt").write_text(text())
