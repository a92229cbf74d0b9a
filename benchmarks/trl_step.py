"""Plain training compared with TRL's SFTTrainer: the same rows in the same order, loss and time of each step.

    pip install -e '.[trl]'
    python benchmarks/trl_step.py

`JEPATrainer` with jepa_lambda 0 and `SFTTrainer` start from the same weights and train on the same batches. Their
settings are the same: rows padded to the longest of the batch, labels on all tokens, AdamW, clipping to norm 1, a
constant rate, no gradient checkpointing. They take turns, run by run, in alternating order; the first WARM_UP steps of
a run are not counted. `ratio` is the median over runs of our median time divided by TRL's. A step is the time between
`on_step_begin` and `on_step_end`; a loop is the time from one step's end to the next's, with fetching and making
batches. The two loss curves must agree within TOLERANCE, or the exit code is 3.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback

from llm_jepa.files import write_whole
from llm_jepa.objective import LLMJEPA, JEPAConfig, Pair
from llm_jepa.runs.environment import describe_environment
from llm_jepa.training.arguments import JEPATrainingArguments
from llm_jepa.training.models import PRESETS
from llm_jepa.training.trainer import JEPATrainer
from step_cost import SEED, ModelMaker, load_mixed_pairs, load_pairs, make_batches
from step_objectives import whole_row
from step_report import quartiles
from step_timing import LEARNING_RATE, MAX_GRAD_NORM

WARM_UP = 3
TOLERANCE = 1e-4  # nats: the labels, their mean and the steps are the same, up to the rounding of some steps of AdamW
OURS, TRL = "JEPATrainer", "SFTTrainer"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, and end standard output with one JSON object; return the exit code."""
    args = _parse(argv)
    try:
        import trl
    except ImportError as error:
        print(f"This benchmark needs TRL: pip install -e '.[trl]' ({error}).", file=sys.stderr)
        return 2
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        load = load_mixed_pairs if args.data == "gsm8k" else load_pairs
        data, origin = load(Path(folder), None)
        batches = make_batches(data.train.pairs, args.batch_size, WARM_UP + args.steps)
        maker = ModelMaker(args, data)
        runs = measure(batches, args, maker, folder)
    report = {
        "benchmark": "trl_step",
        "settings": {name: value for name, value in vars(args).items() if name != "out"},
        "data": {"origin": origin},
        "num_parameters": maker.num_parameters,
        "trl": trl.__version__,
        **compare(runs),
        "environment": describe_environment(),
    }
    if args.out:
        write_whole(args.out, json.dumps(report, indent=2) + "\n")
    print(format_report(report))
    print(json.dumps(report))
    return 0 if report["loss_difference"] <= TOLERANCE else 3


class Watch(TrainerCallback):
    """Notes the loss and the times of each step of one run."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.step_s: list[float] = []
        self.loop_s: list[float] = []
        self._start = self._end = time.perf_counter()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        _wait()
        self._start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        _wait()
        now = time.perf_counter()
        self.step_s.append(now - self._start)
        self.loop_s.append(now - self._end)
        self._end = now

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))


def measure(
    batches: Sequence[Sequence[Pair]], args: argparse.Namespace, maker: ModelMaker, folder: str
) -> dict[str, list[Watch]]:
    """Run both trainers `args.runs` times in alternating order; return the measurements, by trainer."""
    seen: dict[str, list[Watch]] = {OURS: [], TRL: []}
    pairs = [pair for batch in batches for pair in batch]
    build = {OURS: _ours, TRL: _trl}
    for number in range(args.runs):
        for name in list(build)[:: -1 if number % 2 else 1]:
            watch = Watch()
            trainer = build[name](maker.model(), pairs, args, maker, folder)
            for callback in (PrinterCallback, ProgressCallback):
                trainer.remove_callback(callback)
            trainer.add_callback(watch)
            trainer.train()
            seen[name].append(watch)
    return seen


def _settings(args: argparse.Namespace, folder: str) -> dict[str, Any]:
    """Settings of transformers for both trainers, among them all whose defaults differ."""
    return {
        "output_dir": folder,
        "per_device_train_batch_size": args.batch_size,
        "num_train_epochs": 1,
        "train_sampling_strategy": "sequential",
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "optim": "adamw_torch_fused",
        "max_grad_norm": MAX_GRAD_NORM,
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "eval_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": args.device == "cpu",
        "disable_tqdm": True,
        "seed": SEED,
    }


def _ours(model: nn.Module, pairs: Sequence[Pair], args: argparse.Namespace, maker: ModelMaker, folder: str) -> Trainer:
    arguments = JEPATrainingArguments(**_settings(args, folder), precision=args.dtype)
    jepa = LLMJEPA(model, JEPAConfig(jepa_lambda=0))
    return JEPATrainer(jepa, arguments, pairs, pad_token_id=maker.data.encoder.pad_id)


def _trl(model: nn.Module, pairs: Sequence[Pair], args: argparse.Namespace, maker: ModelMaker, folder: str) -> Trainer:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    # Rows are token ids already, so nothing is tokenised or cut; "nll" is the loss that transformers computes.
    arguments = SFTConfig(
        **_settings(args, folder),
        bf16=args.dtype == "bf16",
        packing=False,
        max_length=None,
        loss_type="nll",
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    rows = Dataset.from_dict({"input_ids": [whole_row(pair) for pair in pairs]})
    return SFTTrainer(model, args=arguments, train_dataset=rows, processing_class=maker.data.tokenizer)


def compare(runs: dict[str, list[Watch]]) -> dict[str, Any]:
    """Return times in ms, ratios of ours to TRL's, and the largest difference of the losses of a step, in nats."""
    ours, theirs = runs[OURS], runs[TRL]
    pairs = list(zip(ours, theirs, strict=True))
    report: dict[str, Any] = {
        "loss_difference": max(
            abs(one - other) for mine, trl in pairs for one, other in zip(mine.losses, trl.losses, strict=True)
        )
    }
    for name in ("step", "loop"):
        medians = {key: [_median(getattr(run, f"{name}_s")) for run in each] for key, each in runs.items()}
        ratios = [mine / trl for mine, trl in zip(medians[OURS], medians[TRL], strict=True)]
        report |= {f"{name}_ms": {key: 1e3 * statistics.median(each) for key, each in medians.items()}}
        report |= {f"{name}_ratio": statistics.median(ratios), f"{name}_ratio_quartiles": quartiles(ratios)}
    return report


def _median(times_s: Sequence[float]) -> float:
    return statistics.median(times_s[WARM_UP:])


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def format_report(report: dict[str, Any]) -> str:
    """Return the report as text."""
    lines = [f"{'':<6} {OURS:>12} {TRL:>12} {'ratio':>6}  quartiles"]
    for name in ("step", "loop"):
        low, high = report[f"{name}_ratio_quartiles"]
        ours, theirs = (f"{report[f'{name}_ms'][key]:.1f} ms" for key in (OURS, TRL))
        lines.append(f"{name:<6} {ours:>12} {theirs:>12} {report[f'{name}_ratio']:>6.2f}  {low:.2f}-{high:.2f}")
    same = "same" if report["loss_difference"] <= TOLERANCE else "NOT the same"
    return "\n".join([*lines, f"Loss curves are {same}: largest difference {report['loss_difference']:.1e} nats."])


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--preset", choices=list(PRESETS), default="nano", help="model, with random weights (default nano)")
    add("--data", choices=("synth", "gsm8k"), default="synth", help="rows (default synth)")
    add("--batch-size", type=int, default=32, help="rows in a batch (default 32)")
    add("--steps", type=int, default=20, help="counted steps of a run (default 20)")
    add("--runs", type=int, default=5, help="runs of each trainer (default 5)")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="where steps run (default cpu)")
    add("--dtype", choices=("float32", "bf16"), default="float32", help="bf16: autocast over float32 weights")
    add("--threads", type=int, default=torch.get_num_threads(), help="CPU threads (here %(default)s)")
    add("--out", type=Path, help="also write the JSON object to this file")
    args = parser.parse_args(argv)
    if min(args.batch_size, args.steps, args.runs) < 1:
        parser.error("--batch-size, --steps and --runs must be at least 1.")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: no CUDA device is there. Leave it out to measure on the CPU.")
    return args


if __name__ == "__main__":
    raise SystemExit(main())
