"""Right if the output, run as SQL on the row's database, returns what the gold query returns."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llm_jepa.errors import ConfigError
from llm_jepa.evaluation.scorers.verdict import EMPTY, GoldError, Verdict, checked_gold, quoted, undecided
from llm_jepa.sandbox import DiedError, Sandbox

from . import sql_worker

WAIT_S = 30.0  # the child has its own limits; this one is for a child that hangs. Our choice.
MAX_REASON_CHARS = 200

DATABASE_COLUMNS = ("database", "db_id")  # `db_id` is Spider's name
SUFFIXES = (".sqlite", ".db", ".sqlite3")


class SqlScorer:
    """Right if the output returns what the gold query returns, both run on the row's database.

    If the gold query orders its rows, the order counts; otherwise rows are compared as multisets, with duplicates.
    Columns are compared by place, not by name. Whole and decimal numbers are compared by value; a number never equals a
    text; NULL equals NULL. An output is wrong if it is not a query, fails, or reaches a limit of time, rows, bytes or
    memory, even if the gold query returns nothing. A Markdown fence around the one query of a text, and semicolons
    after it, do not count. `sql_worker` says what a statement can do, and what it cannot.

    `databases` is a folder, in which the database named `x` is `x.sqlite` or `x/x.sqlite` (or `.db`, `.sqlite3`); or a
    file, for rows that name no database.
    """

    def __init__(self, databases: str | Path | None = None) -> None:
        self.databases = Path(databases).expanduser().resolve() if databases is not None else None
        if self.databases is not None and not self.databases.exists():
            text = (
                f"databases={str(databases)!r} does not exist. Expected a folder of SQLite files, or one SQLite file."
            )
            raise ConfigError("file_missing", text)
        self.worker = Sandbox(Path(sql_worker.__file__), memory_bytes=sql_worker.PROCESS_BYTES, file_bytes=0)
        self._lock = threading.Lock()

    def __call__(self, output: str, gold: str, *, row: Mapping[str, Any] | None = None) -> Verdict:
        """Return the verdict; it is not decided if the process that runs the SQL died.

        The column `database` or `db_id` of the row names the database, or, without `databases`, its file.
        """
        output, gold = output.strip(), checked_gold(gold)
        file = self._file(_named(row or {}))
        if not output:
            return EMPTY
        output, gold = plain_sql(output), plain_sql(gold)
        request = {"database": str(file), "gold": gold, "output": output, "ordered": is_ordered(gold)}
        too_late: dict[str, Any] = {"ok": False, "reason": f"it was stopped after {sql_worker.MAX_SECONDS} s"}
        with self._lock:
            try:
                self.worker.ask(request)
                answer = self.worker.read(WAIT_S) or too_late
                if answer["ok"]:
                    answer = self.worker.read(WAIT_S) or too_late
                    return Verdict(answer["ok"], _shortened(answer["reason"]))
            except DiedError as error:
                return undecided(f"the process that ran the SQL died ({error})")
        raise GoldError(
            "database_unreadable" if answer.get("is_of_database") else "gold_not_usable",
            f"The gold query {quoted(gold)} cannot be used: {_shortened(answer['reason'])}.",
        )

    def close(self) -> None:
        """End the child process; a new one is started when it is needed."""
        self.worker.close()

    def _file(self, name: str | None) -> Path:
        if name is not None and self.databases is None:
            found = Path(name).expanduser().resolve()
            if not found.is_file():
                raise GoldError("database_missing", f"There is no database {name!r}.")
            return _checked(found)
        if self.databases is None:
            text = "There is no database to run the query on. Give get_scorer('sql', databases=FOLDER)."
            raise GoldError("setting_missing", text)
        if self.databases.is_file():
            if name is not None and name not in (self.databases.name, self.databases.stem):
                text = f"The row names the database {quoted(name)}, but databases is only the file "
                raise GoldError("database_differs", f"{text}{self.databases.name}. Give the folder of all files.")
            return _checked(self.databases)
        if name is None:
            columns = " or ".join(DATABASE_COLUMNS)
            raise GoldError("column_missing", f"The row names no database of {self.databases}. Add a column {columns}.")
        if not re.fullmatch(r"\w[\w .-]*", name) or ".." in name:
            text = f"The database name {quoted(name)} is not a plain name. Use letters, digits, '_', '-', '.'."
            raise GoldError("name_not_allowed", text)
        places = [self.databases / folder / f"{name}{suffix}" for folder in ("", name) for suffix in ("", *SUFFIXES)]
        found_file = next((place for place in places if place.is_file()), None)
        if found_file is None:
            text = f"There is no {name}.sqlite, nor {name}/{name}.sqlite, in {self.databases}."
            raise GoldError("database_missing", text)
        return _checked(found_file)


def _shortened(reason: str) -> str:
    """Return a reason in ASCII, cut short; SQLite's messages quote the wrong token, which may be the whole output."""
    return ascii(reason)[1:-1][:MAX_REASON_CHARS]


def _named(row: Mapping[str, Any]) -> str | None:
    name = next((row[column] for column in DATABASE_COLUMNS if row.get(column) is not None), None)
    if name is not None and not isinstance(name, str):
        raise GoldError("wrong_type", f"The row's database is {type(name).__name__}, expected its name.")
    return name


def _checked(file: Path) -> Path:
    """Return a database file; a file with a log next to it is not complete, and is refused."""
    for suffix in ("-wal", "-journal"):
        log = file.with_name(file.name + suffix)
        if log.is_file() and log.stat().st_size:
            text = f"{file} has changes in {log.name} that are not in it yet. Open and close it with sqlite3."
            raise GoldError("database_incomplete", text)
    return file


_FENCE = re.compile(r"^[ \t]*(?P<mark>`{3,}|~{3,})[ \t]*\w*[ \t]*\r?\n(?P<sql>.*?)(?:(?P=mark)|\Z)", re.M | re.S)
_INLINE = re.compile(r"(`+)(?:sql(?:ite)?\s)?([^`]+)\1", re.I)
_TOKEN = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`|\[[^\]]*\]|--[^\n]*|/\*|\w+|\S")


def _tokens(sql: str) -> Iterator[tuple[int, str]]:
    """Yield place and text of each token of a statement, in lower case; comments are left out."""
    place = 0
    while found := _TOKEN.search(sql, place):
        place, token = found.end(), found[0]
        if token == "/*":
            end = sql.find("*/", place)
            place = end + 2 if end >= 0 else len(sql)
        elif not token.startswith("--"):
            yield found.start(), token.lower()


def plain_sql(text: str) -> str:
    """Return the query of a text without the Markdown around it, and without semicolons and comments after it.

    If a text has one fenced block, the query is in that block. If it has several, the text is returned unchanged.

    Example:
        >>> plain_sql("The query is:\\n```sql\\nSELECT 1;;\\n```"), plain_sql("SELECT ';'; SELECT 2;")
        ('SELECT 1', "SELECT ';'; SELECT 2;")
    """
    if len(text) > sql_worker.MAX_SQL_CHARS:
        return text
    blocks = [found["sql"].strip() for found in _FENCE.finditer(text)]
    inline = _INLINE.fullmatch(text)
    return _one_statement(blocks[0] if len(blocks) == 1 else inline[2].strip() if inline else text)


def _one_statement(sql: str) -> str:
    """Return a statement up to its semicolon, if only semicolons and comments follow; otherwise the whole text."""
    end = None
    for place, token in _tokens(sql):
        if token == ";":
            end = place if end is None else end
        elif end is not None:
            return sql  # another statement follows, and SQLite will refuse it
    return sql if end is None else sql[:end]


def is_ordered(sql: str) -> bool:
    """Whether a query orders its rows itself: ORDER BY outside of all parentheses, quotes and comments.

    Example:
        >>> is_ordered("SELECT a FROM t ORDER BY b LIMIT 3"), is_ordered("SELECT a FROM (SELECT * FROM t ORDER BY b)")
        (True, False)
    """
    depth, last = 0, ""
    for _, token in _tokens(sql):
        depth += {"(": 1, ")": -1}.get(token, 0)
        if depth == 0 and (last, token) == ("order", "by"):
            return True
        last = token
    return False
