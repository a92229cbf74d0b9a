"""Our figures as notes on the paper's PDF: the result for each claim, on the page of version 1 that makes it.

    llm-jepa annotate 2509.14252v1.pdf --notes llm-jepa-v1 --results benchmarks/results/claims --out notes.pdf

A page has one box. If the page has a reading note too, our figures are the last lines of that note.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from llm_jepa.errors import ConfigError
from llm_jepa.papers.notes.notes_file import COLOURS, Note

from . import wording
from .records import Judged, Record, judge_record, read_records

TITLE = "Measured with llm-jepa"


def measured_notes(folder: Path) -> list[Note]:
    """Return a note for each page of version 1 with a claim that was decided, from the records of a folder.

    The folder is the `--results` of `llm-jepa reproduce`, or its `--out`, which has them in `results/`.

    Raises:
        ConfigError: If the folder has no record, or no claim with a page was run.
    """
    own = folder / "results"
    records = read_records(own if own.is_dir() else folder)
    if not records:
        raise ConfigError(
            "record_missing",
            f"{folder} has no record of `llm-jepa reproduce`. Expected the folder of its --results, or its --out.",
        )
    pages: dict[int, list[str]] = {}
    for record in records:
        for page, line in _lines(record):
            pages.setdefault(page, []).append(line)
    if not pages:
        raise ConfigError("claim_not_run", f"{folder} has no result for a claim on a page of the paper's version 1.")
    return [Note(page, TITLE, tuple(lines), colour=COLOURS["green"]) for page, lines in sorted(pages.items())]


def merged(notes: Sequence[Note], measured: Sequence[Note]) -> list[Note]:
    """Return reading notes with the measured ones, one to a page, in the order of pages.

    If both have a note for a page, the reading note gets the lines of the other after its own.

    >>> [note] = merged([Note(3, "The loss", ("A sum.",))], [Note(3, TITLE, ("Table 2: +1.",))])
    >>> note.title, note.bullets
    ('The loss', ('A sum.', 'Measured with llm-jepa. Table 2: +1.'))
    """
    by_page = {note.page: note for note in notes}
    for note in measured:
        if note.page in by_page:
            first, *rest = note.bullets
            lines = (*by_page[note.page].bullets, f"{note.title}. {first}", *rest)
            by_page[note.page] = dataclasses.replace(by_page[note.page], bullets=lines)
        else:
            by_page[note.page] = note
    return [by_page[page] for page in sorted(by_page)]


def _lines(record: Record) -> Iterable[tuple[int, str]]:
    """Yield page and line of each claim that was decided; claims that say the same appear once on a page."""
    seen: set[tuple[object, ...]] = set()
    for judged in judge_record(record).values():
        page = judged.claim.v1_page
        key = (page, *((check.kind, check.arm, check.baseline, check.measure) for check in judged.checks))
        if page is not None and judged.word != "not run" and key not in seen:
            seen.add(key)
            yield page, _line(judged, record)


def _line(judged: Judged, record: Record) -> str:
    check, outcome = judged.deciding_part
    changed = ", settings changed" if record["changed"] else ""
    return (
        f"{_place(judged)}: theirs {wording.theirs(judged.claim, check)}; ours ({record['scale']}, {record['recipe']}"
        f"{changed}; {wording.about(check)}) {wording.ours(check, outcome)}, {outcome.n} seeds: {judged.word}, "
        f"{outcome.reason}."
    )


def _place(judged: Judged) -> str:
    """Return the table of version 1, and the row by the last part of the claim's id."""
    in_v1 = re.search(r"\(?v1 ([A-Za-z]+ \d+)", judged.claim.where)
    table = in_v1.group(1) if in_v1 else judged.claim.where.split(",")[0]
    row = judged.claim.id.removeprefix(judged.claim.family).removeprefix(".")
    return f"{table}, {row}" if row else table
