"""What is wrong with a blind index, as far as a look at a few rows and a count tell."""

from sqlalchemy import column, func, select
from sqlalchemy import table as sa_table

from sealchemy._databases.access import Access
from sealchemy._rewriting.pages import Pages

from .digests import Digests
from .index_columns import IndexColumns


def count_missing(access: Access, columns: IndexColumns) -> int:
    """Return the number of rows that have a secret and no digest."""
    table = sa_table(
        access.target.table.name, column(columns.secret), column(columns.column), schema=access.target.table.schema
    )
    query = select(func.count()).select_from(table)
    query = query.where(table.c[columns.secret].is_not(None), table.c[columns.column].is_(None))
    with access.transaction(write=False):
        return access.connection.scalar(query) or 0


def find_problem(access: Access, columns: IndexColumns) -> str | None:
    """Return what is wrong with an index, by its missing digests and one row that has one."""
    missing, target = count_missing(access, columns), access.target
    pages, digests = Pages(access), Digests(access, columns)
    with access.transaction(write=False):
        last = pages.last()
        page = pages.read(pages.select((None, last), 1, target.columns[1].is_not(None)), 1)[0] if last else None
        is_wrong = page is not None and bool(digests.changes(page, []))
    name = f"{target.name}.{columns.column}"
    if is_wrong:
        return (
            f"{name}: a digest is not that of its secret: the index key or the normalize function is another one (put"
            " the old one back, or reindex if it was changed on purpose), or a release that does not know the index"
            " wrote the row; `sealchemy verify` names all such rows"
        )
    return f"{name}: {missing} rows have no digest, so lookups miss them; run `sealchemy reindex`" if missing else None
