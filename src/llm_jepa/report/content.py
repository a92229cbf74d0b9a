"""What a report says of an experiment, before it is written as HTML or Markdown; nothing is computed anew here."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from llm_jepa.experiments.results import BUDGET_TITLES

from .figures import PALETTE, shown_axes
from .formatting import counted, duration, interval, percent, points, ratio

Results = Mapping[str, Any]


def headline_of(results: Results) -> Mapping[str, Any] | None:
    """Return the comparison that the report opens with, whatever came out: of the first arm with a JEPA term.

    Controls are none of those (`headline` of the results). Without any, the first arm; None where nothing is compared.
    """
    comparisons: list[Mapping[str, Any]] = results["comparisons"]
    return next((each for each in comparisons if each["arm"] == results.get("headline")), next(iter(comparisons), None))


def answer_of(results: Results) -> dict[str, str]:
    """Return question, short answer and the sentence of the comparison that the report opens with."""
    baseline = results["baseline"]
    first = headline_of(results)
    if first is None:
        return {"question": "Does it help?", "short": "Nothing to compare.", "sentence": f"{baseline} is the only arm."}
    short = {"better": "Yes.", "worse": "No, it is worse."}.get(first["verdict"], "No difference shown.")
    if first["n"] > 1 and first["ci95"] is None:  # every run at 0%, or every one at 100%
        short = "Nothing can be seen."
    sentence = comparison_sentence(first, results)
    if first["verdict"] == "better":
        controls = [each for each in results["controls"] if each["arm"] == first["arm"]]
        if not controls:
            short = "Yes; no control was run."
        else:
            if any(each["verdict"] != "better" for each in controls):
                short = "Not shown beyond its control."
            sentence = f"{sentence} {' '.join(_over_control(each) for each in controls)}"
    return {"question": f"Is {first['arm']} better than {baseline}?", "short": short, "sentence": sentence}


def _over_control(comparison: Mapping[str, Any]) -> str:
    """Say how far an arm is beyond a control of it."""
    if comparison["delta"] is None:
        return f"It cannot be compared with its control {comparison['baseline']}: {comparison['reason']}."
    said = f"Over its control {comparison['baseline']}: {points(comparison['delta'])} points"
    return f"{said}, 95% interval {interval(comparison['ci95'])}." if comparison["ci95"] is not None else f"{said}."


def comparison_sentence(comparison: Mapping[str, Any], results: Results) -> str:
    """Say a comparison in one sentence, with its interval, or with why there is none."""
    seeds = list(comparison["differences"])
    arm, baseline = (results["arms"][comparison[side]]["seeds"] for side in ("arm", "baseline"))
    if comparison["delta"] is None:
        return f"{comparison['arm']} and {comparison['baseline']} cannot be compared: {comparison['reason']}."
    ours, theirs = (percent(sum(values[seed] for seed in seeds) / len(seeds)) for values in (arm, baseline))
    count = "1 seed" if len(seeds) == 1 else f"{len(seeds)} paired seeds"
    metric = str(results["metric"]).replace("_", " ")
    sentence = f"Over {count}, {comparison['arm']} reaches {ours}% {metric} and {comparison['baseline']} {theirs}%: "
    sentence += f"a difference of {points(comparison['delta'])} points"
    if comparison["ci95"] is not None:
        sentence += f", 95% interval {interval(comparison['ci95'])}"
    return f"{sentence}; {comparison['reason']}." if comparison["reason"] else f"{sentence}."


def price_of(results: Results) -> str:
    """Say what a step of the headline's arm costs, and how long all runs trained; "" if nothing is known."""
    parts = []
    if (first := headline_of(results)) is not None:
        arm, baseline = first["arm"], first["baseline"]
        cost = results["cost"].get(arm, {})
        of_time, of_flops = cost.get("step_time_ratio"), cost.get("flops_ratio")
        said = [f"{ratio(of_time)} the time"] if of_time is not None else []
        said += [f"{ratio(of_flops)} the FLOPs"] if of_flops is not None else []
        if said:
            parts.append(f"a step of {arm} takes {' and '.join(said)} of one of {baseline}")
    if times := training_times(results):
        parts.append(f"{counted(len(times), 'run')} trained for {duration(sum(times))} in all")
    return f"{'; '.join(parts)}." if parts else ""


def training_times(results: Results, arm: str | None = None) -> list[float]:
    """Return the seconds that each run trained for, of all arms or one, as far as they are known."""
    runs = [run["metrics"] for run in results["runs"] if arm in (None, run["arm"])]
    return [run["training_time_s"] for run in runs if run.get("training_time_s") is not None]


def collapses_of(results: Results) -> list[str]:
    """Return a sentence part for each arm in which a collapse alarm was raised."""
    lines = []
    for arm, alarms in results["alarms"].items():
        if raised := sum(bool(each["alarmed"]) for each in alarms.values()):
            recovered = sum(bool(each["alarmed"] and each.get("recovered")) for each in alarms.values())
            after = f", of which {recovered} recovered" if recovered else ""
            lines.append(f"{arm} collapsed in {raised} of {len(alarms)} runs{after}")
    return lines


def rows_of(results: Results) -> list[dict[str, Any]]:
    """Return what the tables show of each arm, the baseline first."""
    comparisons = {each["arm"]: each for each in results["comparisons"]}
    return [
        {
            "arm": arm,
            "colour": PALETTE[place % len(PALETTE)],
            "summary": summary,
            "comparison": comparisons.get(arm),
            "cost": results["cost"].get(arm, {}),
            "run_time": statistics.median(times) if (times := training_times(results, arm)) else None,
            "retrieval": results["retrieval"].get(arm, {}),
            "views_retrieval": results["views_retrieval"].get(arm, {}),
            "alarms": results["alarms"].get(arm, {}),
            "raised": {seed: each for seed, each in results["alarms"].get(arm, {}).items() if each["alarmed"]},
        }
        for place, (arm, summary) in enumerate(results["arms"].items())
    ]


def budgets_of(results: Results) -> list[dict[str, Any]]:
    """Return the comparisons at equal FLOPs and equal time, as far as they were made."""
    return [
        {"title": title, "kind": kind, "rows": rows_of(again), "results": again}
        for kind, title in BUDGET_TITLES.items()
        if (again := results.get(f"equal_{kind}"))
    ]


def grid_of(grid: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the section of a grid shows, with the caption of its picture, which tells the slice shown."""
    held = [field for field in grid["axes"] if field not in shown_axes(grid)]
    at = next((cell for cell in grid["cells"] if cell["chosen"]), grid["cells"][0])["coordinates"]
    caption = (
        f"Left or above, validation rows: {grid['choose_by']}, by which the framed cell was chosen. Right or below, "
        f"test rows: {grid['metric']}, looked at after; its best cell is not the one to report. Means over seeds."
    )
    if held:
        caption += " Of the other axes: " + ", ".join(f"{field} {at[field]}" for field in held) + "."
    share = grid["choose_by"] in (grid["metric"], "retrieval@1")
    return dict(grid) | {"caption": caption, "validation_is_share": share}
