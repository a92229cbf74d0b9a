"""Turns the times that `step_cost.py` measured into figures, and into a table of 80 columns."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from step_timing import Chunk, Timing

PLAIN, TRAINER = "plain", "trainer_plain"
# Dense bf16 peak, TFLOP/s, by the name the driver gives (data sheets of the H100 SXM and the H200).
PEAK_TFLOPS = {"NVIDIA H100 80GB HBM3": 989.0, "NVIDIA H200": 989.0}

COLUMNS = "{:<18} {:>9} {:>6} {:>12} {:>6} {:>9} {:>6} {:>6}"  # 79 wide; the last two are CUDA's, or CPU time


def describe_rows(chunks: Sequence[Chunk]) -> dict[str, float]:
    """Return the median and the highest number of tokens (text, bridge, code) of the counted rows."""
    lengths = [len(pair) for chunk in chunks for batch in chunk.batches for pair in batch]
    return {"median_tokens": statistics.median(lengths), "max_tokens": max(lengths)}


def summarise(
    timings: dict[str, Timing], chunks: Sequence[Chunk], peak_tflops: float | None
) -> dict[str, dict[str, Any]]:
    """Return the figures of each variant, plain JSON values; times in ms.

    `tokens_per_s` counts text, bridge and code. `mfu` is the work that plain training needs for these tokens,
    divided by what the device could do at its peak in the same time: padding and further passes do not count as
    work. It is None if the peak is not known. A variant that could not run has only `error`.
    """
    tokens = [sum(map(len, batch)) for chunk in chunks for batch in chunk.batches]
    plain = timings[PLAIN]
    # FLOPs were counted on the first chunk.
    flops_per_token = plain.flops / sum(tokens[: len(chunks[0].batches)])
    peak_tokens_per_s = 1e12 * peak_tflops / flops_per_token if peak_tflops else None
    return {name: _figures(timing, plain, tokens, peak_tokens_per_s) for name, timing in timings.items()}


def _figures(timing: Timing, plain: Timing, tokens: Sequence[int], peak_tokens_per_s: float | None) -> dict[str, Any]:
    if timing.error is not None:
        return {"error": timing.error}
    rounds = len(timing.step_s)  # a slow variant has only the first rounds of plain
    tokens_per_s = statistics.median(
        count / seconds for count, seconds in zip(tokens[:rounds], timing.step_s, strict=True)
    )
    figures = {
        "rounds": rounds,
        "step_ms": 1e3 * statistics.median(timing.step_s),
        **_ratio("ratio", timing.step_s, plain.step_s[:rounds]),
        **(_ratio("cpu_ratio", timing.cpu_s, plain.cpu_s[:rounds]) if timing.cpu_s else {}),
        "flops_ratio": timing.flops / plain.flops,
        "tokens_per_s": tokens_per_s,
        "collate_ms": 1e3 * statistics.median(timing.collate_s) if timing.collate_s else None,
        # As if the variant were alone on the device, without what the others hold.
        "peak_gib": (timing.held_bytes + timing.extra_bytes) / 2**30 if timing.extra_bytes else None,
        "mfu": tokens_per_s / peak_tokens_per_s if peak_tokens_per_s else None,
    }
    if timing.loop_s:
        bare_s = [step + collate for step, collate in zip(plain.step_s, plain.collate_s, strict=True)]
        figures |= {"loop_ms": 1e3 * statistics.median(timing.loop_s), **_ratio("loop_ratio", timing.loop_s, bare_s)}
    return figures


def _ratio(name: str, seconds: Sequence[float], base: Sequence[float]) -> dict[str, Any]:
    """Return median and quartiles of the ratios round by round, each over the same batch."""
    ratios = [mine / theirs for mine, theirs in zip(seconds, base, strict=True)]
    return {name: statistics.median(ratios), f"{name}_quartiles": quartiles(ratios)}


def quartiles(values: Sequence[float]) -> list[float]:
    """Return the first and the third quartile; of a single value, that value twice.

    >>> quartiles([1, 2, 3, 4, 5]), quartiles([7])
    ([2.0, 4.0], [7, 7])
    """
    if len(values) == 1:
        return [values[0], values[0]]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return [first, third]


def format_table(report: dict[str, Any]) -> str:
    """Return the report as text, no line longer than 80 characters."""
    settings, environment, data = report["settings"], report["environment"], report["data"]
    last_columns = ("GiB", "MFU") if settings["device"] == "cuda" else ("CPU", "")
    on_cpu = f"{environment['cpu']}, {settings['threads']} threads"
    lines = [
        f"model  {settings['preset']}, {report['num_parameters']:,} parameters, {settings['dtype']}",
        f"on     {environment['device'] if settings['device'] == 'cuda' else on_cpu}"[:80],
        f"data   {data['origin']}, batches of {settings['batch_size']}, k {settings['k']}",
        f"       tokens a row: median {data['median_tokens']:.0f}, longest {data['max_tokens']}",
        "",
        COLUMNS.format("variant", "ms", "ratio", "quartiles", "FLOPs", "tokens/s", *last_columns),
        *[_line(name, row) for name, row in report["variants"].items()],
        "",
        *_footnotes(report),
    ]
    return "\n".join(line.rstrip() for line in lines)


def _line(name: str, row: dict[str, Any]) -> str:
    if "error" in row:
        return f"{name:<18} {row['error']}"
    if "cpu_ratio" in row:
        last = [_short(row["cpu_ratio"]), ""]
    else:
        last = [f"{row['peak_gib']:.1f}", "-" if row["mfu"] is None else f"{row['mfu']:.1%}"]
    return COLUMNS.format(
        name,
        f"{row['step_ms']:,.1f}",
        _short(row["ratio"]),
        _between(row["ratio_quartiles"]),
        _short(row["flops_ratio"]),
        f"{row['tokens_per_s']:,.0f}",
        *last,
    )


def _footnotes(report: dict[str, Any]) -> list[str]:
    rows, settings = report["variants"], report["settings"]
    lines = ["ratio: median over rounds of the time over plain's on the same batch."]
    if settings["device"] == "cpu":
        lines += ["CPU: the same in processor time, which other programs hardly touch."]
    collated = {name: row["collate_ms"] for name, row in rows.items() if row.get("collate_ms")}
    shown = [name for name in (PLAIN, "fused_stop_grad", "fused_shared") if name in collated]
    lines += ["Laying out a batch, ms: " + ", ".join(f"{name} {collated[name]:.1f}" for name in shown)]
    if "loop_ms" in (row := rows.get(TRAINER, {})):
        lines += [
            "Trainer from step end to step end, batches laid out and log written:",
            f"  {row['loop_ms']:.1f} ms, {row['loop_ratio']:.2f} ({_between(row['loop_ratio_quartiles'])}) of plain "
            "and its laying out.",
        ]
    if settings["device"] == "cuda" and settings["peak_tflops"]:
        lines += [f"MFU: plain training's FLOPs for the tokens; peak {settings['peak_tflops']:g} TFLOP/s assumed."]
    if answers := report["generation"]:
        tokens = answers["tokens"] / answers["num_answers"]
        lines += [f"Greedy answers: {answers['num_answers']:,} of {tokens:.0f} tokens in {answers['time_s']:.1f} s."]
    return lines


def _short(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.1f}"


def _between(quartile_pair: Sequence[float]) -> str:
    return "-".join(_short(value) for value in quartile_pair)
