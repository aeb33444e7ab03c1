"""Measure the structure of the package: `python -m tests.structure [FOLDER]`, for this tree or another one."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parents[1] / "src/sealchemy"
OUTSIDE_THE_CORE = {  # the core: values, column, databases, rewriting, and the doors to them
    *("alembic", "cli", "testing", "integrations", "metrics", "errors", "__init__"),
    *("_inspection", "plan"),  # a room of its own, which a reader of the rewrite need not know
    *("kms", "_values/kms"),  # another one, which a reader of plain keys need not know
    "_column/rows",  # another one, which a reader of columns without `bind_to` need not know
    "_rewriting/jobs",  # another one, which a reader of a run in one process need not know
    # another one, which a reader of columns without an index need not know
    *("_column/blind_index", "_rewriting/blind_index", "_values/blind_index"),
    *("operations", "autogenerate", "plugin", "cli_options", "display"),  # names in earlier versions
}
OF_A_DATABASE = re.compile(r"_databases/|(?:backends?|postgresql|mysql|sqlite|sqlite_schema)\.py$")
ROOM = re.compile(r"^\w+/\w+(?=/)")
DIALECTS = {"postgresql", "mysql", "mariadb", "sqlite"}
LONG_MODULE, LONG_FUNCTION = 250, 40


def measure(package: Path) -> dict[str, float]:
    """Return the figures of a package, by name."""
    sources = {str(path.relative_to(package)): path.read_text() for path in sorted(package.rglob("*.py"))}
    lines = {name: len(source.splitlines()) for name, source in sources.items()}
    trees = {name: ast.parse(source) for name, source in sources.items()}
    nodes = [node for tree in trees.values() for node in ast.walk(tree)]
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    annotations = [text for node in nodes if (text := annotation_of(node))]
    core = [
        name
        for name in lines
        if not OUTSIDE_THE_CORE.intersection(
            [re.split(r"[/.]", name)[0], *ROOM.findall(name), name.removesuffix(".py")]
        )
    ]
    return {
        "files": len(lines),
        "lines": sum(lines.values()),
        "lines of the core": sum(lines[name] for name in core),
        f"modules of more than {LONG_MODULE} lines": sum(count > LONG_MODULE for count in lines.values()),
        f"functions of more than {LONG_FUNCTION} lines": sum(length(node) > LONG_FUNCTION for node in functions),
        "median lines of a function": sorted(map(length, functions))[len(functions) // 2],
        "del statements": sum(isinstance(node, ast.Delete) for node in nodes),
        "dialect branches outside the databases": sum(
            len(list(dialect_branches(tree))) for name, tree in trees.items() if not OF_A_DATABASE.search(name)
        ),
        "noqa": sum(source.count("# noqa") for source in sources.values()),
        "percent of annotations with Any": round(
            100 * sum(bool(re.search(r"\bAny\b", text)) for text in annotations) / len(annotations), 1
        ),
    }


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines of a function without its docstring."""
    first = function.body[0]
    has_docstring = ast.get_docstring(function, clean=False) is not None
    docstring = (first.end_lineno or 0) - first.lineno + 1 if has_docstring else 0
    return (function.end_lineno or 0) - function.lineno + 1 - docstring


def annotation_of(node: ast.AST) -> str | None:
    """Return the annotation of an argument, a variable or a return value."""
    if isinstance(node, ast.arg | ast.AnnAssign):
        return ast.unparse(node.annotation) if node.annotation else None
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return ast.unparse(node.returns) if node.returns else None
    return None


def dialect_branches(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield comparisons with the name of a database, and tests of attributes such as `is_sqlite`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            is_branch = any(isinstance(item, ast.Constant) and item.value in DIALECTS for item in ast.walk(node))
        elif isinstance(node, ast.If | ast.IfExp | ast.While):
            names = {item.attr for item in ast.walk(node.test) if isinstance(item, ast.Attribute)}
            is_branch = not names.isdisjoint(f"is_{dialect}" for dialect in DIALECTS)
        else:
            is_branch = False
        if is_branch:
            yield node


def main() -> None:
    """Print the figures."""
    for name, figure in measure(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE).items():
        print(f"{figure:>8} {name}")


if __name__ == "__main__":
    main()
