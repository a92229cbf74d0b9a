"""Make the page docs/claims.md from the catalogue and the committed records.

python -m llm_jepa.papers.claims.claims_page > docs/claims.md      in the root of the repository
"""

from __future__ import annotations

import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, Template

from . import resources_needed, wording
from .catalogue import PACKAGE, Claim, read_catalogue
from .measures import MEASURES, SMALLEST_SAMPLE
from .plan import SEEDS
from .plans import plan_of, read_plans
from .records import Judged, Record, command_of, judge_record, plan_of_record, read_records, values_of
from .reproduce import BASE, why_left_out
from .resources_needed import gpu_hours, weights_of
from .verdicts import WORDS

RECORDS = Path("benchmarks/results/claims")
BASE_CPU_S = 50
"""CPU seconds to train the base, measured once."""

JudgedRecords = Sequence[tuple[Record, Mapping[str, Judged]]]


def claims_page(records: Sequence[Record]) -> str:
    """Return the page as Markdown, from the committed records; its text is in claims_page.md.j2."""
    judged = [(record, judge_record(record)) for record in records]
    papers: dict[str, dict[str, list[Claim]]] = {}
    for claim in read_catalogue().values():
        papers.setdefault(claim.paper, {}).setdefault(claim.family, []).append(claim)
    first = [_first(claim, judged) for claim in read_catalogue()]
    reproduced = [each for each in first if each and each.word == "reproduced"]
    page = resources.files(PACKAGE).joinpath("claims_page.md.j2").read_text(encoding="utf-8")
    return Template(page, undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True).render(
        claims=read_catalogue(),
        words=WORDS[::-1],
        counts=Counter(each.word if each else "not run" for each in first),
        num_short=sum(any(outcome.falls_short for outcome in each.outcomes) for each in reproduced),
        decided={scale: sum(len(plan.checks) for plan in read_plans(scale).values()) for scale in ("tiny", "full")},
        few=SMALLEST_SAMPLE,
        seeds=SEEDS,
        base_steps=BASE["max_steps"],
        base_cpu_s=BASE_CPU_S,
        plans=[*read_plans("tiny").values(), read_plans("tiny", "fixed")["table2.fixed"]],
        command_of=command_of,
        papers=papers,
        tiny_families={claim.family for claim in read_catalogue().values() if plan_of(claim.id, "tiny")},
        rows_of=lambda claim: _claim_rows(claim, judged),
        needs=resources_needed,
        records=[_record_section(record) for record in records],
    )


def _first(claim: str, judged: JudgedRecords) -> Judged | None:
    """Return the result that counts: full size before tiny, as published before fixed."""
    found = [(record, each[claim]) for record, each in judged if claim in each]
    found.sort(key=lambda pair: (pair[0]["scale"] != "full", pair[0]["recipe"] != "as_published"))
    return found[0][1] if found else None


def _claim_rows(claim: Claim, judged: JudgedRecords) -> Iterator[str]:
    label = f"`{claim.id}`: {_escaped(claim.claim)}"
    found = [(record, each[claim.id]) for record, each in judged if claim.id in each]
    if not found:
        plan = plan_of(claim.id, "tiny") or plan_of(claim.id, "full")
        checks = plan.checks[claim.id] if plan else ()
        check = next((each for each in checks if each.own), checks[0] if checks else None)
        yield f"| {label} | {wording.theirs(claim, check)} | | | {_not_run(claim)} |"
    for record, each in found:
        for part, (check, outcome) in enumerate(zip(each.checks, each.outcomes, strict=True), 1):
            about = f"{wording.about(check)}: {wording.ours(check, outcome)}, n {outcome.n}"
            controls = wording.against_controls(check, outcome)
            verdict = f"{outcome.reason}{wording.could_show(check, outcome)}"
            if len(each.checks) > 1:
                verdict = f"part {part} of {len(each.checks)}, {outcome.word}: {verdict}"
            if part == 1:
                verdict = f"**{each.word}** ({_made(record)}) {verdict}"
            name = label if part == 1 else "same"
            yield f"| {name} | {wording.theirs(claim, check)} | {_escaped(about)} | {_escaped(controls)} | {verdict} |"


def _made(record: Record) -> str:
    changed = ", settings changed" if record["changed"] else ""
    return f"{record['scale']}, {record['recipe']}{changed}"


def _not_run(claim: Claim) -> str:
    if plan_of(claim.id, "tiny"):
        return f"not run: `llm-jepa reproduce {claim.id} --scale tiny`"
    if plan_of(claim.id, "full"):
        hours = gpu_hours(claim)
        needs = f"{weights_of(claim)} weights, {hours:.1f} GPU hours" if hours else f"{weights_of(claim)} weights"
        return f"not run: `llm-jepa reproduce {claim.id}` ({needs})"
    return f"not run: {why_left_out(claim, 'full')}"


def _record_section(record: Record) -> dict[str, Any]:
    """Return what the page has about every arm of a record."""
    seen = record["environment"]
    measures = [measure for measure in record["values"] if record["values"][measure]]
    rows = []
    for arm in plan_of_record(record).arms:
        by_measure = [values_of(record, measure).get(arm, {}) for measure in measures]
        if any(by_measure):
            cells = [_mean_and_std(measure, each) for measure, each in zip(measures, by_measure, strict=True)]
            rows.append((arm, max(map(len, by_measure)), cells))
    return {
        "record": record,
        "made": _made(record),
        "device": seen.get("cpu") if seen.get("device") == "cpu" else seen.get("device"),
        "versions": ", ".join(f"{name} {seen[name]}" for name in ("torch", "transformers") if seen.get(name)),
        "measures": measures,
        "columns": _columns(record, measures),
        "rows": rows,
    }


def _columns(record: Record, measures: Sequence[str]) -> str:
    """Return what each column means, and its number of rows if that is known."""
    counts = record.get("num_rows", {})
    said = [
        f"`{measure}`: {MEASURES[measure].about}{f' ({counts[measure]:,} rows)' if measure in counts else ''}"
        for measure in measures
        if not measure.startswith("accuracy@")
    ]
    stages = ["`accuracy@N`: accuracy at stage N of equal compute"] if len(said) < len(measures) else []
    return _escaped("; ".join([*said, *stages])) + "." + (" Geometry: docs/geometry.md." if "lstsq" in measures else "")


def _mean_and_std(measure: str, values: Mapping[int, float]) -> str:
    if not values:
        return ""
    scale, digits = (100, ".1f") if MEASURES[measure].unit == "share" else (1, ".3g")
    own = [scale * value for value in values.values()]
    spread = f" ± {format(statistics.stdev(own), digits)}" if len(own) > 1 else ""
    return f"{format(statistics.fmean(own), digits)}{spread}"


def _escaped(text: str) -> str:
    return text.replace("|", r"\|").replace("*", r"\*")


if __name__ == "__main__":
    sys.stdout.write(claims_page(read_records(RECORDS)))
