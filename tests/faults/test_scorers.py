"""E1 to E7: no output is right by accident, does harm, or holds up the scoring of the others."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import signal
import sqlite3
import threading
import time
from pathlib import Path

import pytest

from llm_jepa.evaluation.scorers import get_scorer

ORDERS = [(1, "apple", 3.5), (2, "pear", 1.25), (3, "pear", 1.25), (4, None, None), (5, "7", 7.0)]
NUM_PAIRS = 20


@pytest.fixture
def database(tmp_path) -> Path:
    """A small database, with an empty table and a full one."""
    (tmp_path / "databases").mkdir()
    file = tmp_path / "databases" / "shop.sqlite"
    connection = sqlite3.connect(file)
    connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT, price REAL)")
    connection.execute("CREATE TABLE refunds (item TEXT)")
    connection.executemany("INSERT INTO orders VALUES (?, ?, ?)", ORDERS)
    connection.commit()
    connection.close()
    return file


@pytest.fixture
def score(database):
    scorer = get_scorer("sql", databases=database)
    yield scorer
    scorer.close()


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def files_under(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


HOSTILE_SQL = [
    "DROP TABLE orders",
    "DELETE FROM orders",
    "UPDATE orders SET price = 0",
    "INSERT INTO refunds VALUES ('x')",
    "REPLACE INTO orders VALUES (1, 'x', 0)",
    "CREATE TABLE pwned (a)",
    "CREATE TEMP TABLE pwned (a)",
    "CREATE VIEW pwned AS SELECT 1",
    "CREATE TRIGGER pwned AFTER INSERT ON refunds BEGIN DELETE FROM orders; END",
    "CREATE VIRTUAL TABLE pwned USING fts5(a)",
    "ALTER TABLE orders RENAME TO pwned",
    "WITH x AS (SELECT 1) DELETE FROM orders",
    "DELETE FROM orders RETURNING item",
    "ATTACH DATABASE 'pwned.sqlite' AS pwned",
    "ATTACH DATABASE 'file:{file}?mode=rw' AS pwned",
    "DETACH DATABASE main",
    "PRAGMA writable_schema = ON",
    "PRAGMA journal_mode = WAL",
    "SELECT * FROM pragma_database_list",
    "VACUUM",
    "VACUUM INTO 'pwned.sqlite'",
    "REINDEX",
    "BEGIN EXCLUSIVE",
    "SELECT load_extension('pwned.so')",
    "SELECT writefile('pwned', 'x')",
    "SELECT item FROM refunds; DROP TABLE orders",
    ".shell touch pwned",
    ".output pwned\nSELECT item FROM refunds",
]


def test_e1_hostile_sql_is_wrong_and_changes_no_byte(database, score, tmp_path, monkeypatch, fault_row):
    """28 statements, the gold returns no rows; then the same through a connection that may write: the control."""
    monkeypatch.chdir(tmp_path)
    before, files = sha256(database), files_under(tmp_path)
    statements = [statement.replace("{file}", str(database)) for statement in HOSTILE_SQL]
    with fault_row("E1", "SQL that writes, attaches, loads, or is two statements", len(statements)) as row:
        for statement in statements:
            verdict = score(statement, "SELECT item FROM refunds")
            assert verdict.decided and not verdict.correct, statement
            assert sha256(database) == before and files_under(tmp_path) == files, statement
            row.passed += 1
    assert row.passed == row.tried == 28
    assert score("SELECT item FROM refunds", "SELECT item FROM refunds").correct

    changed = 0
    for statement in statements:
        copy = tmp_path / "copy.sqlite"
        copy.write_bytes(database.read_bytes())
        connection = sqlite3.connect(copy)
        connection.isolation_level = None
        with contextlib.suppress(sqlite3.Error):
            connection.executescript(statement)
        connection.close()
        changed += sha256(copy) != before
    assert changed >= 10
    assert "pwned.sqlite" in files_under(tmp_path)


EXPLOSIONS = [
    "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r",
    "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT n FROM r",
    "SELECT count(*) FROM " + ", ".join(f"orders AS t{i}" for i in range(20)),
    "SELECT printf('%900000d', a.id) FROM orders a, orders b, orders c, orders d, orders e",
    "SELECT group_concat(printf('%90000d', a.id)) FROM orders a, orders b, orders c, orders d",
    "WITH RECURSIVE r(n, s) AS (SELECT 1, printf('%900000d', 1) UNION ALL SELECT n + 1, substr(s, 2) || n FROM r) "
    "SELECT s FROM r ORDER BY s",
    # Within one step of SQLite's machine, where no handler is asked: the kernel ends the child.
    "SELECT instr(hex(zeroblob(400000)), hex(zeroblob(200000)) || '1')",
]


def test_e2_sql_that_loops_or_explodes_is_stopped(database, score, fault_row):
    """Each is wrong, in little time and memory, and the query after it is scored."""
    gold = "SELECT id FROM orders, (SELECT 1 UNION SELECT 2)"
    with fault_row("E2", "SQL that never ends or returns too much", len(EXPLOSIONS)) as row:
        for statement in EXPLOSIONS:
            assert score("SELECT id FROM orders", "SELECT id FROM orders").correct  # a child is there
            pid = score.worker.pid
            verdict = score(statement, gold)
            assert verdict.decided and not verdict.correct, statement
            assert re.search("stopped after|more than|larger than|memory|too big", verdict.reason), verdict
            status = Path(f"/proc/{pid}/status")
            if status.exists():
                assert int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) <= 64 * 1024, statement
            row.passed += 1
    assert row.passed == row.tried
    # The control: within the same time, SQLite alone does not end the first of them.
    connection, ended = sqlite3.connect(":memory:", check_same_thread=False), []
    threading.Timer(1.0, connection.interrupt).start()
    try:
        ended.append(connection.execute(EXPLOSIONS[0]).fetchall())
    except sqlite3.OperationalError as error:
        assert str(error) == "interrupted"
    assert ended == []


PAIRS = [  # output, gold, right?
    ("SELECT item FROM refunds", "SELECT item FROM refunds WHERE item = 'x'", True),
    ("SELEC item FROM refunds", "SELECT item FROM refunds", False),  # invalid, and the gold returns nothing
    ("SELECT nope FROM refunds", "SELECT item FROM refunds", False),
    ("", "SELECT item FROM refunds", False),
    ("-- SELECT item FROM refunds", "SELECT item FROM refunds", False),
    ("SELECT id FROM orders ORDER BY id DESC", "SELECT id FROM orders", True),
    ("SELECT id FROM orders ORDER BY id DESC", "SELECT id FROM orders ORDER BY id", False),
    ("SELECT id FROM orders ORDER BY id", "SELECT id FROM orders ORDER BY price IS NULL, id + 0", False),
    ("SELECT id FROM orders", "SELECT id FROM (SELECT id FROM orders ORDER BY id DESC)", True),
    ("SELECT 1", "SELECT '1'", False),
    ("SELECT 1", "SELECT 1.0", True),
    ("SELECT x'31'", "SELECT '1'", False),
    ("SELECT NULL", "SELECT NULL", True),
    ("SELECT NULL", "SELECT ''", False),
    ("SELECT NULL", "SELECT 0", False),
    ("SELECT item, price FROM orders", "SELECT item, price FROM orders ORDER BY price NULLS LAST, id", False),
    ("SELECT DISTINCT item FROM orders", "SELECT item FROM orders", False),
    ("SELECT item FROM orders UNION ALL SELECT 'pear'", "SELECT item FROM orders UNION ALL SELECT 'apple'", False),
    ("SELECT price, item FROM orders", "SELECT item, price FROM orders", False),
    ("SELECT sum(price) / 1.0 AS x FROM orders", "SELECT total(price) FROM orders", True),
]


def test_e3_results_are_compared_by_value_type_and_number(score, fault_row, raises):
    """20 pairs; a gold that fails is an error; the published way, which compares what is printed, fails on some."""
    assert len(PAIRS) == NUM_PAIRS
    with fault_row("E3", "invalid SQL, order, types, NULL and duplicates; a gold that fails", NUM_PAIRS + 1) as row:
        for output, gold, correct in PAIRS:
            verdict = score(output, gold)
            assert (verdict.correct, verdict.decided) == (correct, True), (output, gold, verdict)
            row.passed += 1
        with raises("gold_not_usable", "'SELECT nope FROM orders'", "SQLite"):
            score("SELECT nope FROM orders", "SELECT nope FROM orders")
        row.passed += 1
    assert row.passed == row.tried

    def printed(sql: str) -> str:
        connection = sqlite3.connect(score.databases)
        try:
            return "\n".join("|".join(str(value) for value in each) for each in connection.execute(sql))
        except sqlite3.Error:
            return ""

    wrong = [output for output, gold, correct in PAIRS if (printed(output) == printed(gold)) is not correct]
    assert {"SELEC item FROM refunds", "", "SELECT 1"} <= set(wrong)


CATASTROPHES = [  # regexes and lines on which a backtracking engine does not end
    ("(a+)+$", "a" * 40 + "b"),
    ("(a|aa)+$", "a" * 60 + "b"),
    ("(.*)*x", "a" * 40),
    ("(a|a)*b", "a" * 40),
    ("([a-zA-Z]+)*[0-9]", "a" * 40),
]


def test_e4_regexes_that_stall_a_backtracking_engine_are_decided(run_child, fault_row):
    """5 patterns, each against itself written in another way and against another language."""
    judge = get_scorer("regex")
    with fault_row("E4", "a regex that stalls a backtracking engine", len(CATASTROPHES)) as row:
        for pattern, _ in CATASTROPHES:
            same, other = judge(pattern, f"~(~({pattern}))&.*"), judge(pattern, f"({pattern})|q")
            assert same.correct and other.decided and not other.correct, pattern
            row.passed += 1
    assert row.passed == row.tried
    stalled = 0
    for pattern, line in CATASTROPHES:  # the control: Python's `re`, in a child that is killed
        child = run_child(lambda pattern=pattern, line=line: re.fullmatch(pattern, line))
        time.sleep(0.3)
        stalled += os.waitpid(child.pid, os.WNOHANG)[0] == 0
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            child.kill()
            child.wait()
    assert stalled >= 4


DEEP = 5000
BLOW_UPS = [
    *(f"(a|b)*a(a|b){{{k}}}" for k in (8, 40)),
    "(a{500}){500}",
    "(([a-c]{1,100}){1,100}){1,100}",
    "(" * DEEP + "a" + ")" * DEEP,
    "~(" * DEEP + "a" + ")" * DEEP,
    "(~(b)&" * (DEEP // 2) + "a" + ")*" * (DEEP // 2),
    "a?" * 2000 + "a" * 2000,
    "&".join(f"(.*{chr(97 + i)}.*)" for i in range(26)),
    "|".join(chr(0x4E00 + 2 * i) for i in range(9000)),
    "{" * 19_000,
    "a{1" * 6000 + "}",
]


def test_e5_automata_that_blow_up_are_never_right(fault_row):
    """Each against a language that differs only far in: the budgets of states and time end all of them."""
    judge, unknown = get_scorer("regex"), 0
    with fault_row("E5", "regexes whose automata blow up, nested 5,000 deep", len(BLOW_UPS)) as row:
        for pattern in BLOW_UPS:
            far = judge(pattern, "[a-z]{7}&([a-z]*)")
            other = judge(f"({pattern})", f"({pattern}a?)&[ab]*") if len(pattern) < 60 else far
            for verdict in (far, other):
                assert not verdict.correct
            unknown += not other.decided
            row.passed += 1
    assert row.passed == row.tried
    assert unknown >= 3
    # The control: the automaton of the first family has 2^(k+1) states, so k = 40 has no end.
    states, frontier = {frozenset({0})}, [frozenset({0})]
    while frontier and len(states) <= 20_000:
        state = frontier.pop()
        for char in "ab":
            to = frozenset({0} | ({1} if char == "a" else set()) | {each + 1 for each in state if 0 < each <= 40})
            if to not in states:
                states.add(to)
                frontier.append(to)
    assert len(states) > 20_000


ODD = [
    *("", " ", "\n", "\u00a0", "\u200b", "\x00", "\ud800", "\ufeff", "nan", "NaN", "inf", "-inf", "None", "null", "[]"),
    *(
        "1,00",
        "1 000",
        "1e3",
        "1e400",
        "\u0663",
        "\u0661\u0660\u0660\u0660",
        "0x3e8",
        "1_000",
        "999/1",
        "10^3",
        "--1000",
    ),
    *("9" * 5000, "-" * 5000, "(" * 10_000, "[" * 10_000, "a" * 2_000_000, "\x00" * 100_000, "\u6771" * 50_000),
    *("#### ", "####", "#### nan", "#### 1e3", "#### " + "9" * 5000, "'; DROP TABLE orders; --", "\u00bd"),
]


def test_e6_odd_outputs_are_never_right_by_accident(score, fault_row):
    """40 outputs, every scorer: wrong, without an exception; the published rules take some for right."""
    golds = {"exact": "1000", "startswith": "1000", "regex": "1000", "number": "#### 1,000", "any_of": '["1000"]'}
    golds |= {"label": "1000", "sql": "SELECT item FROM refunds"}
    assert len(ODD) == 40
    with fault_row("E6", "huge, empty, binary and number-like outputs", len(ODD)) as row:
        for output in ODD:
            for name, gold in golds.items():
                judge = score if name == "sql" else get_scorer(name)
                for text in (output, f"#### {output}") if name == "number" else (output,):
                    verdict = judge(text, gold)
                    assert not verdict.correct, (name, output[:20])
                    assert verdict.reason.isascii() and len(verdict.reason) < 300
            row.passed += 1
    assert row.passed == row.tried
    upstream_any_of = [output for output in ODD if output in "1000"]  # contained the wrong way round
    upstream_number = [output for output in ODD if output.partition("####")[2] == "1000".partition("####")[2]]
    assert upstream_any_of == [""] and len(upstream_number) > 20
    with pytest.raises(ValueError, match="4300 digits"):
        int("9" * 5000)


def test_e7_a_child_that_dies_costs_one_row(score, fault_row):
    """Killed while it runs one of 10 queries: that row is undecided, the 9 others are scored."""
    gold = "SELECT id FROM orders"
    slow = EXPLOSIONS[0]
    assert score(gold, gold).correct
    with fault_row("E7", "the process that runs the SQL is killed", 10) as row:
        verdicts = []
        for number in range(10):
            if number == 4:
                killer = threading.Timer(0.1, os.kill, (score.worker.pid, signal.SIGKILL))
                killer.start()
            verdicts.append(score(slow if number == 4 else gold, gold))
            row.passed += verdicts[-1].correct if number != 4 else not verdicts[-1].decided
    assert row.passed == row.tried
    assert not verdicts[4].correct and "died (SIGKILL)" in verdicts[4].reason
    assert score(slow, gold).decided  # the control: not killed, that same row is decided
