"""What the report of `analyze` says first: how many texts find their codes, with an interval over the pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scipy import stats

from llm_jepa.experiments.sentences import Answer

from .formatting import counted, percent
from .geometry_figures import shown_side, sides_of


def geometry_answer(geometry: Mapping[str, Any]) -> Answer:
    """Return what a report of `analyze` opens with, about the last of `sides_of`.

    The sentence names the run whose texts find their codes most often, and the first run of the call. A share counts as
    more than chance if the lower end of its interval is above chance.
    """
    side = sides_of(geometry)[-1]
    shares = {name: shown_side(run, side)["retrieval"] for name, run in geometry["runs"].items()}
    collapsed = [name for name, run in geometry["runs"].items() if shown_side(run, side)["looks_collapsed"]]
    total = counted(len(shares), "run")
    chance = 1 / next(iter(shares.values()))["num_candidates"]
    found = [name for name, each in shares.items() if wilson(each["recall@1"], each["num_queries"])[0] > chance]
    first = next(iter(shares))
    best = max(shares, key=lambda name: shares[name]["recall@1"])  # the first of equals
    count = geometry["num_pairs"]
    sentence = (
        f"In {best}, {_share(shares[best])} of {count:,} texts are nearest to their own code, among {1 / chance:,.0f}"
    )
    if first != best:
        sentence += f"; in {first} {_share(shares[first])}"
    sentence += f"; at random it would be {percent(chance)}%."
    if collapsed:
        sentence += f" Collapsed, by these pairs: {', '.join(collapsed)}."
    short = f"More often than by chance in {len(found)} of {total}." if found else f"Not shown in any of {total}."
    return Answer("Do texts find their own codes?", short, sentence)


def geometry_price(geometry: Mapping[str, Any]) -> str:
    """Return what the analysis cost."""
    models = counted(len(geometry["runs"]), "model")
    return f"no training; {models} embedded both views of {geometry['num_pairs']:,} pairs."


def wilson(share: float, num: int) -> tuple[float, float]:
    """Return the 95% interval of a share of `num` independent draws.

    Pairs that share a code are not independent, so the interval is a little too narrow where many do.
    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927.

    >>> [round(end, 3) for end in wilson(0.5, 100)], [round(end, 3) for end in wilson(0.0, 500)]
    ([0.404, 0.596], [0.0, 0.008])
    """
    interval = stats.binomtest(round(share * num), int(num)).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def _share(retrieval: Mapping[str, Any]) -> str:
    low, high = wilson(retrieval["recall@1"], retrieval["num_queries"])
    return f"{percent(retrieval['recall@1'])}% (95% interval {percent(low)} to {percent(high)})"
