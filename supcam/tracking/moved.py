"""A project that was moved or copied keeps to its own artifacts: MLflow stores absolute addresses in its database."""

import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import unquote

from supcam.tracking.project import artifact_location

_FOLDER = "/mlartifacts"
# Every column of MLflow's tables that holds the address of artifacts.
_COLUMNS = (
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("logged_models", "artifact_location"),
    ("experiments", "artifact_location"),  # last: it says where the others come from
)


def settle(uri: str) -> None:
    """Point a database that came with its project from elsewhere at the artifacts beside it; others stay as they are.

    A database that cannot be written stays too; :func:`local_location` then finds what is read.
    """
    database = _file(uri)
    if database is None or not (old := _old_places(database, uri)):
        return
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(database, timeout=20)) as connection, connection:
        connection.execute("BEGIN IMMEDIATE")
        for table, column in _COLUMNS:
            if not connection.execute(f"SELECT 1 FROM pragma_table_info('{table}') WHERE name = '{column}'").fetchone():
                continue
            for place in old:
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                    (_place(uri), len(place) + 1, place, len(place) + 1, f"{place}/"),
                )


def local_location(uri: str, location: str) -> str:
    """Where the artifacts at ``location`` lie in the project of the store ``uri``, wherever it was made."""
    database = _file(uri)
    for place in _old_places(database, uri) if database is not None else []:
        if location.startswith(f"{place}/"):
            return _place(uri) + location.removeprefix(place)
    return location


def _place(uri: str) -> str:
    return str(artifact_location(Path(), uri))


def _file(uri: str) -> Path | None:
    if not uri.startswith("sqlite:///") or uri == "sqlite:///:memory:":
        return None
    database = Path(unquote(uri.removeprefix("sqlite:///")))
    return database if database.is_file() else None


def _old_places(database: Path, uri: str) -> list[str]:
    """Addresses of the folders ``mlartifacts`` at which supcam made experiments of this database, but not its own."""
    try:
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True, timeout=20)) as connection:
            rows = connection.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
    except sqlite3.Error:
        return []  # no table yet, or locked: whoever opens it next will say so
    found = {str(row[0]) for row in rows if row[0] is not None}
    ours = (place for place in found if place.startswith("file:///") and place.endswith(_FOLDER))
    return sorted(place for place in ours if place != _place(uri))
