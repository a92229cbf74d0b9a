"""SQL is judged by what it returns; tests/faults/test_scorers.py has the hostile statements."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from llm_jepa import sandbox
from llm_jepa.evaluation.scorers import GoldError, get_scorer
from llm_jepa.evaluation.scorers.sql import sql_worker
from llm_jepa.evaluation.scorers.sql.sql_scorer import is_ordered
from llm_jepa.evaluation.scorers.verdict import quoted

ROW = {"database": "shop"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with two databases in the two places where a database may lie."""
    folder = tmp_path_factory.mktemp("databases")
    (folder / "zoo").mkdir()
    for file, animal in ((folder / "shop.sqlite", "dog"), (folder / "zoo" / "zoo.sqlite", "okapi")):
        connection = sqlite3.connect(file)
        connection.executescript(
            f"CREATE TABLE animals (name TEXT, legs INTEGER); INSERT INTO animals VALUES ('{animal}', 4)"
        )
        connection.close()
    return folder


@pytest.fixture(scope="module")
def score(folder):
    scorer = get_scorer("sql", databases=folder)
    yield scorer
    scorer.close()


def test_the_row_names_its_database(score, folder, raises):
    """`database` or Spider's `db_id`; `x.sqlite` or `x/x.sqlite`; or, without a folder, the file itself."""
    gold = "SELECT name FROM animals"
    for row, animal in ((ROW, "dog"), ({"db_id": "zoo"}, "okapi"), ({"database": None, "db_id": "shop"}, "dog")):
        assert score(f"SELECT '{animal}'", gold, row=row).correct
        assert not score("SELECT 'cat'", gold, row=row).correct
    file = {"database": str(folder / "zoo" / "zoo.sqlite")}
    assert get_scorer("sql")("SELECT 'okapi'", gold, row=file).correct
    alone = get_scorer("sql", databases=folder / "shop.sqlite")
    assert all(alone("SELECT 'dog'", gold, row=row).correct for row in ({}, ROW, {"db_id": "shop.sqlite"}))
    with raises("database_differs", "'zoo'", "shop.sqlite"):
        alone("SELECT 'dog'", gold, row={"db_id": "zoo"})


PLAIN = "SELECT name FROM animals"


@pytest.mark.parametrize(
    "text",
    [
        *(f"{PLAIN};", f"{PLAIN};;", f"{PLAIN} ; ;\n;", f"{PLAIN};; -- done; really", f"/* ; */ {PLAIN};/* ; */;"),
        *(f"```sql\n{PLAIN};\n```", f"```\n{PLAIN}\n```", f"~~~SQL\r\n{PLAIN}\r\n~~~\r\n", f"```sql\n{PLAIN}"),
        *(
            f"The query:\n```sqlite\n{PLAIN}\n```\nIt returns names.",
            f"`{PLAIN}`",
            f"```sql {PLAIN}```",
            f"```sql\n{PLAIN}```",
        ),
        f"{PLAIN} WHERE name <> ';;' OR name = '```'",
    ],
)
def test_semicolons_and_markdown_around_a_query_do_not_count(score, text):
    """Neither in an output nor in a gold; what is in quotes stays."""
    assert score(text, PLAIN, row=ROW).correct
    assert score(PLAIN, text, row=ROW).correct


@pytest.mark.parametrize(
    "text",
    [
        *(f"{PLAIN}; DROP TABLE animals", f"SELECT 1;; {PLAIN}", f"```sql\nSELECT 1\n```\nor\n```sql\n{PLAIN}\n```"),
        *(";", "```sql\n```", f"```sql\n{PLAIN}; {PLAIN}\n```", f"I think {PLAIN}", "[" * 20_000),
    ],
)
def test_several_queries_and_words_are_no_query(score, text):
    verdict = score(text, PLAIN, row=ROW)
    assert verdict.decided and not verdict.correct


def test_the_order_counts_in_a_gold_within_a_fence(score):
    two = "SELECT 1 AS a UNION SELECT 2 ORDER BY a"
    assert not score(f"{two} DESC", f"```sql\n{two};\n```", row=ROW).correct


@pytest.mark.parametrize(
    ("row", "code", "value"),
    [
        (None, "column_missing", "database or db_id"),
        ({}, "column_missing", "database or db_id"),
        ({"database": "nope"}, "database_missing", "nope.sqlite"),
        ({"database": 7}, "wrong_type", "int"),
    ]
    + [
        ({"database": name}, "name_not_allowed", quoted(name))
        for name in ("../shop", "", ".", "..", "/etc/passwd", "a/b", "shop\n", "shop\0", ".hidden")
    ],
)
def test_a_row_without_a_database_in_the_folder_is_an_error(score, row, code, value, raises):
    """Names cannot leave the folder."""
    with raises(code, value) as caught:
        score("SELECT 1", "SELECT 1", row=row)
    assert isinstance(caught.value, GoldError)


def test_a_folder_that_is_not_there_or_a_scorer_without_one_is_refused(folder, raises):
    with raises("file_missing", f"databases={str(folder / 'nope')!r}"):
        get_scorer("sql", databases=folder / "nope")
    with raises("setting_without_effect", f"databases={str(folder)!r}", "exact"):
        get_scorer("exact", databases=folder)
    with raises("setting_missing", "databases=FOLDER") as caught:
        get_scorer("sql")("SELECT 1", "SELECT 1")
    assert isinstance(caught.value, GoldError)
    with raises("database_missing", f"'{folder / 'nope.sqlite'}'"):
        get_scorer("sql")("SELECT 1", "SELECT 1", row={"database": str(folder / "nope.sqlite")})


def test_a_file_that_is_no_database_or_is_not_whole_is_an_error_of_the_row(score, folder, raises):
    """With `immutable`, SQLite would read the file without the log beside it, and not say so."""
    (folder / "text.sqlite").write_text("this is no database" * 100)
    with raises("database_unreadable", "'SELECT 1'"):
        score("SELECT 1", "SELECT 1", row={"database": "text"})
    with raises("gold_not_usable", "'SELECT nope'", "no such column"):
        score("SELECT 1", "SELECT nope", row={"database": "shop"})
    (folder / "half.sqlite").write_bytes((folder / "shop.sqlite").read_bytes())
    assert score("SELECT 1", "SELECT 1", row={"database": "half"}).correct
    (folder / "half.sqlite-wal").write_bytes(b"x")
    with raises("database_incomplete", folder / "half.sqlite", "half.sqlite-wal"):
        score("SELECT 1", "SELECT 1", row={"database": "half"})


@pytest.mark.parametrize(
    ("sql", "ordered"),
    [
        ("SELECT a FROM t ORDER BY a", True),
        ("select a from t order\n by a limit 1", True),
        ("SELECT a FROM t UNION SELECT b FROM t ORDER BY 1", True),
        ("SELECT a FROM (SELECT a FROM t ORDER BY a)", False),
        ("WITH x AS (SELECT a FROM t ORDER BY a) SELECT a FROM x", False),
        ("SELECT row_number() OVER (ORDER BY a) FROM t", False),
        ("SELECT 'ORDER BY' FROM t", False),
        ('SELECT "ORDER BY", [order by], `order by` FROM t', False),
        ("SELECT a FROM t -- ORDER BY a", False),
        ("SELECT a FROM t /* ORDER BY a", False),
        ("SELECT a /* ( */ FROM t ORDER /* x */ BY a", True),
        ("SELECT a AS border, bystander FROM t", False),
    ],
)
def test_only_an_order_by_at_the_top_orders_a_query(sql: str, ordered: bool):
    assert is_ordered(sql) is ordered


def test_the_child_process_has_nothing_of_torch_and_little_memory(score):
    """It starts in milliseconds and holds a few megabytes; the parent of a run holds gigabytes."""
    score("SELECT 1", "SELECT 1", row=ROW)
    maps = Path(f"/proc/{score.worker.pid}/maps")
    if not maps.exists():
        pytest.skip("/proc is not here")
    assert "torch" not in maps.read_text() and "numpy" not in maps.read_text()
    code = (
        f"import runpy, sys; runpy.run_path({sql_worker.__file__!r}); runpy.run_path({sandbox.__file__!r})\n"
        "print({'torch', 'llm_jepa'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "llm_jepa"} & {*done.stdout.split()}


def test_the_child_ends_with_its_scorer(folder):
    """No process is left behind, whether it is closed or forgotten."""
    for forget in (lambda scorer: scorer.close(), lambda scorer: None):
        scorer = get_scorer("sql", databases=folder)
        scorer("SELECT 1", "SELECT 1", row=ROW)
        pid = scorer.worker.pid
        forget(scorer)
        del scorer
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_child_that_was_killed_between_two_rows_is_started_again(score):
    """The row after it is scored as if nothing had been."""
    assert score("SELECT 1", "SELECT 1", row=ROW).correct
    pid = score.worker.pid
    os.kill(pid, signal.SIGKILL)
    while score.worker.pid == pid:
        pass
    assert score("SELECT 1", "SELECT 1", row=ROW).correct


def test_the_kernel_lets_the_child_write_no_file(tmp_path):
    """Should SQLite be talked into it all the same: the limit of the process stands behind the authorizer."""
    code = (
        f"import runpy; child = runpy.run_path({sandbox.__file__!r})\n"
        f"child['limit_process']({sql_worker.PROCESS_BYTES}, file_bytes=0)\n"
        f"import sqlite3; sqlite3.connect({str(tmp_path / 'new.sqlite')!r}).execute('CREATE TABLE t (a)')"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)
    assert "sqlite3.OperationalError: disk I/O error" in done.stderr
    assert not any(path.stat().st_size for path in tmp_path.iterdir())
