"""The page docs/claims.md, made from the catalogue and the committed records.

python -m llm_jepa.papers.claims.claims_page > docs/claims.md      in the root of the repository
"""

from __future__ import annotations

import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from . import wording
from .catalogue import Claim, read_catalogue
from .measures import MEASURES, SMALLEST_SAMPLE
from .plan import SEEDS
from .plans import plan_of, read_plans
from .records import Judged, Record, judge_record, read_records, values_of
from .reproduce import BASE, why_left_out
from .resources_needed import (
    ARMS,
    GENERATION_SHARE,
    PEAK,
    START_S,
    STEP_COST,
    TRAINING_SHARE,
    gpu_hours,
    weights_of,
)
from .verdicts import WORDS, Word

RECORDS = Path("benchmarks/results/claims")
BASE_CPU_S = 50
"""Of the base, measured once."""

HEAD = """# The papers' claims, re-tested

Made from the catalogue and the records in `benchmarks/results/claims`; do not edit by hand (`python -m
llm_jepa.papers.claims.claims_page > docs/claims.md`).

    llm-jepa reproduce --list                                 # every claim, and what it needs
    llm-jepa reproduce llmjepa.t3.cosine --scale tiny         # the same experiment on a small model trained here
    llm-jepa reproduce 'llmjepa.t3.*' --scale tiny            # a table
    llm-jepa reproduce llmjepa.t3.cosine --dry-run            # the papers' size: what would be run, and what is missing
    llm-jepa reproduce table2 --scale tiny --from runs/as_published --results benchmarks/results/claims
                                                              # read finished runs, write the record of this page

The {total} claims are those of LLM-JEPA (arXiv 2509.14252), Semantic Tube Prediction (arXiv 2602.22617) and an
audit (arXiv 2605.15394), with the figures that they print. **A verdict at tiny scale is about the experiment on a
model of 0.9 million parameters, not about the papers' models.** It says whether the effect, and what it is credited
to, shows where anybody can look; it cannot refute a number measured on a model of a billion parameters.

| verdict | claims |
|---|---|
{counts}

Of the {total}, {tiny} can be decided at tiny scale and {full} at the papers' size; the others say below why they
cannot."""

RULE = """## The rule

"Shown" is a paired, two-sided t-test over seeds below 0.05 with a 95% interval that leaves out 0. Where an arm is
compared with its baseline, p is corrected by Holm's method for the number of such comparisons in the same table (of
one record).

| a claim that | is `reproduced` if | `explained by a control` if | `not reproduced` if |
|---|---|---|---|
| an arm differs from its baseline | the difference is shown in the claimed direction, and so is that to every \
control; where its interval lies short of the claimed size, "by less than claimed" | it is shown, a control differs \
from the baseline in that direction too (shown), and has more than half of the difference, or the arm is not shown to \
go beyond it | the opposite is shown; or the direction is not shown and the interval excludes the claimed size |
| two arms are equal, or one reaches the other | the 95% interval lies within a stated margin | a control does so \
as well | it lies beyond it |
| a grid has no pattern | the intervals of all neighbours lie within the margin, and along no axis a trend is shown \
(slopes of the seeds, Holm over the axes) | | one lies beyond it, or a trend is shown |
| a value is so much | the interval of its mean lies within a margin around it | | it lies beyond it |

Anything else is `inconclusive`, with the smallest true difference that would have been shown four times in five
(before Holm's correction). That nothing was shown never reproduces a claim of equality. Where every run of both
arms has one value (0%, say), nothing can be seen; nor on fewer than {few} test rows. A control that was not run
cannot be passed. Of a claim of several parts the worst part counts. Comparisons with controls are not corrected: all
must hold. One comparison may stand in two tables, and be shown in one and not in the other, where it is one of more:
so `llmjepa.t8.full` and `llmjepa.t10.ratio1`. The papers test one-sided, without correction, after choosing cells on
the test rows.

Controls: `jepa_lambda0` is the JEPA trainer with lambda 0, whose gradients are four times the baseline's before
clipping (docs/deviations.md); `jepa_shuffled` has the code views of other pairs, and so has `X_shuffled` for a variant
X. Until November 2026 their exchange was faulty (docs/results.md): values of that time are left out, and such a control
counts as not run. By `recipe: as_published` answers are scored by `starts_with`, for the end token is not trained: from
scratch no answer stops, after fine-tuning some do, and `exact_match` stands beside it below. At full size fine-tuned
models are scored by exact match, as published. Geometry is read as the published code reads it. `--recipe fixed` runs
any of this without what that script does by accident."""


def claims_page(records: Sequence[Record]) -> str:
    """Return the page as Markdown.

    Args:
        records: The committed records.
    """
    catalogue = read_catalogue()
    judged = [(record, judge_record(record)) for record in records]
    parts = [_head(judged), RULE.format(few=SMALLEST_SAMPLE), _plan_section()]
    families: dict[str, list[Claim]] = {}
    for claim in catalogue.values():
        families.setdefault(claim.family, []).append(claim)
    papers = dict.fromkeys(claim.paper for claim in catalogue.values())
    for paper in papers:
        parts.append(f"## {paper}\n")
        parts += [_family(name, claims, judged) for name, claims in families.items() if claims[0].paper == paper]
    parts.append(_needs_section())
    if records:
        parts += ["## Every arm that was run\n", *(_record_section(record) for record in records)]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


JudgedRecords = Sequence[tuple[Record, Mapping[str, Judged]]]


def _head(judged: JudgedRecords) -> str:
    counts = Counter(_first_word(claim, judged) for claim in read_catalogue())
    short = sum(_by_less_than_claimed(claim, judged) for claim in read_catalogue())
    rows = [f"| {word} | {counts[word]} |" for word in reversed(WORDS)]
    rows.insert(1, f"| of these, by less than claimed | {short} |")
    decided = {scale: sum(len(plan.checks) for plan in read_plans(scale).values()) for scale in ("tiny", "full")}
    return HEAD.format(total=len(read_catalogue()), counts="\n".join(rows), **decided)


def _first_word(claim: str, judged: JudgedRecords) -> Word:
    """Return the verdict that counts: at full size before tiny, as published before fixed."""
    first = _first(claim, judged)
    return first.word if first else "not run"


def _by_less_than_claimed(claim: str, judged: JudgedRecords) -> bool:
    first = _first(claim, judged)
    return first is not None and first.word == "reproduced" and any(each.falls_short for each in first.outcomes)


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


def _plan_section() -> str:
    lines = [
        "## What is run at tiny scale\n",
        f"The seeds are {', '.join(map(str, SEEDS))}. An experiment is a folder that grows: what one claim had",
        "run, another finds. Its record grows too: where the runs are gone, a call adds its own if those that both",
        "have agree to six digits, and is refused otherwise. Fine-tuning starts from a `nano` model trained on the",
        f"first half of the training rows ({BASE['max_steps']} steps, once). Table 2's `jepa` has k 1 and lambda 1",
        "here; the paper's cell is k 3, lambda 2, which is run at full size only. Seconds are those of one thread of",
        "an AMD EPYC, counted by its processor, of one run of a kind: the base 50, fine-tuning 35 (`ntp`) and 42",
        "(`jepa`), LoRA 56 (`jepa`), loss dropout 75 (mean of three arms), Table 2 120 to 150 (95 by the recipe",
        "`fixed`). The table takes one mean for all arms of an experiment and both recipes; geometry adds about 5",
        "minutes.\n",
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
    return "\n".join(lines) + "\n"


def _needs_section() -> str:
    return f"""## What a claim needs at the papers' size

`llm-jepa reproduce --list` shows weights, data and hours of one H100 for each claim. Hours follow from one formula
(`src/llm_jepa/papers/claims/resources_needed.py`): {ARMS} arms x {len(SEEDS)} seeds x (training + generation + \
{START_S} s), where training
is 6 x parameters x tokens at {TRAINING_SHARE:.0%} of {PEAK / 1e12:.0f} TFLOP/s, a step with both views counted
{STEP_COST:g} times, and generation 2 x parameters x tokens at {GENERATION_SHARE:.0%}. The shares are assumptions.
`configs/gpu/table2_llama1b.yaml` is Table 2 at its own size, which needs no weights.
"""


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
    plan = read_plans(record["scale"], record["recipe"])[record["experiment"]]
    lines += [f"{_columns(record, measures)}\n"]
    lines += [f"| arm | n | {' | '.join(measures)} |", "|---" * (len(measures) + 2) + "|"]
    for arm in plan.arms:
        by_measure = [values_of(record, measure).get(arm, {}) for measure in measures]
        if any(by_measure):
            cells = [_mean_and_std(measure, each) for measure, each in zip(measures, by_measure, strict=True)]
            lines.append(f"| `{arm}` | {max(map(len, by_measure))} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _columns(record: Record, measures: Sequence[str]) -> str:
    """Return what each column means, and of how many rows it is where that is known."""
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
