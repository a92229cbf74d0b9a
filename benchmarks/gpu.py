"""What a step costs on a GPU (`make bench-gpu`): llama-1b at three lengths, plain and JEPA, by kind of attention.

    python benchmarks/gpu.py                      # writes benchmarks/results/<gpu>.json

Random weights in float32, steps in bf16 autocast, about --tokens useful tokens a step. Every variant has the device to
itself, one after the other: --warm-up steps that are not counted (compilers run in them), then --rounds. `step_ms` is
the median; `ratio` is relative to `plain_sdpa` at the same length; memory is the peak of a step and what is held
between steps. How a step is timed: step_timing.py.

MFU is the work that plain training needs for the useful tokens, divided by what the device could do at its peak in the
time of the step. Views and padding do not count as work. The work of a token is 6 N + 12 L C T (PaLM, arXiv
2204.02311, appendix B), with N weights in matrix products (the head counts, the table of embeddings does not), L layers
of width C, T tokens.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from tqdm import tqdm

from llm_jepa.data.prepare import LoadedData
from llm_jepa.files import write_whole
from llm_jepa.objective import LLMJEPA, JEPAConfig, Pair, UnsupportedModelError
from llm_jepa.runs.environment import describe_environment
from llm_jepa.training.models import PRESETS, ModelConfig, build_model, num_parameters
from step_cost import SEED, load_pairs, stretch
from step_objectives import Fused, Objective
from step_report import PEAK_TFLOPS
from step_timing import BareLoop, Chunk, Placement, Timing, release_memory

RESULTS = Path(__file__).resolve().parent / "results"
LENGTHS = (128, 512, 2048)
BASE = "plain_sdpa"
VARIANTS: dict[str, tuple[float, str]] = {  # jepa_lambda, attention
    BASE: (0.0, "sdpa"),
    "plain_flex": (0.0, "flex_attention"),
    "jepa_sdpa": (1.0, "sdpa"),
    "jepa_flex": (1.0, "flex_attention"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure on the CUDA device, write the file, print the table; return the exit code."""
    args = _parse(argv)
    if not torch.cuda.is_available():
        print("benchmarks/gpu.py needs a CUDA device, and there is none. On a CPU: make bench.", file=sys.stderr)
        return 2
    name = torch.cuda.get_device_name()
    report = measure(args, Placement(torch.device("cuda"), bf16=True), args.peak_tflops or PEAK_TFLOPS.get(name))
    out = args.out or RESULTS / f"{file_name(name)}.json"
    write_whole(out, json.dumps(report, indent=2) + "\n")
    print(format_report(report))
    print(json.dumps(report))
    return 0


def measure(args: argparse.Namespace, placement: Placement, peak_tflops: float | None) -> dict[str, Any]:
    """Time all variants at all lengths on one device; return the report."""
    transformers.utils.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        data, _ = load_pairs(Path(folder), num_pairs=max(1000, args.tokens // min(args.lengths)))
    lengths: dict[str, Any] = {}
    parameters = 0
    with tqdm(total=len(args.lengths) * len(VARIANTS), desc="variant", disable=None) as bar:
        for length in args.lengths:
            timings: dict[str, Timing] = {}
            batches = make_batches(data.train.pairs, length, args.tokens, args.warm_up + args.rounds)
            for name in VARIANTS:
                model = make_model(args.preset, VARIANTS[name][1], data).to(placement.device)
                parameters, flops = num_parameters(model), flops_per_token(model, length)
                timings[name] = run(name, model, batches, args, placement, data.encoder.pad_id)
                del model
                release_memory()
                bar.update()
            lengths[str(length)] = summarise(timings, length * len(batches[0]), flops, peak_tflops)
    return {
        "benchmark": "gpu",
        "settings": {name: value for name, value in vars(args).items() if name != "out"} | {"peak_tflops": peak_tflops},
        "num_parameters": parameters,
        "lengths": lengths,
        "environment": describe_environment(),
    }


def make_model(preset: str, attention: str, data: LoadedData) -> nn.Module:
    """Return a model of the preset in training mode; each call gives the same weights."""
    torch.manual_seed(SEED)
    ids = {"end_id": data.encoder.end_ids[0], "pad_id": data.encoder.pad_id}
    return build_model(ModelConfig(preset, attn_implementation=attention), data.tokenizer, **ids).train()


def make_batches(pairs: Sequence[Pair], length: int, tokens: int, count: int) -> list[list[Pair]]:
    """Return batches of `tokens` tokens, or one row if that is more, in rows of `length`."""
    size = max(1, tokens // length)
    supply = [stretch(pair, length) for pair in pairs[: size * count]]
    return [[supply[(number * size + row) % len(supply)] for row in range(size)] for number in range(count)]


def run(
    name: str,
    model: nn.Module,
    batches: list[list[Pair]],
    args: argparse.Namespace,
    placement: Placement,
    pad_id: int,
) -> Timing:
    """Time the steps of one variant; `error` is the reason if it cannot run."""
    try:
        loop = BareLoop(objective(name, model, args.k, pad_id), placement)
        loop.run(Chunk(batches[: args.warm_up], batches[args.warm_up :], range(args.rounds)))
    except UnsupportedModelError as error:
        return Timing(error=str(error))
    return loop.timing


def objective(name: str, model: nn.Module, k: int, pad_id: int) -> Objective:
    """Return what a variant trains."""
    jepa = LLMJEPA(model, JEPAConfig(jepa_lambda=VARIANTS[name][0], jepa_k=k))
    return Fused(jepa, pad_id)


def flops_per_token(model: nn.Module, length: int) -> float:
    """Return the FLOPs of forward and backward of a token in a row of `length`: 6 N + 12 L C T."""
    config: Any = model.config
    matrices = sum(each.weight.numel() for each in model.modules() if isinstance(each, nn.Linear))  # the head is one
    width = config.num_attention_heads * getattr(config, "head_dim", config.hidden_size // config.num_attention_heads)
    return 6 * matrices + 12 * config.num_hidden_layers * width * length


def summarise(
    timings: dict[str, Timing], tokens: int, flops: float, peak_tflops: float | None
) -> dict[str, dict[str, Any]]:
    """Return the figures of the variants at one length.

    Args:
        timings: What was measured, by variant.
        tokens: Useful tokens of a step.
        flops: FLOPs that plain training needs for one of them.
        peak_tflops: The device's peak; None if it is not known, so that there is no MFU.
    """
    base = timings[BASE]
    base_s = statistics.median(base.step_s) if base.error is None else None
    return {name: _figures(timing, base_s, tokens, flops, peak_tflops) for name, timing in timings.items()}


def _figures(
    timing: Timing, base_s: float | None, tokens: int, flops: float, peak_tflops: float | None
) -> dict[str, Any]:
    if timing.error is not None:
        return {"error": timing.error}
    step_s = statistics.median(timing.step_s)
    return {
        "step_ms": 1e3 * step_s,
        "ratio": step_s / base_s if base_s else None,
        "tokens_per_s": tokens / step_s,
        "peak_gib": (timing.held_bytes + timing.extra_bytes) / 2**30,
        "held_gib": timing.held_bytes / 2**30,
        "mfu": tokens * flops / step_s / (1e12 * peak_tflops) if peak_tflops else None,
    }


def file_name(device: str) -> str:
    """Return the device's name as the name of a file.

    >>> file_name("NVIDIA H100 80GB HBM3")
    'nvidia_h100_80gb_hbm3'
    """
    return re.sub(r"[^a-z0-9]+", "_", device.lower()).strip("_")


def format_report(report: dict[str, Any]) -> str:
    """Return the report as text."""
    columns = "{:>6} {:<12} {:>9} {:>6} {:>10} {:>7} {:>6}"
    lines = [
        f"model  {report['settings']['preset']}, {report['num_parameters']:,} parameters",
        f"on     {report['environment']['device']}",
        "",
        columns.format("length", "variant", "ms", "ratio", "tokens/s", "GiB", "MFU"),
    ]
    for length, rows in report["lengths"].items():
        for name, row in rows.items():
            if "error" in row:
                lines.append(f"{length:>6} {name:<12} {row['error']}")
                continue
            ratio = "-" if row["ratio"] is None else f"{row['ratio']:.2f}"
            mfu = "-" if row["mfu"] is None else f"{row['mfu']:.1%}"
            values = (f"{row['step_ms']:,.1f}", ratio, f"{row['tokens_per_s']:,.0f}", f"{row['peak_gib']:.1f}", mfu)
            lines.append(columns.format(length, name, *values))
    return "\n".join(lines)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--preset", choices=list(PRESETS), default="llama-1b", help="model, with random weights (default llama-1b)")
    add("--lengths", type=int, nargs="+", default=list(LENGTHS), help="tokens of a row (default 128 512 2048)")
    add("--tokens", type=int, default=16384, help="useful tokens of a step (default 16384)")
    add("--k", type=int, default=1, help="[PRED] tokens (default 1)")
    add("--rounds", type=int, default=20, help="counted steps of each variant (default 20)")
    add("--warm-up", type=int, default=5, help="steps before them (default 5)")
    add("--peak-tflops", type=float, help="bf16 peak of the device (default: known for H100 SXM and H200)")
    add("--out", type=Path, help="file to write (default benchmarks/results/<gpu>.json)")
    args = parser.parse_args(argv)
    if min(args.tokens, args.rounds, args.warm_up) < 1 or min(args.lengths) < 8:
        parser.error("--tokens, --rounds and --warm-up must be at least 1, and --lengths at least 8.")
    return args


if __name__ == "__main__":
    raise SystemExit(main())
