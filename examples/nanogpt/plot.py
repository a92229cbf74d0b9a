"""Draw the logs of train.py: one row of charts for pairs and one for running text, a line for each way of training.

    python plot.py logs/*.json --out curves.png

A line is the mean over seeds; the band around it reaches from the lowest seed to the highest. Also prints the last
evaluation of each way as a row of a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from llm_jepa.report.drawing import STYLE

COLORS = {"baseline": "#000000", "cosine": "#D55E00", "infonce": "#009E73"}  # as in docs/figures
DPI = 110  # 1,155 dots wide: sharp on a page, and a small file
SPARE_COLORS = ("#0072B2", "#CC79A7", "#E69F00", "#56B4E9")
PANELS = (
    ("ce", "Cross-entropy, held out", "nats per character", 1),
    ("gap", "Gap: matched minus shuffled", "cosine", 1),
    ("retrieval@1", "Retrieval@1, held out", "% of texts", 100),
)
Looks = list[dict[str, float]]  # of one run
Arms = dict[str, dict[str, list[Looks]]]  # by data, then by way of training


def name_of(config: dict[str, Any]) -> str:
    """Return a run's way of training: "baseline", or its distance, with the weight if that is not 1."""
    if not config["jepa_lambda"]:
        return "baseline"
    weight = "" if config["jepa_lambda"] == 1 else f", lambda {config['jepa_lambda']:g}"
    return config["jepa_distance"] + weight


def read_logs(paths: list[str]) -> Arms:
    """Return the evaluations of each run, by data and by way of training."""
    arms: Arms = {}
    for path in paths:
        log = json.loads(Path(path).read_text(encoding="utf-8"))
        data = "text" if log["config"]["text"] else "pairs"
        arms.setdefault(data, defaultdict(list))[name_of(log["config"])].append(log["held_out"])
    return arms


def draw(arms: Arms) -> Figure:
    """Return the figure."""
    spare = iter(SPARE_COLORS * len(arms))
    names = dict.fromkeys(name for by_name in arms.values() for name in by_name)
    colors = {name: COLORS.get(name.split(",")[0]) or next(spare) for name in names}
    figure = Figure(figsize=(10.5, 2.7 * len(arms) + 0.4), layout="constrained")
    rows = figure.subplots(len(arms), len(PANELS), squeeze=False, sharey="col")  # the same scale for both data
    for axes, (data, by_name) in zip(rows, arms.items(), strict=True):
        for axis, (key, title, unit, scale) in zip(axes, PANELS, strict=True):
            for name, runs in by_name.items():
                steps = [look["iter"] for look in runs[0]]
                values = [[scale * look[key] for look in looks] for looks in zip(*runs, strict=True)]
                low, high = [min(each) for each in values], [max(each) for each in values]
                axis.fill_between(steps, low, high, color=colors[name], alpha=0.16, linewidth=0)
                mean = [sum(each) / len(each) for each in values]
                axis.plot(steps, mean, color=colors[name], linewidth=2, label=name)
            heading = "Pairs" if data == "pairs" else "Halves of running text"
            axis.set_title(f"{heading}\n{title}" if key == "ce" else title)
            axis.set(xlabel="step", ylabel=unit)
            if key == "ce":
                axis.set_yscale("log")
                axis.set_yticks([0.25, 0.5, 1, 2, 4], ["0.25", "0.5", "1", "2", "4"])
                axis.minorticks_off()
    keys = {label: line for axis in rows.flat for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(keys.values(), keys, loc="outside upper left", ncols=len(keys))
    return figure


def table(arms: Arms) -> str:
    """Return the last evaluations, the mean and the values of all seeds, as a Markdown table."""
    lines = [
        "| data | loss | held-out CE | matched | shuffled | gap | retrieval@1, % |",
        "|---|---|---|---|---|---|---|",
    ]
    for data, by_name in arms.items():
        for name, runs in by_name.items():
            cells = []
            for key, form, scale in (
                ("ce", ".3f", 1),
                ("matched_cosine", ".2f", 1),
                ("shuffled_cosine", ".2f", 1),
                ("gap", ".2f", 1),
                ("retrieval@1", ".1f", 100),
            ):
                values = [scale * looks[-1][key] for looks in runs]
                each = ", ".join(f"{value:{form}}" for value in values)
                cells.append(f"{sum(values) / len(values):{form}} ({each})" if len(values) > 1 else each)
            lines.append(f"| {data} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Draw and print; the exit code is 2 if a log cannot be read."""
    parser = argparse.ArgumentParser(description="Draw the logs of train.py.")
    parser.add_argument("logs", nargs="+", metavar="LOG", help="what train.py --log wrote")
    parser.add_argument("--out", default="curves.png", help="the figure (default: %(default)s)")
    args = parser.parse_args(argv)
    try:
        arms = read_logs(args.logs)
        with mpl.rc_context(STYLE):
            draw(arms).savefig(args.out, dpi=DPI, facecolor="white")
    except (OSError, ValueError, KeyError) as error:
        text = f"the logs cannot be drawn: {error}. Expected files that train.py --log wrote."
        print(f"error: {text} [not_a_log]", file=sys.stderr)
        return 2
    print(table(arms))
    return 0


if __name__ == "__main__":
    sys.exit(main())
