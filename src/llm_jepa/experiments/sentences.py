"""Makes every sentence about a comparison. Terminal, Markdown, page and model card only show these sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from .equal_cost import Budget
from .results import BUDGET_TITLES, ArmResult, Results, SetResults
from .statistics import PairedComparison, verdict

YES = "Yes."
FEW_SEEDS = 6  # with fewer, the p-value of the sign-flip test cannot go below 0.05

# ---- numbers ----


def format_p(p: float | None) -> str:
    """Return a p-value with two significant digits, `<0.001` below that, `-` for None."""
    if p is None:
        return "-"
    return "<0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def format_points(share: float, sign: bool = True) -> str:
    """Return a share, or a difference of shares, in points; with two decimals if one decimal would wrongly show 0.

    >>> format_points(-0.018), format_points(-0.0003), format_points(0.184, sign=False)
    ('-1.8', '-0.03', '18.4')
    """
    points = 100 * share
    digits = 2 if 0 < abs(points) < 0.05 else 1
    return f"{points:+.{digits}f}" if sign else f"{points:.{digits}f}"


# ---- one comparison ----


def sentence(comparison: PairedComparison, p_name: str = "Holm p") -> str:
    """Return the result of one comparison as text, in points; `p_name` is the name of the value in `p_holm`.

    If no difference is shown, the text has the smallest difference that this many seeds could have shown, because
    "no difference shown" does not prove equality.
    """
    c = comparison
    if c.mean is None or c.baseline_mean is None or c.delta is None:
        return f"{c.arm} against {c.baseline}: {c.verdict}, since {c.reason}.{_missing(c)}"
    text = f"{c.arm}: {c.mean:.1%} against {c.baseline_mean:.1%} ({c.baseline}), {format_points(c.delta)} points"
    if c.ci is not None:
        low, high = map(format_points, c.ci)
        text += f", 95% interval {low} to {high}"
    if c.p_holm is not None:
        text += f", {p_name} {format_p(c.p_holm)}"
    is_open = _margin_is_open(c)
    if is_open:
        text += f", against a loss of {c.margin_in_words} {p_name} {format_p(c.p_margin_holm)}"
    text += f": {verdict_in_words(c)}."
    if c.reason:
        text += f" {c.reason[0].upper()}{c.reason[1:]}."
    if is_open and not c.not_worse_shown:
        text += f" A loss of more than {c.margin_in_words} is not ruled out."
    elif is_open and c.verdict != "worse":
        text += " It is neither shown to be better nor to be worse."
    if c.verdict == "no difference shown":
        text += _about_power(c)
    elif c.n < FEW_SEEDS:
        text += f" {c.n} seeds are few: the sign-flip test cannot go below p {format_p(2 / 2**c.n)} with them."
    return text + _missing(c)


def verdict_in_words(c: PairedComparison) -> str:
    """Return the verdict. If the arm is worse, but by no more than the margin, the text says both."""
    within = c.verdict == "worse" and c.not_worse_shown
    return f"worse, but not by more than {c.margin_in_words}, both shown" if within else c.verdict


def short_verdict(c: PairedComparison) -> str:
    """Return the verdict for a narrow column: `at most 1.0 worse` (points) means not worse by more than the margin."""
    if not c.not_worse_shown or c.verdict == "better":
        return c.verdict
    kept = f"at most {c.margin_in_words.split()[0]}"
    return f"worse, {kept}" if c.verdict == "worse" else f"{kept} worse"


def _margin_is_open(c: PairedComparison) -> bool:
    """Whether a reader asks if the loss is within the margin: not where the arm is better, or far worse."""
    if c.p_margin_holm is None or c.delta is None or c.margin is None or c.verdict == "better":
        return False
    return c.verdict != "worse" or c.delta > -c.margin


def _about_power(c: PairedComparison) -> str:
    if c.smallest_detectable is None:
        return ""
    if c.smallest_detectable > 1:
        return f" With {c.n} seeds and this spread no possible difference would be shown four times in five."
    corrected = "" if c.p_holm == c.p_value else ", before Holm's correction"
    size = format_points(c.smallest_detectable, sign=False)
    what = f"a true difference of about {size} points would be shown four times in five{corrected}"
    return f" With {c.n} seeds and this spread, {what}; a smaller one less often."


def _missing(c: PairedComparison) -> str:
    return "".join(
        f" Seeds without {name}, left out: {', '.join(map(str, seeds))}." for name, seeds in c.missing.items()
    )


def comparison_sentences(found: SetResults) -> list[str]:
    """Return a sentence for each comparison with the baseline, then one for each with a control."""
    beyond = [f"Beyond its control, {each.sentence}" for each in found.controls if each.n]
    return [each.sentence for each in found.comparisons] + beyond


# ---- the headline ----


@dataclass(frozen=True)
class Answer:
    """The first lines of a report: a question, a short answer, and the sentence that supports the answer."""

    question: str
    short: str
    sentence: str


def headline_of(results: Results) -> PairedComparison | None:
    """Return the comparison that a report shows first: that of `Results.headline`, or else the first, if any."""
    comparisons = results.main.comparisons
    return next((each for each in comparisons if each.arm == results.headline), next(iter(comparisons), None))


def answer_of(results: Results) -> Answer:
    """Return the answer of the main test set, with what the headline's arm does on the others and at equal cost."""
    first = headline_of(results)
    if first is None:
        return Answer("Does it help?", "Nothing to compare.", f"{results.baseline} is the only arm.")
    short, text = _short_of_sets(results, first), _headline_sentence(first, results)
    if first.verdict == "better":
        text = " ".join([text, *map(_over_control, results.main.controls_of(first.arm))])
    texts = [text]
    if results.several_tests:
        (main, _), *others = _sets_of(results, first.arm).items()
        texts = [f"On {main}, o{text[1:]}" if text.startswith("Over ") else f"On {main}: {text}"]
        texts += [f"On {name}: {_set_in_words(each)}" for name, each in others]
    limits = []
    for kind, again in results.at_equal.items():
        limit, sentences = _at_equal_cost(again, first.arm)
        limits += [f"{BUDGET_TITLES[kind]}: {limit[0].lower()}{limit[1:]}"] if limit != short else []
        texts += [f"{BUDGET_TITLES[kind]}{each}" for each in sentences]
    if limits and short == YES:
        short = "Yes, at equal steps."
    return Answer(f"Is {first.arm} better than {results.baseline}?", " ".join([short, *limits]), " ".join(texts))


def _at_equal_cost(again: Results, arm: str) -> tuple[str, list[str]]:
    """Return the short answer of an arm at equal cost, and for each test set what follows the kind of cost."""
    arm = next((each.name for each in (again.budgets or {}).values() if each.arm == arm), arm)
    sets = _sets_of(again, arm)
    if not sets:
        return "Not compared.", []
    short = _short_of_sets(again, next(iter(sets.values())))
    wheres = [f", on {name}" if again.several_tests else "" for name in sets]
    return short, [f"{where}: {_set_in_words(each)}" for where, each in zip(wheres, sets.values(), strict=True)]


def _sets_of(results: Results, arm: str) -> dict[str, PairedComparison]:
    """Return the comparison of an arm on each test set that has one, the main one first."""
    return {name: each for name, found in results.tests.items() if (each := found.comparison_of(arm))}


def _short_of_sets(results: Results, first: PairedComparison) -> str:
    """Return the short answer of an arm, given its comparison on the main test set, with what it loses on others."""
    controls = results.main.controls_of(first.arm)
    short = _short_answer(first, controls)
    if not results.several_tests:
        return short
    sets = _sets_of(results, first.arm)
    won, lost = ([name for name, each in sets.items() if each.verdict == word] for word in ("better", "worse"))
    if not lost or (first.verdict == "worse" and not won):
        return short
    if not won:
        return f"{short} Worse on {' and '.join(lost)}."
    text = f"A trade-off: better on {' and '.join(won)}, worse on {' and '.join(lost)}."
    gains = {name: _short_answer(sets[name], results.tests[name].controls_of(first.arm)) for name in won}
    if not any(results.tests[name].controls_of(first.arm) for name in won):
        return f"{text} No control was run."
    unsure = [name for name, gain in gains.items() if gain != YES]
    return f"{text} On {' and '.join(unsure)} not shown beyond its control." if unsure else text


def _short_answer(c: PairedComparison, controls: Sequence[PairedComparison]) -> str:
    if c.verdict == "better":
        if not controls:
            return "Yes; no control was run."
        return YES if all(each.verdict == "better" for each in controls) else "Not shown beyond its control."
    if c.n > 1 and c.ci is None:  # every run at 0%, or every one at 100%
        return "Nothing can be seen."
    if c.verdict == "worse":
        return f"No, it is worse{f', but not by more than {c.margin_in_words}' if c.not_worse_shown else ''}."
    return f"No difference shown{f'; not worse by more than {c.margin_in_words}' if c.not_worse_shown else ''}."


def arm_sentences(results: Results) -> list[str]:
    """Return one plain sentence for each arm, the baseline first: its result, its retrieval, whether it collapsed."""
    lines = []
    for arm in results.arms.values():
        comparison = results.main.comparison_of(arm.name)
        text = f"{arm.name}: "
        text += "no value" if arm.values.mean is None else f"{arm.values.mean:.1%} {results.metric_name}"
        if comparison is None:
            text += ", the baseline"
        elif comparison.delta is None:
            text += f", not compared ({comparison.reason})"
        else:
            text += f", {format_points(comparison.delta)} points: {verdict_in_words(comparison)}"
        recall = arm.retrieval.get("recall@1")
        if recall is not None and recall.mean is not None:
            among = _num_codes(results, arm.name)
            text += f"; it finds the code of a text{among} in {recall.mean:.1%} of cases"
        if arm.raised:
            text += f"; its views {_collapsed(arm)}"
        lines.append(f"{text}.")
    return lines


def _num_codes(results: Results, arm: str) -> str:
    numbers = {number for run in results.runs if run.arm == arm if (number := run.metric("retrieval/num_candidates"))}
    return f" among {' or '.join(f'{number:,.0f}' for number in sorted(numbers))}" if numbers else ""


def _headline_sentence(c: PairedComparison, results: Results) -> str:
    if c.delta is None or not c.differences:
        return _set_in_words(c)
    seeds = list(c.differences)
    arm, baseline = (results.arms[name].values.seeds for name in (c.arm, c.baseline))
    ours, theirs = (fmean(values[seed] for seed in seeds) for values in (arm, baseline))
    count = "1 seed" if len(seeds) == 1 else f"{len(seeds)} paired seeds"
    text = f"Over {count}, {c.arm} reaches {ours:.1%} {results.metric_name} and {c.baseline} {theirs:.1%}: "
    text += f"a difference of {_difference_in_words(c)}"
    text += f"; {c.reason}." if c.reason else "."
    return text + _about_correction(c)


def _about_correction(c: PairedComparison) -> str:
    """Say why no difference is shown although the interval leaves out 0; "" in other cases."""
    if not shown_by_itself(c):
        return ""
    text = " The interval leaves out 0, but it is for one comparison only. Corrected for all comparisons, p is"
    return f"{text} {format_p(c.p_holm)}."


def shown_by_itself(c: PairedComparison) -> bool:
    """Whether a difference would be shown if this were the only comparison, but is not: p counts all of them."""
    found = verdict(c.delta, c.p_holm, c.ci)
    return found == "no difference shown" and verdict(c.delta, c.p_value, c.ci) != found


def _set_in_words(c: PairedComparison) -> str:
    if c.delta is None:
        return f"{c.arm} and {c.baseline} cannot be compared: {c.reason}."
    return f"{_difference_in_words(c)}, {c.verdict}.{_about_correction(c)}"


def _over_control(c: PairedComparison) -> str:
    if c.delta is None:
        return f"It cannot be compared with its control {c.baseline}: {c.reason}."
    return f"Over its control {c.baseline}: {_difference_in_words(c)}."


def _difference_in_words(c: PairedComparison) -> str:
    assert c.delta is not None
    text = f"{format_points(c.delta)} points"
    return text if c.ci is None else f"{text}, 95% interval {' to '.join(map(format_points, c.ci))}"


# ---- what a reader must know of the comparisons ----


def about_controls(results: Results, controls: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a note on each arm that is better than the baseline but not shown to be better than its controls.

    The results have comparisons with controls; `controls` is what `control_arms` returned.
    """
    notes = []
    for name, found in results.tests.items():
        where = f"On {name}: " if results.several_tests else ""
        for comparison in found.comparisons:
            if comparison.verdict == "better" and comparison.arm in controls:
                notes += [where + note for note in _about_gain(comparison, found.controls_of(comparison.arm))]
    return notes


def _about_gain(gain: PairedComparison, controls: Sequence[PairedComparison]) -> list[str]:
    notes, text = [], f"{gain.arm} is better than {gain.baseline}, but"
    missing = " and ".join(each.baseline for each in controls if not each.n)
    behind = " and ".join(each.baseline for each in controls if each.n and each.verdict != "better")
    if missing:
        notes.append(f"{text} its control {missing} has no finished run at its seeds.")
    if not controls:
        notes.append(
            f"{text} no control of it was run. An arm with its settings and shuffle_views: true would show whether the "
            "match of the views helps."
        )
    elif behind:
        notes.append(
            f"{text} is not shown to be better than its control {behind}. Something other than the match of the views "
            "may help."
        )
    return notes


def about_undecided(results: Results) -> list[str]:
    """Return a sentence with the number of answers, by arm, that the metric could not decide; [] if there are none."""
    counts = dict.fromkeys(results.arms, 0)
    kinds = [f"{kind}/{results.metric}" for kind in ("num_unknown", "num_gold_errors")]
    names = [*kinds, *(f"tests/{test}/{kind}" for test in results.other_tests for kind in kinds)]
    for run in results.runs:
        counts[run.arm] += sum(round(run.metric(name) or 0) for name in names)
    if not any(counts.values()):
        return []
    by_arm = ", ".join(f"{arm} {count:,}" for arm, count in counts.items())
    where = "over all seeds and test sets" if results.several_tests else "over all seeds"
    return [f"Answers that {results.metric} could not decide, {where}, and that are counted as not right: {by_arm}."]


def about_budget(budget: Budget) -> str:
    """Return how many steps an arm took whose steps were scaled, and why."""
    baseline = budget.baseline
    if not budget.max_steps:
        why = f"its teacher alone costs as much as a run of {baseline}"
        unknown = f"the cost of a step is not known for both {budget.arm} and {baseline}"
        return f"{budget.arm} is missing: {why if budget.cost and budget.baseline_cost else unknown}."
    unit = {"flops": "counted FLOPs", "time": "median time by the clock"}[budget.kind]
    steps = "1 step" if budget.max_steps == 1 else f"{budget.max_steps:,} steps"
    text = f"{budget.name} takes {steps} where {baseline} takes {budget.baseline_steps:,}: "
    text += f"a step costs {budget.ratio:.3g} times as much, in {unit}"
    if not budget.fixed and budget.baseline_fixed:
        text += f", and it has no teacher; that of {baseline} costs {budget.baseline_fixed / budget.baseline_total:.0%}"
        text += " of its run"
    elif budget.fixed != budget.baseline_fixed:
        text += f", and its teacher {budget.fixed / budget.baseline_total:.0%} of a run of {baseline}"
    return f"{text}."


# ---- collapse alarms ----


def count_alarms(arm: ArmResult) -> str:
    """Return in how many runs of an arm the alarm was raised."""
    return f"{len(arm.raised)} of {len(arm.alarms)} runs" if arm.alarms else "not watched"


def _collapsed(arm: ArmResult) -> str:
    return f"collapsed in {count_alarms(arm)}, of which {len(arm.recovered) or 'none'} recovered"


def collapses_of(found: SetResults) -> list[str]:
    """Return a sentence part for each arm in which a collapse alarm was raised."""
    return [f"{arm.name} {_collapsed(arm)}" for arm in found.arms.values() if arm.raised]


def alarm_sentences(found: SetResults) -> list[str]:
    """Return a line for each arm with an alarm: how many runs, which seeds, and what was seen in the first of them."""
    lines = []
    for arm in found.arms.values():
        if arm.raised:
            first, alarm = next(iter(arm.raised.items()))
            seeds = f"seed{'s' if len(arm.raised) > 1 else ''} {', '.join(map(str, arm.raised))}"
            end = f"{len(arm.recovered) or 'None'} of {len(arm.raised)} had recovered at the last check."
            seen = f"{alarm.reason}" if len(arm.raised) == 1 else f"Seed {first}: {alarm.reason}"
            lines.append(f"Collapse alarm in {arm.name}, {seeds} ({count_alarms(arm)}). {end} {seen}")
    return lines
