"""A claim's figures as short text: the papers', ours, and the controls'; for a terminal and for the page."""

from __future__ import annotations

import math

from llm_jepa.experiments.sentences import format_p

from .catalogue import Claim
from .measures import MEASURES
from .records import Judged
from .verdicts import Check, Outcome

DASH = "-"
ARROW = "→"


def theirs(claim: Claim, check: Check | None = None) -> str:
    """Return the papers' figures, in percent and points where these are accuracies.

    `check` is one part of how the claim is judged. If the claim does not state a difference for that part, the
    difference that follows from its figures is returned.

    >>> from llm_jepa.papers.claims.catalogue import find
    >>> theirs(find(["llmjepa.t3.cosine"])[0])
    '57.29 → 71.46 (+14.17)'
    """
    follows = check is not None and check.size is not None and claim.jepa_mean is not None
    if check is not None and follows and (claim.delta is None or not check.own):
        return f"{claim.jepa_mean:g} ({difference(check, check.size)} on {check.baseline})"
    if check is not None and not check.own and claim.delta is not None:
        return DASH
    if claim.baseline_mean is not None and claim.jepa_mean is not None:
        return f"{claim.baseline_mean:g} {ARROW} {claim.jepa_mean:g} ({_signed(claim.delta)})"
    if claim.jepa_mean is not None:
        return f"{claim.jepa_mean:g}"
    if claim.delta is not None:
        return _signed(claim.delta)
    return DASH if claim.p_value is None else f"p {claim.p_value:.2g}"


def ours(check: Check, outcome: Outcome) -> str:
    """Return our figures: means of both arms, the difference and its 95% interval."""
    if outcome.n == 0:
        return DASH
    if check.kind == "flat":
        widest = f"widest {difference(check, outcome.delta)}" if outcome.delta is not None else DASH
        return f"{widest}{interval(check, outcome.ci)}"
    means = f"{number(check, outcome.arm_mean)}"
    if check.kind == "value":
        return f"{means}{interval(check, outcome.ci, around=check.expected or 0.0)} for {check.expected:g}"
    gap = f"{difference(check, outcome.delta)}{interval(check, outcome.ci)}"
    return f"{number(check, outcome.baseline_mean)} {ARROW} {means} ({gap})"


def against_controls(check: Check, outcome: Outcome) -> str:
    """Return the arm's difference to each control, with its interval, and the controls that were not run."""
    if outcome.n == 0 or not check.controls:
        return DASH
    parts = dict.fromkeys(check.controls, "not run")
    for name, (delta, ci) in outcome.controls.items():
        parts[name] = f"{difference(check, delta)}{interval(check, ci)}"
    return "; ".join(f"{name} {part}" for name, part in parts.items())


def sentence(judged: Judged) -> str:
    """Return the result for a claim, part by part, in sentences."""
    parts = []
    for check, outcome in zip(judged.checks, judged.outcomes, strict=True):
        text = f"{about(check)}: {outcome.word}, {outcome.reason}"
        if outcome.n:
            text += f". {ours(check, outcome)}, {outcome.n} seed{'s' if outcome.n > 1 else ''}"
            text += f", Holm p {format_p(outcome.p_holm)}" if outcome.p_holm is not None else ""
        if outcome.controls:
            text += f"; the arm over its controls: {against_controls(check, outcome)}"
        parts.append(f"{text}{could_show(check, outcome)}.")
    return " ".join(parts)


def about(check: Check) -> str:
    """Return what a check compares.

    >>> about(Check(arm="jepa", controls=("jepa_lambda0",)))
    'jepa against ntp, accuracy'
    """
    if check.kind == "flat":
        return f"{len(check.pairs)} pairs of neighbours, {check.measure}"
    if check.kind == "value":
        return f"{check.measure} of {check.arm}"
    return f"{check.arm} against {check.baseline}, {check.measure}"


def could_show(check: Check, outcome: Outcome) -> str:
    """Return what follows an inconclusive result: the smallest difference that would have been shown 4 times in 5."""
    if outcome.word != "inconclusive" or not outcome.smallest:
        return ""
    return f"; could have shown {difference(check, outcome.smallest).lstrip('+')}"


def number(check: Check, value: float | None) -> str:
    """Return a value of a check's measure."""
    if value is None:
        return DASH
    return f"{100 * value:.1f}" if MEASURES[check.measure].unit == "share" else f"{value:.3g}"


def difference(check: Check, value: float | None) -> str:
    """Return a difference in points, as a ratio (`x0.5`), or unchanged."""
    if value is None:
        return DASH
    if check.logarithm:
        return f"x{math.exp(value):.3g}"
    return f"{100 * value:+.1f}" if MEASURES[check.measure].unit == "share" else f"{value:+.2g}"


def interval(check: Check, ci: tuple[float, float] | None, around: float = 0.0) -> str:
    """Return an interval, with a space before it; nothing if there is none."""
    if ci is None:
        return ""
    low, high = (each + around for each in ci)
    if around:
        return f" [{low:.3g}, {high:.3g}]"
    return f" [{difference(check, low)}, {difference(check, high)}]"


def _signed(value: float | None) -> str:
    return DASH if value is None else f"{value:+g}"
