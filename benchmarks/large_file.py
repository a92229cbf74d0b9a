"""Files larger than memory: how fast a .jsonl file is indexed and read, and how much memory that takes.

    python benchmarks/large_file.py                     # 1 GB, in the temporary folder, deleted afterwards
    python benchmarks/large_file.py --megabytes 8 --load-megabytes 1

Each line of the table is measured in its own process. `MB above start` is the highest memory that it ever had,
imports included, less what it had when the work began, so it is never too low. The file was just written, so reading it
measures this library and not the disk. `load in memory` and `load on disk` are the whole way to encoded pairs, for a
smaller file: encoding takes minutes for a GB.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MB = 10**6
LONG_LINE_MB = 300
NUM_RANDOM = 100_000
WORDS = ("lines", "with", "a", "number", "before", "either", "vowel", "the", "string", "dog", "or", "letter")
PROMISE = {"mb_above_start": 64.0, "mb_per_s": 100.0}  # of the index scan


def write_rows(path: Path, size_bytes: int) -> int:
    """Write rows of about 60 to 400 bytes, like those of a data set of pairs, up to a size; return their number."""
    number, written = 0, 0
    with path.open("wb") as file:
        while written < size_bytes:
            rows = []
            for _ in range(1000):
                words = [WORDS[(number * step + step) % len(WORDS)] for step in range(1, 6 + number % 40)]
                rows.append(json.dumps({"text": " ".join(words), "code": f".*{number}.*"}))
                number += 1
            written += file.write(("\n".join(rows) + "\n").encode())
    return number


def index(path: Path) -> int:
    """Index the lines."""
    from llm_jepa.data.lazy_rows import MappedLines

    return len(MappedLines(path))


def read_random(path: Path) -> int:
    """Index the lines and read some of them, all over the file."""
    from llm_jepa.data.lazy_rows import MappedLines

    lines = MappedLines(path)
    places = [number * 7919 * 104_729 % len(lines) for number in range(NUM_RANDOM)]
    assert all(lines[place][1] for place in places)
    return len(places)


def scan(path: Path) -> int:
    """Read line after line."""
    from llm_jepa.data.json_lines import iter_lines

    with path.open("rb") as file:
        return sum(1 for _ in iter_lines(file))


def parse(path: Path) -> int:
    """Read, parse and check each row, and keep none."""
    from llm_jepa.data.config import DataConfig
    from llm_jepa.data.rows import read_examples

    return len(read_examples(str(path), DataConfig(rows_in_memory=False)).examples)


def refuse_long_line(path: Path) -> int:
    """Refuse one line of hundreds of MB, and read the row after it."""
    from llm_jepa.data.config import DataConfig
    from llm_jepa.data.rows import read_examples

    result = read_examples(str(path), DataConfig(rows_in_memory=False, on_broken="drop"))
    assert result.dropped == {"too_long": 1}
    return result.rows_in


def load(path: Path, in_memory: bool) -> int:
    """Load the file up to encoded pairs."""
    from llm_jepa.data.config import DataConfig
    from llm_jepa.data.prepare import load_data
    from llm_jepa.data.tokenizer import train_tokenizer
    from llm_jepa.objective import JEPAConfig

    config = DataConfig(train_file=str(path), rows_in_memory=in_memory, max_length=2000)
    return len(load_data(config, JEPAConfig(), train_tokenizer(WORDS, 300)).train)


TASKS: dict[str, Callable[[Path], int]] = {
    "index": index,
    "index, 100,000 rows": read_random,
    "scan": scan,
    "parse each row": parse,
    "one line of 300 MB": refuse_long_line,
    "load on disk": lambda path: load(path, in_memory=False),
    "load in memory": lambda path: load(path, in_memory=True),
}


def memory_bytes(name: str) -> int:
    """Return this process's memory now (VmRSS), or the most it ever had (VmHWM).

    The system's `ru_maxrss` cannot be used: it begins at the memory of the process that started this one.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def measure(task: str, path: Path) -> dict[str, Any]:
    """Do a task in this process, and return its time and memory."""
    import llm_jepa.data.prepare  # noqa: F401 (what every command has imported when it begins to read)

    start_bytes = memory_bytes("VmRSS")
    start = time.perf_counter()
    rows = TASKS[task](path)
    time_s = time.perf_counter() - start
    peak_bytes = memory_bytes("VmHWM")
    size_mb = path.stat().st_size / MB
    return {
        "task": task,
        "file_mb": round(size_mb, 1),
        "rows": rows,
        "time_s": round(time_s, 3),
        "mb_per_s": round(size_mb / time_s, 1),
        "mb_above_start": round((peak_bytes - start_bytes) / MB, 1),
    }


def measure_apart(task: str, path: Path) -> dict[str, Any]:
    """Do a task in a new process."""
    command = [sys.executable, str(Path(__file__).resolve()), "--task", task, "--path", str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def run(megabytes: int, load_megabytes: int, long_line_mb: int = LONG_LINE_MB) -> dict[str, Any]:
    """Measure all tasks on files of these sizes, made in a temporary folder."""
    results = []
    with tempfile.TemporaryDirectory(prefix="llm-jepa-large-") as name:
        whole, part, long_line = (Path(name) / f"{each}.jsonl" for each in ("whole", "part", "long"))
        write_rows(whole, megabytes * MB)
        write_rows(part, load_megabytes * MB)
        with long_line.open("wb") as file:
            file.write(b'{"text": "')
            for _ in range(long_line_mb):
                file.write(b"a" * MB)
            file.write(b'"}\n{"text": "a dog", "code": "b"}\n')
        for task in TASKS:
            path = part if task.startswith("load") else long_line if task.startswith("one line") else whole
            results.append(measure_apart(task, path))
    first = results[0]
    kept = first["mb_above_start"] <= PROMISE["mb_above_start"] and first["mb_per_s"] >= PROMISE["mb_per_s"]
    return {"promise": PROMISE, "kept": kept, "results": results}


def format_table(results: list[dict[str, Any]]) -> str:
    """Return the results as lines of fixed columns."""
    lines = [f"{'':20} {'file MB':>9} {'rows':>11} {'seconds':>9} {'MB/s':>9} {'MB above start':>15}"]
    lines += [
        f"{each['task']:20} {each['file_mb']:>9,} {each['rows']:>11,} {each['time_s']:>9.2f} {each['mb_per_s']:>9,} "
        f"{each['mb_above_start']:>15,}"
        for each in results
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000, help="size of the file")
    parser.add_argument("--load-megabytes", type=int, default=16, help="size of the file that is encoded")
    parser.add_argument("--task", choices=TASKS, help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task:
        print(json.dumps(measure(arguments.task, arguments.path)))
        return
    found = run(arguments.megabytes, arguments.load_megabytes)
    print(format_table(found["results"]))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
