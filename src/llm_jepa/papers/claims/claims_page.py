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

from jinja2 import StrictUndefined, Template

from . import resources_needed, wording
from .catalogue import PACKAGE, Claim, read_catalogue
from .measures import MEASURES, SMALLEST_SAMPLE
from .plan import SEEDS
from .plans import plan_of, read_plans
from .records import Judged, Record, judge_record, plan_of_record, read_records, values_of
from .reproduce import BASE, why_left_out
from .resources_needed import gpu_hours, weights_of
from .verdicts import WORDS

RECORDS = Path("benchmarks/results/claims")
BASE_CPU_S = 50
"""CPU seconds to train the base, measured once."""

JudgedRecords = Sequence[tuple[Record, Mapping[str, Judged]]]


def claims_page(records: Sequence[Record]) -> str:
    """Return the page as Markdown, from the committed records; its text is in claims_page.md.j2."""
    catalogue = read_catalogue()
    judged = [(record, judge_record(record)) for record in records]
    families: dict[str, list[Claim]] = {}
    for claim in catalogue.values():
        families.setdefault(claim.family, []).append(claim)
    sections = []
    for paper in dict.fromkeys(claim.paper for claim in catalogue.values()):
        sections.append(f"## {paper}\n")
        sections += [_family(name, claims, judged) for name, claims in families.items() if claims[0].paper == paper]
    page = resources.files(PACKAGE).joinpath("claims_page.md.j2").read_text(encoding="utf-8")
    return Template(page, undefined=StrictUndefined, keep_trailing_newline=True).render(
        claims=catalogue,
        counts=_counts(judged),
        decided={scale: sum(len(plan.checks) for plan in read_plans(scale).values()) for scale in ("tiny", "full")},
        few=SMALLEST_SAMPLE,
        seeds=SEEDS,
        base_steps=BASE["max_steps"],
        plans=_plans_table(),
        families="\n".join(sections),
        needs=resources_needed,
        arms="\n".join(_record_section(record) for record in records),
    )


def _counts(judged: JudgedRecords) -> str:
    """Return the number of claims with each verdict; full size counts before tiny, as published before fixed."""
    first = [_first(claim, judged) for claim in read_catalogue()]
    counts = Counter(each.word if each else "not run" for each in first)
    reproduced = [each for each in first if each and each.word == "reproduced"]
    short = sum(any(outcome.falls_short for outcome in each.outcomes) for each in reproduced)
    rows = [f"| {word} | {counts[word]} |" for word in reversed(WORDS)]
    rows.insert(1, f"| of these, by less than claimed | {short} |")
    return "\n".join(rows)


def _first(claim: str, judged: JudgedRecords) -> Judged | None:
    found = [(record, each[claim]) for record, each in judged if claim in each]
    found.sort(key=lambda pair: (pair[0]["scale"] != "full", pair[0]["recipe"] != "as_published"))
    return found[0][1] if found else None


# ---- tables of claims ----


def _family(name: str, claims: Sequence[Claim], judged: JudgedRecords) -> str:
    lines = [f"### {name}: {claims[0].where}\n"]
    commands = {f"llm-jepa reproduce '{name}.*' --scale tiny" for claim in claims if plan_of(claim.id, "tiny")}
    lines += [*(f"    {command}" for command in sorted(commands)), ""] if commands else []
    lines += ["| claim | theirs | ours | controls | verdict |", "|---|---|---|---|---|"]
    for claim in claims:
        lines += list(_claim_rows(claim, judged))
    return "\n".join(lines) + "\n"


def _claim_rows(claim: Claim, judged: JudgedRecords) -> Iterator[str]:
    label = f"`{claim.id}`: {_escaped(claim.claim)}"
    found = [(record, each[claim.id]) for record, each in judged if claim.id in each]
    if not found:
        plan = plan_of(claim.id, "tiny") or plan_of(claim.id, "full")
        checks = plan.checks[claim.id] if plan else ()
        check = next((each for each in checks if each.own), checks[0] if checks else None)
        yield f"| {label} | {wording.theirs(claim, check)} | | | {_not_run(claim)} |"
    for record, each in found:
        for place, (check, outcome) in enumerate(zip(each.checks, each.outcomes, strict=True)):
            about = f"{wording.about(check)}: {wording.ours(check, outcome)}, n {outcome.n}"
            said = f"part {place + 1} of {len(each.checks)}, {outcome.word}: {outcome.reason}"
            if outcome.word == "inconclusive" and outcome.smallest:
                said += f"; {wording.could_show(check, outcome)}"
            first = f"**{each.word}** ({_made(record)})" if place == 0 else ""
            verdict = " ".join(part for part in (first, said if len(each.checks) > 1 else outcome.reason) if part)
            if len(each.checks) == 1 and outcome.word == "inconclusive" and outcome.smallest:
                verdict += f"; {wording.could_show(check, outcome)}"
            controls = wording.against_controls(check, outcome)
            yield f"| {label} | {wording.theirs(claim, check)} | {_escaped(about)} | {_escaped(controls)} | {verdict} |"
            label = "same" if place + 1 < len(each.checks) else label


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


# ---- what is run ----


def _plans_table() -> str:
    lines = [
        "| experiment | decides claims | arms | runs | CPU s a run | CPU minutes | command |",
        "|---|---|---|---|---|---|---|",
    ]
    plans = [*read_plans("tiny").values(), read_plans("tiny", "fixed")["table2.fixed"]]
    total_runs, total_s = 1, float(BASE_CPU_S)
    for plan in plans:
        runs = len(plan.arms) * len(SEEDS)
        seconds = runs * (plan.cpu_s or 0.0)
        total_runs, total_s = total_runs + runs, total_s + seconds
        name, _, recipe = plan.name.partition(".")
        command = f"llm-jepa reproduce {name} --scale tiny{f' --recipe {recipe}' if recipe else ''}"
        lines.append(
            f"| `{plan.name}`: {plan.title} | {len(plan.checks)} | {len(plan.arms)} | {runs} | {plan.cpu_s:g} | "
            f"{seconds / 60:.0f} | `{command}` |"
        )
    lines.append(f"| all, and the base | | | {total_runs} | | {total_s / 60:.0f} | |")
    return "\n".join(lines)


def _record_section(record: Record) -> str:
    seen = record["environment"]
    versions = ", ".join(f"{name} {seen[name]}" for name in ("torch", "transformers") if seen.get(name))
    device = seen.get("cpu") if seen.get("device") == "cpu" else seen.get("device")
    lines = [
        f"### {record['experiment']} ({_made(record)})\n",
        f"    {record['command']}\n",
        f"{device}; {versions}; commit {seen.get('commit')}. Means over seeds and standard deviations; "
        "shares in percent.\n",
    ]
    if record["changed"]:
        lines.append(f"Settings that were changed: {record['changed']}.\n")
    measures = [measure for measure in record["values"] if record["values"][measure]]
    plan = plan_of_record(record)
    lines += [f"{_columns(record, measures)}\n"]
    lines += [f"| arm | n | {' | '.join(measures)} |", "|---" * (len(measures) + 2) + "|"]
    for arm in plan.arms:
        by_measure = [values_of(record, measure).get(arm, {}) for measure in measures]
        if any(by_measure):
            cells = [_mean_and_std(measure, each) for measure, each in zip(measures, by_measure, strict=True)]
            lines.append(f"| `{arm}` | {max(map(len, by_measure))} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


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
