"""`step_cost.py --packing`: useful tokens a second of packed and of padded rows, on the same pairs of mixed length.

A pass is one epoch over the pairs, in batches with the same number of pairs in each layout:

    padded_random    rows in random order, each batch padded to its longest
    padded_grouped   batches of similar length, the default of training without packing
    packed           rows in random order, several pairs to a row: the default of training with packing

Layouts take turns pass by pass, each with its own model, which starts from the same weights. `ratio` is the median
over passes of a layout's useful tokens a second (text, bridge, code; no padding, no view), divided by those of
`padded_grouped` with the same objective. Making the batches is timed separately, as in the rest of this benchmark.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from llm_jepa.objective import LLMJEPA, FusedCollator, JEPAConfig, Pair
from llm_jepa.training.sampler import LengthGroupedSampler
from step_objectives import Fused
from step_report import quartiles
from step_timing import WARM_UP, BareLoop, Batch, Chunk, Placement

LAYOUTS: dict[str, tuple[bool, str]] = {  # packing, and the order of rows
    "padded_random": (False, "random"),
    "padded_grouped": (False, "group_by_length"),
    "packed": (True, "random"),
}
BASE = "padded_grouped"
OBJECTIVES = {"plain": 0.0, "jepa": 1.0}  # jepa_lambda


@dataclass
class Seen:
    """Measurements of one layout: for each pass the seconds of its steps, of the processor, and of making batches."""

    step_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    collate_s: list[float] = field(default_factory=list)


def measure(
    pairs: Sequence[Pair], args: argparse.Namespace, make_model: Callable[[], nn.Module], pad_id: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Time `args.rounds` passes of each layout under each objective; return their figures by name."""
    placement = Placement(next(make_model().parameters()).device, args.dtype == "bf16")
    batches = {name: cut(pairs, args.batch_size, order, seed) for name, (_, order) in LAYOUTS.items()}
    loops: dict[str, BareLoop] = {}
    for objective, jepa_lambda in OBJECTIVES.items():
        for layout, (packing, _) in LAYOUTS.items():
            config = JEPAConfig(jepa_lambda=jepa_lambda, jepa_k=args.k)
            fused = Fused(LLMJEPA(make_model(), config), pad_id)
            fused.collate = FusedCollator(config, pad_id, packing=packing, pack_length=args.pack_length)
            loops[f"{objective}_{layout}"] = BareLoop(fused, placement)
    seen = {name: Seen() for name in loops}
    for number in range(args.rounds):
        for name in list(loops)[:: -1 if number % 2 else 1]:
            run_pass(loops[name], batches[layout_of(name)], seen[name])
    return {name: figures(name, seen, batches[layout_of(name)], loop.objective) for name, loop in loops.items()}


def run_pass(loop: BareLoop, batches: list[Batch], seen: Seen) -> None:
    """Train on all batches once, after WARM_UP uncounted ones, and note the sums of the times."""
    start = len(loop.timing.step_s)
    loop.run(Chunk(batches[:WARM_UP], batches, range(len(batches))))
    if loop.timing.error is not None:
        raise SystemExit(f"{loop.timing.error}: choose a smaller --batch-size or --preset.")
    seen.step_s.append(sum(loop.timing.step_s[start:]))
    seen.cpu_s.append(sum(loop.timing.cpu_s[start:]))
    seen.collate_s.append(sum(loop.timing.collate_s[start:]))


def cut(pairs: Sequence[Pair], batch_size: int, order: str, seed: int) -> list[Batch]:
    """Cut the pairs into batches of `batch_size`, the last one shorter, in the order that training would take."""
    sampler = LengthGroupedSampler([len(pair) for pair in pairs], batch_size, seed, group=order == "group_by_length")
    rows = [pairs[number] for number in sampler]
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]


def layout_of(name: str) -> str:
    """Return the layout of a variant: its name without the objective.

    >>> layout_of("jepa_padded_random")
    'padded_random'
    """
    return name.split("_", maxsplit=1)[1]


def figures(name: str, seen: dict[str, Seen], batches: list[Batch], objective: Any) -> dict[str, Any]:
    """Return what is reported of one variant, plain JSON values."""
    own, base = seen[name], seen[f"{name.split('_', maxsplit=1)[0]}_{BASE}"]
    tokens = sum(len(pair) for batch in batches for pair in batch)
    laid_out = [objective.collate(batch).rows.input_ids.shape for batch in batches]
    ratios = [theirs / mine for mine, theirs in zip(own.step_s, base.step_s, strict=True)]
    cpu_ratios = [theirs / mine for mine, theirs in zip(own.cpu_s, base.cpu_s, strict=True) if mine]
    return {
        "tokens_per_s": statistics.median(tokens / seconds for seconds in own.step_s),
        "ratio": statistics.median(ratios),
        "ratio_quartiles": quartiles(ratios),
        "cpu_ratio": statistics.median(cpu_ratios) if cpu_ratios else None,
        "useful_share": tokens / sum(rows * width for rows, width in laid_out),
        "rows_per_step": statistics.mean(rows for rows, _ in laid_out),
        "collate_ms": 1e3 * statistics.median(own.collate_s) / len(batches),
    }


def format_packing(report: dict[str, Any]) -> str:
    """Return the report as text, no line longer than 80 characters."""
    settings, data = report["settings"], report["data"]
    columns = "{:<20} {:>9} {:>6} {:>11} {:>6} {:>7} {:>6} {:>6}"
    lines = [
        f"model  {settings['preset']}, {report['num_parameters']:,} parameters, {settings['dtype']}",
        f"data   {data['origin']}, {data['num_pairs']} pairs, {settings['batch_size']} a step",
        f"       tokens a pair: median {data['median_tokens']:.0f}, longest {data['max_tokens']}",
        "",
        columns.format("layout", "tokens/s", "ratio", "quartiles", "CPU", "useful", "rows", "lay ms"),
    ]
    for name, row in report["variants"].items():
        low, high = row["ratio_quartiles"]
        cpu = "-" if row["cpu_ratio"] is None else f"{row['cpu_ratio']:.2f}"
        share, rows = f"{row['useful_share']:.0%}", f"{row['rows_per_step']:.1f}"
        values = (f"{row['tokens_per_s']:,.0f}", f"{row['ratio']:.2f}", f"{low:.2f}-{high:.2f}", cpu, share, rows)
        lines.append(columns.format(name, *values, f"{row['collate_ms']:.1f}"))
    lines += ["", f"ratio: useful tokens a second over those of {BASE}, median of {settings['rounds']} passes."]
    lines += ["CPU: the same in processor time. useful: share of places with a token of a pair."]
    return "\n".join(lines)
