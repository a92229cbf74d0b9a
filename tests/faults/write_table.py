"""Write docs/reliability.md from what the fault tests measured: `make reliability`.

The tests add a JSON line for each fault to the file that LLM_JEPA_FAULTS names. Here the lines of a fault are added
up, in the order of their names.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- table: made by `make reliability` -->", "<!-- end of table -->"


def read_rows(path: Path) -> list[dict]:
    """Return one row for each fault: how often it was tried, and how often it was survived."""
    rows: dict[tuple[str, str], dict] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        row = rows.setdefault((entry["id"], entry["fault"]), entry | {"tried": 0, "passed": 0})
        for name in ("tried", "passed"):
            row[name] += entry[name]
    return sorted(rows.values(), key=lambda row: (_order(row["id"]), row["fault"]))


def _order(name: str) -> tuple[str, int, str]:
    letter, number, rest = re.fullmatch(r"([A-Z])(\d+)(.*)", name).groups()
    return letter, int(number), rest


def format_rows(rows: list[dict]) -> str:
    """Return the rows as a list in Markdown, which a phone can show too.

    >>> print(format_rows([{"id": "A1", "fault": "kill -9", "tried": 20, "passed": 20}]))
    - **A1** kill -9: 20/20
    """
    return "\n".join("- **{id}** {fault}: {passed}/{tried}".format(**row) for row in rows)


def main(path: str) -> None:
    """Replace the table of the page; the rest of it is written by hand."""
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{format_rows(read_rows(Path(path)))}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
