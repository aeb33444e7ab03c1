"""Draw the diagrams of the documentation: `python docs/site/diagrams.py` writes `docs/images/*.svg`.

They are drawn 400 units wide, so that their text is readable on a phone, and follow the reader's light or dark scheme.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path

IMAGES = Path(__file__).parents[1] / "images"
WIDTH, LINE = 400, 18
STYLE = """
  svg { font: 13px system-ui, sans-serif; --ink: #1f2430; --soft: #5b6270; --paper: #ffffff; --line: #b9c0cc;
        --cipher: #e3f1e5; --plain: #fbe6e3; --cipher-ink: #14602a; --plain-ink: #a11f14; --fill: #eef1f6 }
  @media (prefers-color-scheme: dark) {
    svg { --ink: #e6e9ef; --soft: #a6aebb; --paper: #1b1f27; --line: #4b5361;
          --cipher: #173822; --plain: #47211d; --cipher-ink: #8fe0a6; --plain-ink: #ffb0a6; --fill: #272d38 }
  }
  text { fill: var(--ink) } .soft { fill: var(--soft) } .bold { font-weight: 600 }
  .mono { font-family: ui-monospace, monospace; font-size: 12px }
  .cipher { fill: var(--cipher-ink) } .plain { fill: var(--plain-ink) }
  rect { fill: var(--fill); stroke: var(--line) } rect.paper { fill: var(--paper); stroke: none }
  rect.cipher { fill: var(--cipher) } rect.plain { fill: var(--plain) }
  path { fill: none; stroke: var(--soft); stroke-width: 1.3 } path.tip { fill: var(--soft); stroke: none }
"""


class Drawing:
    """Shapes, one after the other, and how far down they reach."""

    def __init__(self, title: str, description: str) -> None:
        self.title, self.description = title, description
        self.shapes: list[str] = []
        self.height = 0.0

    def _reach(self, y: float) -> None:
        self.height = max(self.height, y)

    def text(self, x: float, y: float, text: str, style: str = "", anchor: str = "start") -> None:
        """Write a line of text, whose baseline is at `y`."""
        self._reach(y + 6)
        self.shapes.append(f'<text x="{x:g}" y="{y:g}" class="{style}" text-anchor="{anchor}">{escape(text)}</text>')

    def box(self, x: float, y: float, width: float, lines: list[str], style: str = "", *, mono: bool = False) -> float:
        """Draw a box around lines of text, the first of which is bold, and return where it ends."""
        height = LINE * len(lines) + 14
        self._reach(y + height)
        self.shapes.append(f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height}" rx="5" class="{style}"/>')
        for number, line in enumerate(lines):
            kind = "mono" if mono else "" if number else "bold"
            self.text(x + 10, y + 20 + LINE * number, line, kind)
        return y + height

    def arrow(self, x1: float, y1: float, x2: float, y2: float) -> None:
        """Draw an arrow, which is vertical or horizontal."""
        self._reach(max(y1, y2))
        self.shapes.append(f'<path d="M{x1:g} {y1:g}L{x2:g} {y2:g}"/>')
        dx, dy = (x2 > x1) - (x2 < x1), (y2 > y1) - (y2 < y1)
        points = (x2 - 7 * dx - 4 * dy, y2 - 7 * dy - 4 * dx, x2 - 7 * dx + 4 * dy, y2 - 7 * dy + 4 * dx)
        self.shapes.append('<path class="tip" d="M{:g} {:g}L{:g} {:g}L{:g} {:g}Z"/>'.format(x2, y2, *points))

    def line(self, x1: float, y1: float, x2: float, y2: float) -> None:
        """Draw a dashed line."""
        self._reach(max(y1, y2))
        self.shapes.append(f'<path d="M{x1:g} {y1:g}L{x2:g} {y2:g}" stroke-dasharray="3 4"/>')

    def svg(self) -> str:
        """Return the whole file."""
        height = self.height + 12
        return "\n".join([
            (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:g}"'
            f' viewBox="0 0 {WIDTH} {height:g}" role="img">'),
            f"<title>{escape(self.title)}</title>",
            f"<desc>{escape(self.description)}</desc>",
            f"<style>{STYLE}</style>",
            f'<rect class="paper" width="{WIDTH}" height="{height:g}" rx="8"/>',
            *self.shapes,
            "</svg>\n",
        ])  # fmt: skip


def before_and_after() -> Drawing:
    """Show a table before and after."""
    d = Drawing(
        "A table of tokens before and after",
        "Before: the access tokens are readable in the table. After: each is text that starts with sealchemy:v1: and"
        " the id of its key; the application reads the same tokens as before.",
    )
    tables = (
        (
            "before: every dump has the tokens",
            "plain",
            ["ya29.a0AfB_byC7vQ…", "gho_16C7e42F292c…", "xoxe.xoxp-1-Mi0y…"],
        ),
        (
            "after: alembic upgrade head",
            "cipher",
            [f"sealchemy:v1:3f9c0a1b2d4e:{end}…" for end in ("Yk3L", "q0Zt", "8fHw")],
        ),
    )
    y = 26
    for title, style, values in tables:
        d.text(14, y, title, "bold")
        d.text(24, y + 24, "provider", "soft")
        d.text(130, y + 24, "access_token", "soft")
        for provider, value in zip(("google", "github", "slack"), values, strict=True):
            d.shapes.append(f'<rect x="14" y="{y + 32}" width="372" height="26" class="{style}"/>')
            d.text(24, y + 49, provider)
            d.text(130, y + 49, value, f"mono {style}")
            y += 26
        y += 66
    d.text(14, y - 10, "The application still reads and writes str.", "soft")
    return d


def rollout() -> Drawing:
    """Show the stages of a rollout."""
    d = Drawing(
        "The stages of a rollout",
        "Stage prepare writes plaintext and reads both; widen the columns. Stage migrate writes ciphertext and reads"
        " both; encrypt the rows. Stage strict writes and reads ciphertext only; have the database require it.",
    )
    stages = (
        ("prepare", "writes plaintext, reads both", "", "sealchemy widen", "the old release may come back"),
        (
            "migrate",
            "writes ciphertext, reads both",
            "plain",
            "sealchemy encrypt, verify",
            "back to prepare only: the old release",
        ),
        ("strict", "writes and reads ciphertext only", "cipher", "op.require_encryption, scrub", "back to migrate"),
    )
    y = 14.0
    for number, (name, what, style, command, back) in enumerate(stages):
        if number:
            d.arrow(110, y, 110, y + 40)
            d.text(122, y + 25, "when every process is there", "soft")
            y += 42
        more = ["would send ciphertext to providers"] if name == "migrate" else []
        y = d.box(14, y, 372, [f"{name}: {what}", f"then run: {command}", f"rollback: {back}", *more], style)
    return d


def refresh() -> Drawing:
    """Show how two callers get one refresh."""
    d = Drawing(
        "One refresh for all callers",
        "The first caller takes a lease in the row and commits, asks the provider while it holds no connection, and"
        " stores the new tokens if the refresh token is still the one it sent. The second caller finds the lease,"
        " waits without a connection, and reads the new token.",
    )
    lanes = {"caller 1": 56, "database": 152, "provider": 248, "caller 2": 344}
    for name, x in lanes.items():
        d.box(x - 44, 12, 88, [name])
        d.line(x, 44, x, 352)
    steps = (
        (70, "caller 1", "database", "lock the row, take the lease"),
        (108, "database", "caller 1", "commit"),
        (146, "caller 2", "database", "the lease is taken: wait"),
        (184, "caller 1", "provider", "refresh token; no connection is held"),
        (222, "provider", "caller 1", "new tokens"),
        (260, "caller 1", "database", "same refresh token? store, end the lease"),
        (298, "database", "caller 1", "commit"),
        (336, "database", "caller 2", "look again: the new token"),
    )
    for y, start, end, label in steps:
        x1, x2 = lanes[start], lanes[end]
        d.arrow(x1, y + 10, x2 + (3 if x2 < x1 else -3), y + 10)
        is_right = max(x1, x2) > lanes["provider"]
        x, anchor = (380, "end") if is_right else (min(x1, x2) + 4, "start")
        d.shapes.append(_label(x, y + 4, label, anchor=anchor))
    return d


def _label(x: float, y: float, text: str, *, anchor: str) -> str:
    """Write on the background, so that a lane does not cross the letters."""
    halo = "paint-order: stroke; stroke: var(--paper); stroke-width: 4px"
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" style="{halo}; font-size: 12px">{escape(text)}</text>'


def stored_value() -> Drawing:
    """Show the parts of a stored value."""
    d = Drawing(
        "The stored value",
        "sealchemy, the version, the id of the key, and base64 of the nonce, the ciphertext and the tag. The header and"
        " the context of the column are authenticated.",
    )
    d.box(14, 14, 372, ["sealchemy:v1:3f9c0a1b2d4e:BASE64"], "cipher", mono=True)
    for x, name in ((52, "prefix"), (109, "version"), (165, "key id"), (236, "base64")):
        d.arrow(x, 50, x, 66)
        d.text(x, 80, name, "soft", "middle")
    d.text(14, 112, "The bytes, in this order:", "bold")
    y = 122.0
    for lines in (
        ["12 bytes of nonce", "of one process, for at most 4096 values"],
        ["12 bytes of nonce", "of this value alone, for AES-256-GCM"],
        ["n bytes of ciphertext", "as many as the UTF-8 of the text"],
        ["16 bytes of tag", "authenticates the header and the context as well"],
    ):
        y = d.box(14, y, 372, lines) + 4
    y += 22
    d.text(14, y, "XAES-256-GCM (C2SP):", "bold")
    d.text(14, y + 20, "data key → SP 800-108 CMAC → key → AES-256-GCM", "mono")
    d.text(14, y + 40, "associated data: sealchemy:v1:<key id>: + context", "mono")
    return d


def row_binding() -> Drawing:
    """Show a value that was moved to another row."""
    d = Drawing(
        "A value bound to its row",
        "A token of user 7 at google is encrypted with the associated data accounts.token, 7, google. Copied into the"
        " row of user 8 at evil, the associated data is accounts.token, 8, evil, and it does not decrypt.",
    )
    y = d.box(14, 14, 372, ["row 1: user_id 7, provider google", "token = sealchemy:v1:…:row:Yk3L…"], "cipher")
    d.text(14, y + 20, "authenticated: accounts.token, 7, google", "soft")
    d.arrow(110, y + 30, 110, y + 72)
    d.text(122, y + 48, "an attacker who can write, and", "plain")
    d.text(122, y + 64, "has no key, copies the value", "plain")
    y = d.box(14, y + 76, 372, ["row 2: user_id 8, provider evil", "token = sealchemy:v1:…:row:Yk3L…"], "plain")
    d.text(14, y + 20, "expected: accounts.token, 8, evil", "soft")
    d.arrow(110, y + 30, 110, y + 52)
    d.box(14, y + 56, 372, ["DecryptionError: nothing is sent to evil"])
    return d


def kms() -> Drawing:
    """Show where a key is that a KMS has wrapped."""
    d = Drawing(
        "A key wrapped by a KMS",
        "The environment has a wrapped key. When the process starts, the KMS opens it once. The key ring in memory"
        " encrypts and decrypts without asking the KMS.",
    )
    y = d.box(14, 14, 372, ["environment or secret store", "sealchemy-wrapped-key-v1.3f0c…"], "cipher")
    d.arrow(110, y, 110, y + 42)
    d.text(122, y + 25, "once, at the start of a process", "soft")
    y = d.box(14, y + 46, 372, ["KMS", "opens the key, and writes its audit log"])
    d.arrow(110, y, 110, y + 42)
    d.text(122, y + 25, "the key, in memory only", "soft")
    y = d.box(14, y + 46, 372, ["KeyRing on the engine", "encrypts and decrypts without the KMS"])
    d.arrow(110, y, 110, y + 42)
    d.box(14, y + 46, 372, ["database", "ciphertext with the id of its key"], "cipher")
    return d


DIAGRAMS: dict[str, Callable[[], Drawing]] = {
    "before-and-after": before_and_after,
    "rollout": rollout,
    "refresh": refresh,
    "stored-value": stored_value,
    "row-binding": row_binding,
    "kms": kms,
}

if __name__ == "__main__":
    for name, draw in DIAGRAMS.items():
        (IMAGES / f"{name}.svg").write_text(draw().svg())
