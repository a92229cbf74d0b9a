"""Running a model's SQL, in the child process of `sql_scorer` (llm_jepa/sandbox.py).

Only the standard library is imported, so that the child starts in milliseconds.

What a statement cannot do here, and why:
- write: the file is opened `mode=ro&immutable=1` (no lock, no journal), and the kernel lets this process write no file;
- do more than read: the authorizer allows only SELECT, columns, recursive queries and the functions named here, so no
  ATTACH, PRAGMA, VACUUM, transaction, DDL or load_extension; a second statement is an error of `execute`;
- run for long: a handler checks the clock every 1,000 steps of SQLite's virtual machine, and the kernel ends this
  process if a single step takes too long; both count processor time, so that a busy machine gives the same scores;
- use much memory: there are limits on rows, bytes, SQLite's heap, one value, and the process.
"""

from __future__ import annotations

import signal
import sqlite3
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable
from typing import Any

# Our choices. The limits of processor time are for each of the two statements.
MAX_SECONDS = 0.5
KILL_SECONDS = 0.55
MAX_BYTES = 4 * 2**20  # of a result
MAX_ROWS = 100_000  # of a gold result; an output is stopped when it returns more rows than the gold
MAX_VALUE_BYTES = 2**20
MAX_SQL_CHARS = 20_000
SQLITE_HEAP_BYTES = 24 * 2**20
PROCESS_BYTES = 192 * 2**20  # of address space, most of which Python maps and never touches
STEPS_PER_CHECK = 1000

SIGNIFICANT_DIGITS = 12  # sums of floats depend on their order in the last digits

LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: MAX_VALUE_BYTES,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: MAX_SQL_CHARS,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 50,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 200,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 100_000,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 200,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 0,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}

# Functions of SQLite that read only their arguments and, except those of the date, give the same result each time.
FUNCTIONS = frozenset(
    {
        *("abs", "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "avg", "cast", "ceil", "ceiling"),
        *("char", "coalesce", "concat", "concat_ws", "cos", "cosh", "count", "cume_dist", "current_date"),
        *("current_time", "current_timestamp", "date", "datetime", "degrees", "dense_rank", "exp", "first_value"),
        *("floor", "format", "glob", "group_concat", "hex", "ifnull", "iif", "instr", "json", "json_array"),
        *("json_array_length", "json_extract", "json_group_array", "json_group_object", "json_object", "json_quote"),
        *("json_type", "json_valid", "->", "->>", "julianday", "lag", "last_value", "lead", "length", "like"),
        *("likelihood", "likely", "ln", "log", "log10", "log2", "lower", "ltrim", "max", "min", "mod", "nth_value"),
        *("ntile", "nullif", "octet_length", "percent_rank", "pi", "pow", "power", "printf", "quote", "radians"),
        *("rank", "replace", "round", "row_number", "rtrim", "sign", "sin", "sinh", "sqrt", "strftime", "string_agg"),
        *("substr", "substring", "sum", "tan", "tanh", "time", "timediff", "total", "trim", "trunc", "typeof"),
        *("unhex", "unicode", "unixepoch", "unlikely", "upper", "zeroblob"),
    }
)


class Refused(Exception):  # noqa: N818 - it says what became of a statement
    """The statement has no result; the text says why."""


class DatabaseRefused(Refused):
    """The database cannot be read, whatever the statement is."""


def run(database: str, sql: str, max_rows: int) -> tuple[int, list[bytes]]:
    """Return the number of columns and the rows of a query, as `encode_row` writes them.

    Raises:
        Refused: If it is not a query, fails, or reaches a limit.
    """
    deadline = time.process_time() + MAX_SECONDS
    connection = _open(database)
    try:
        _end_process_after(KILL_SECONDS)
        connection.set_progress_handler(lambda: time.process_time() > deadline, STEPS_PER_CHECK)
        cursor = connection.execute(sql)
        if cursor.description is None:
            raise Refused("it is not a query")
        rows, left = [], MAX_BYTES
        for row in cursor:
            rows.append(encode_row(row))
            left -= len(rows[-1])
            if len(rows) > max_rows:
                raise Refused(f"it returns more than {max_rows:,} rows")
            if left < 0:
                raise Refused(f"its result is larger than {MAX_BYTES:,} bytes")
        return len(cursor.description), rows
    except sqlite3.OperationalError as error:
        if time.process_time() > deadline:
            raise Refused(f"it was stopped after {MAX_SECONDS} s") from None
        raise Refused(f"SQLite says: {error}") from None
    except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
        raise Refused(f"SQLite says: {error}") from None
    except MemoryError:
        raise Refused("it needs more memory than it may have") from None
    finally:
        connection.close()
        _end_process_after(0)


def _end_process_after(seconds: float) -> None:
    """Make the kernel end this process by SIGPROF after so much processor time; 0 cancels it."""
    if hasattr(signal, "setitimer"):  # not on Windows
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _open(database: str) -> sqlite3.Connection:
    uri = f"file:{urllib.parse.quote(database)}?mode=ro&immutable=1"
    try:
        connection = sqlite3.connect(uri, uri=True, isolation_level=None)
        connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
        for pragma in ("trusted_schema=OFF", "query_only=ON", "cell_size_check=ON", "temp_store=MEMORY", "mmap_size=0"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute(f"PRAGMA hard_heap_limit={SQLITE_HEAP_BYTES}").fetchall()
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()  # only this reads the file
        for limit, value in LIMITS.items():
            connection.setlimit(limit, value)
        connection.set_authorizer(authorize)
    except sqlite3.Error as error:
        raise DatabaseRefused(f"the database cannot be read: {error}") from None
    return connection


def authorize(action: int, first: str | None, second: str | None, database: str | None, source: str | None) -> int:
    """Allow only what reads, and nothing that later versions of SQLite may add."""
    is_allowed = action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_RECURSIVE)
    if action == sqlite3.SQLITE_READ:
        is_allowed = not (first or "").lower().startswith("pragma_")  # tables that are pragmas
    elif action == sqlite3.SQLITE_FUNCTION:
        is_allowed = (second or "").lower() in FUNCTIONS
    return sqlite3.SQLITE_OK if is_allowed else sqlite3.SQLITE_DENY


def encode_row(row: tuple[Any, ...]) -> bytes:
    """Return bytes that are the same for two rows if their values are equal and of the same type.

    Whole and decimal numbers are one type, as in SQLite (1 = 1.0); floats are rounded to 12 digits. Numbers and texts
    are different types (1 is not '1'), and so are texts and blobs. NULL equals only NULL.
    """
    return b"".join(b"%d:%s" % (len(part), part) for part in map(_encode, row))


def _encode(value: Any) -> bytes:
    if value is None:
        return b"null"
    if isinstance(value, str):
        return b"text " + value.encode("utf-8", "surrogateescape")
    if isinstance(value, bytes):
        return b"blob " + value
    if isinstance(value, float):
        rounded = value if value.is_integer() else float(f"{value:.{SIGNIFICANT_DIGITS}g}")
        value = int(rounded) if rounded.is_integer() else rounded
    return b"number %r" % value


def judge(output: tuple[int, list[bytes]], gold: tuple[int, list[bytes]], ordered: bool) -> tuple[bool, str]:
    """Compare two results, as lists if the order counts, otherwise as multisets."""
    (num_columns, rows), (gold_columns, gold_rows) = output, gold
    if num_columns != gold_columns:
        return False, f"it returns {num_columns:,} columns instead of {gold_columns:,}"
    if len(rows) != len(gold_rows):
        return False, f"it returns {len(rows):,} rows instead of {len(gold_rows):,}"
    if rows == gold_rows or (not ordered and sorted(rows) == sorted(gold_rows)):
        return True, f"returns the {len(rows):,} rows of the gold query"
    wrong = (Counter(rows) - Counter(gold_rows)).total()
    if not wrong:
        return False, f"it returns the {len(rows):,} rows of the gold query in another order"
    return False, f"{wrong:,} of the {len(rows):,} rows that it returns are not the gold query's"


def answer(request: dict[str, Any], send: Callable[[dict[str, Any]], None]) -> None:
    """Run both statements of a request (`database`, a file; `gold`; `output`; `ordered`), and send one or two answers.

    The first says whether the gold could be run: `ok`, or else `reason` and `is_of_database` too. The second says
    whether the output is right: `ok` and `reason`.
    """
    try:
        gold = run(request["database"], request["gold"], MAX_ROWS)
    except Refused as error:
        send({"ok": False, "reason": str(error), "is_of_database": isinstance(error, DatabaseRefused)})
        return
    send({"ok": True})
    try:
        is_right, reason = judge(run(request["database"], request["output"], len(gold[1])), gold, request["ordered"])
    except Refused as error:
        is_right, reason = False, str(error)
    send({"ok": is_right, "reason": reason})
