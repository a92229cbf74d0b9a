"""The cost of a training step: this library, a bare PyTorch loop, separate passes and the published recipe's shape.

    python benchmarks/step_cost.py                                         # nano on this machine's CPU
    python benchmarks/step_cost.py --preset llama-1b --device cuda --dtype bf16 --sequential --length 512
    python benchmarks/step_cost.py --packing                               # packed against padded rows of mixed length

All variants start from the same weights and train on the same batches of NL-RX-SYNTH pairs, grouped by length as
in training. `ratio` is the median over rounds of a variant's time, divided by that of `plain` on the same batch. How a
step is timed: step_timing.py. What each variant computes: step_objectives.py. With --packing: step_packing.py.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from tqdm import tqdm

from llm_jepa.data.config import DataConfig
from llm_jepa.data.generated_files import with_files
from llm_jepa.data.prepare import LoadedData, load_data
from llm_jepa.evaluation.generation import generate_greedy
from llm_jepa.files import write_whole
from llm_jepa.objective import LLMJEPA, JEPAConfig, Pair
from llm_jepa.runs.environment import describe_environment
from llm_jepa.training.models import PRESETS, ModelConfig, build_model, num_parameters
from llm_jepa.training.sampler import LengthGroupedSampler
from step_objectives import (
    PUBLISHED_WIDTH,
    Fused,
    Objective,
    Plain,
    PublishedAdditive,
    PublishedThreePass,
    Separate,
)
from step_packing import format_packing, measure
from step_report import PEAK_TFLOPS, PLAIN, TRAINER, describe_rows, format_table, summarise
from step_timing import (
    BareLoop,
    Batch,
    Placement,
    Timing,
    TrainerLoop,
    count_flops,
    first_rounds,
    make_chunks,
    num_batches,
    release_memory,
)

SYNTH = Path(__file__).resolve().parents[2] / "shared" / "data"
SEED = 82  # the first of the paper's seeds
NEW_TOKENS = 40  # about the longest answers of SYNTH; a random model hardly ever ends one by itself
NUM_ANSWERS = 2000  # the test rows of SYNTH


@dataclass(frozen=True)
class Layout:
    """What an objective needs in addition to the model.

    Attributes:
        k: [PRED] tokens.
        pad_id: Id of padding.
        width: Tokens that the published shapes pad every row to.
    """

    k: int
    pad_id: int
    width: int


@dataclass(frozen=True)
class Variant:
    """One row of the table.

    Attributes:
        about: A description, for --help.
        make: Makes the objective from a model on its device.
        is_slow: Whether it runs only --slow-rounds rounds. Its rows have the same width in all batches.
    """

    about: str
    make: Callable[[nn.Module, Layout], Objective]
    is_slow: bool = False


def _plain(model: nn.Module, layout: Layout) -> Objective:
    return Plain(model, layout.pad_id)


def _jepa(model: nn.Module, layout: Layout, target: str, jepa_lambda: float = 1.0) -> LLMJEPA:
    return LLMJEPA(model, JEPAConfig(jepa_lambda=jepa_lambda, jepa_k=layout.k, jepa_target=target))


def _fused(target: str, jepa_lambda: float = 1.0) -> Callable[[nn.Module, Layout], Objective]:
    return lambda model, layout: Fused(_jepa(model, layout, target, jepa_lambda), layout.pad_id)


def _separate(target: str) -> Callable[[nn.Module, Layout], Objective]:
    return lambda model, layout: Separate(_jepa(model, layout, target), layout.pad_id)


def _published(
    shape: type[PublishedAdditive] | type[PublishedThreePass],
) -> Callable[[nn.Module, Layout], Objective]:
    return lambda model, layout: shape(_jepa(model, layout, "shared"), layout.pad_id, layout.width)


VARIANTS: dict[str, Variant] = {
    PLAIN: Variant("transformers' own loss in a bare loop", _plain),
    TRAINER: Variant("JEPATrainer with jepa_lambda=0, in its own loop", _fused("stop_grad", jepa_lambda=0)),
    "lambda0": Variant("LLMJEPA with jepa_lambda=0", _fused("stop_grad", jepa_lambda=0)),
    "fused_stop_grad": Variant("LLMJEPA, target stop_grad", _fused("stop_grad")),
    "fused_shared": Variant("LLMJEPA, target shared", _fused("shared")),
    "fused_ema": Variant("LLMJEPA, target ema", _fused("ema")),
    "separate_stop_grad": Variant("three forwards, the target's without gradient", _separate("stop_grad")),
    "separate_shared": Variant("three forwards, all with gradient", _separate("shared")),
    "published_additive": Variant(
        "published shape with additive mask, 2 B wide rows", _published(PublishedAdditive), is_slow=True
    ),
    "published_3pass": Variant("published shape, 3 B wide rows", _published(PublishedThreePass), is_slow=True),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table, and end standard output with one JSON object."""
    args = _parse(argv)
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(args.threads)
    if args.packing:
        finish(measure_packing(args), format_packing, args.out)
        return
    with tempfile.TemporaryDirectory() as folder:
        data, origin = load_pairs(Path(folder), args.num_pairs)
        bench = Bench(args, data, folder)
        timings = bench.run()
        generation = time_generation(bench) if args.generation else None
    report = {
        "benchmark": "step_cost",
        "settings": shown_settings(args),
        "data": {"origin": origin, **describe_rows(bench.chunks)},
        "num_parameters": bench.num_parameters,
        "variants": summarise(timings, bench.chunks, args.peak_tflops),
        "generation": generation,
        "environment": describe_environment(),
    }
    finish(report, format_table, args.out)


def finish(report: dict[str, Any], as_text: Callable[[dict[str, Any]], str], out: Path | None) -> None:
    """Write the report, print its table, and end standard output with it as one JSON object."""
    if out:
        write_whole(out, json.dumps(report, indent=2) + "\n")
    print(as_text(report))
    print(json.dumps(report))


def measure_packing(args: argparse.Namespace) -> dict[str, Any]:
    """Time packed against padded rows of mixed length; return the report."""
    with tempfile.TemporaryDirectory() as folder:
        data, origin = load_mixed_pairs(Path(folder), args.num_pairs)
        pairs = data.train.pairs[: args.num_pairs]
        if len(pairs) < args.batch_size:
            raise SystemExit(f"--batch-size is {args.batch_size}, but there are only {len(pairs)} pairs.")
        bench = ModelMaker(args, data)
        variants = measure(pairs, args, bench.model, data.encoder.pad_id, SEED)
    lengths = [len(pair) for pair in pairs]
    spread = {"median_tokens": statistics.median(lengths), "max_tokens": max(lengths)}
    return {
        "benchmark": "packing",
        "settings": shown_settings(args),
        "data": {"origin": origin, "num_pairs": len(pairs), **spread},
        "num_parameters": bench.num_parameters,
        "variants": variants,
        "environment": describe_environment(),
    }


def shown_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of the call that affect its figures."""
    return {name: value for name, value in vars(args).items() if name not in ("out", "variants")}


class ModelMaker:
    """Makes the models of one measurement: a preset on its device, each time with the same weights.

    Args:
        args: The call.
        data: Tokenizer and encoded pairs.
    """

    def __init__(self, args: argparse.Namespace, data: LoadedData) -> None:
        self.args = args
        self.data = data
        self.num_parameters = 0

    def model(self) -> nn.Module:
        """Return a model in training mode."""
        torch.manual_seed(SEED)
        encoder = self.data.encoder
        model = build_model(
            ModelConfig(self.args.preset), self.data.tokenizer, end_id=encoder.end_ids[0], pad_id=encoder.pad_id
        )
        self.num_parameters = num_parameters(model)
        return model.to(self.args.device).train()


class Bench(ModelMaker):
    """The batches, the models and the order of turns of one measurement.

    Args:
        args: The call.
        data: Tokenizer and encoded pairs.
        folder: A folder where the trainer may write.
    """

    def __init__(self, args: argparse.Namespace, data: LoadedData, folder: str) -> None:
        super().__init__(args, data)
        self.folder = folder
        self.placement = Placement(torch.device(args.device), args.dtype == "bf16")
        pairs = data.train.pairs
        if args.length:
            pairs = [stretch(pair, args.length) for pair in pairs]
        batches = make_batches(pairs, args.batch_size, num_batches(args.rounds))
        self.chunks = make_chunks(batches, args.rounds)
        longest = max(len(pair) for batch in batches for pair in batch) + args.k
        self.layout = Layout(args.k, data.encoder.pad_id, max(args.published_width, longest))

    def run(self) -> dict[str, Timing]:
        """Time all variants: in turns, or with --sequential one after the other."""
        names = [name for name in VARIANTS if name in self.args.variants]
        groups = [[name] for name in names] if self.args.sequential else [names]
        timings: dict[str, Timing] = {}
        with tqdm(total=len(groups) * len(self.chunks), desc="chunk", disable=None) as bar:
            for group in groups:
                timings |= self._run_together(group, bar)
                release_memory()
        return {name: timings[name] for name in names}

    def _run_together(self, names: Sequence[str], bar: tqdm) -> dict[str, Timing]:
        loops = {name: self._bare_loop(name) for name in names if name != TRAINER}

        def run_chunk(number: int) -> None:
            bar.update()
            # Every second chunk has the opposite order, so that no variant always runs after the same other one.
            for name in list(loops)[:: -1 if number % 2 else 1]:
                num_rounds = self.args.slow_rounds if VARIANTS[name].is_slow else self.args.rounds
                if chunk := first_rounds(self.chunks[number], num_rounds):
                    loops[name].run(chunk)

        timings = {name: loop.timing for name, loop in loops.items()}
        if TRAINER in names:
            objective = self._objective(TRAINER)
            assert isinstance(objective.module, LLMJEPA)
            trainer = TrainerLoop(objective.module, self.layout.pad_id, self.placement, self.folder)
            trainer.timing.flops = self._flops(TRAINER, objective)
            trainer.run(self.chunks, run_chunk)
            timings[TRAINER] = trainer.timing
        else:
            for number in range(len(self.chunks)):
                run_chunk(number)
        return timings

    def _objective(self, name: str) -> Objective:
        return VARIANTS[name].make(self.model(), self.layout)

    def _bare_loop(self, name: str) -> BareLoop:
        loop = BareLoop(self._objective(name), self.placement)
        loop.timing.flops = self._flops(name, loop.objective)
        return loop

    def _flops(self, name: str, objective: Objective) -> int:
        """Count on the batches of the first chunk."""
        return count_flops(objective, self.chunks[0].batches, self.placement, same_width=VARIANTS[name].is_slow)


def load_pairs(folder: Path, num_pairs: int | None) -> tuple[LoadedData, str]:
    """Return encoded NL-RX-SYNTH pairs, or generated ones if the files are missing, and which of both they are."""
    train, test = SYNTH / "nlrx_synth_train.jsonl", SYNTH / "nlrx_synth_test.jsonl"
    if train.is_file() and test.is_file():
        config, origin = DataConfig(train_file=str(train), test_file=str(test)), "NL-RX-SYNTH"
    else:
        generated = DataConfig(generate_train=num_pairs or 8000, generate_test=NUM_ANSWERS)
        config, origin = with_files(generated, folder), "generated pairs (no NL-RX-SYNTH files found)"
    config = replace(config, max_train_rows=num_pairs, validation_size=0)
    return load_data(config, JEPAConfig()), origin


def load_mixed_pairs(folder: Path, num_pairs: int | None) -> tuple[LoadedData, str]:
    """Return encoded GSM8K pairs, or, if the file is missing, generated ones of uneven lengths."""
    file = SYNTH / "gsm8k_200.jsonl"
    if file.is_file():
        config = DataConfig(train_file=str(file), max_length=4096, validation_size=0)
        return load_data(config, JEPAConfig()), "GSM8K"
    data, _ = load_pairs(folder, num_pairs or 200)
    generator = torch.Generator().manual_seed(SEED)
    # Log-normal lengths, about as in GSM8K: a median of 128 tokens, one row in ten over 250.
    for number, pair in enumerate(data.train.pairs):
        length = 128 * torch.randn((), generator=generator).mul(0.5).exp().item()
        data.train.pairs[number] = stretch(pair, max(8 + len(pair.bridge_ids), int(length)))
    return data, "generated pairs, stretched to log-normal lengths (no GSM8K file found)"


def stretch(pair: Pair, length: int) -> Pair:
    """Return the pair with its views repeated, or cut, to fill a row of `length` tokens, half with each view.

    >>> pair = stretch(Pair([5, 6], [8, 9, 1], [2]), 9)
    >>> pair.text_ids, pair.bridge_ids, pair.code_ids
    ([5, 6, 5], [2], [8, 9, 8, 9, 1])
    """
    room = length - len(pair.bridge_ids) - 1
    text_ids = list(islice(cycle(pair.text_ids), room // 2))
    code_ids = list(islice(cycle(pair.code_view), room - room // 2))
    return replace(pair, text_ids=text_ids, code_ids=[*code_ids, pair.code_ids[-1]])


def make_batches(pairs: Sequence[Pair], batch_size: int, count: int) -> list[Batch]:
    """Return the first `count` whole batches that training would see, from several epochs if need be."""
    if len(pairs) < batch_size:
        raise SystemExit(f"--batch-size is {batch_size}, but there are only {len(pairs)} pairs.")
    sampler = LengthGroupedSampler([len(pair) for pair in pairs], batch_size, SEED)
    batches: list[Batch] = []
    while len(batches) < count:
        order = [pairs[row] for row in sampler]
        starts = range(0, len(order) - batch_size + 1, batch_size)
        batches += [order[start : start + batch_size] for start in starts]
        sampler.set_epoch(sampler.epoch + 1)
    return batches[:count]


def time_generation(bench: Bench) -> dict[str, float]:
    """Time greedy answers of a random model to test prompts: NEW_TOKENS each, unless it ends one by chance.

    It is the worst case of an evaluation: a trained model ends most answers early.
    """
    model = bench.model().eval()
    prompts = [pair.text_ids + pair.bridge_ids for pair in bench.data.test.pairs[: bench.args.num_answers]]
    settings: dict[str, Any] = {"end_ids": bench.data.encoder.end_ids, "pad_id": bench.layout.pad_id}
    start = time.perf_counter()
    with bench.placement.autocast():
        answers = generate_greedy(model, prompts, max_new_tokens=NEW_TOKENS, **settings)
    return {
        "num_answers": len(answers),
        "max_new_tokens": NEW_TOKENS,
        "tokens": sum(map(len, answers)),
        "time_s": time.perf_counter() - start,  # the answers are on the CPU, so the device has finished
    }


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    about = "\n".join(f"  {name:<19} {variant.about}" for name, variant in VARIANTS.items())
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        epilog=f"variants:\n{about}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--preset", choices=list(PRESETS), default="nano", help="model, with random weights (default nano)")
    add("--batch-size", type=int, default=32, help="pairs in a batch (default 32)")
    add("--k", type=int, default=1, help="[PRED] tokens (default 1)")
    add("--rounds", type=int, help="counted steps of each variant (default 30), or passes with --packing (default 5)")
    add("--slow-rounds", type=int, default=3, help="counted steps of the published shapes (default 3)")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="where steps run (default cpu)")
    add("--dtype", choices=("float32", "bf16"), default="float32", help="bf16: autocast over float32 weights")
    add(
        "--threads", type=int, default=torch.get_num_threads(), help="CPU threads (default PyTorch's, here %(default)s)"
    )
    add("--variants", type=_names, default=list(VARIANTS), help="a,b,c (default all); plain always runs")
    add("--length", type=int, help="repeat the views of each pair to rows of this many tokens")
    add("--published-width", type=int, default=PUBLISHED_WIDTH, help="width of the published shapes (default 512)")
    add("--num-pairs", type=int, help="use the first pairs only (default all)")
    add("--sequential", action="store_true", help="one variant after the other, if memory cannot hold all")
    add("--packing", action="store_true", help="time packed against padded rows of mixed length, in passes over them")
    add("--pack-length", type=int, help="tokens of a packed row (default the longest pair of the batch)")
    add("--generation", action="store_true", help=f"also time greedy answers of {NEW_TOKENS} tokens")
    add("--num-answers", type=int, default=NUM_ANSWERS, help=f"how many of them (default {NUM_ANSWERS})")
    add("--peak-tflops", type=float, help="peak of the device for MFU (default: known for H100 SXM and H200 in bf16)")
    add("--out", type=Path, help="also write the JSON object to this file")
    args = parser.parse_args(argv)
    if args.rounds is None:
        args.rounds = 5 if args.packing else 30
    if min(args.batch_size, args.rounds, args.slow_rounds) < 1:
        parser.error("--batch-size, --rounds and --slow-rounds must be at least 1.")
    if args.length is not None and args.length < 8:
        parser.error(f"--length {args.length} has no room for two views; expected 8 or more.")
    if args.packing and (args.length is not None or args.generation):
        parser.error("--packing times pairs of mixed length and nothing else; leave --length and --generation out.")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: no CUDA device is there. Leave it out to measure on the CPU.")
    if args.peak_tflops is None and args.device == "cuda" and args.dtype == "bf16":
        args.peak_tflops = PEAK_TFLOPS.get(torch.cuda.get_device_name())
    return args


def _names(text: str) -> list[str]:
    names = [PLAIN, *text.split(",")]
    if unknown := [name for name in names if name not in VARIANTS]:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; expected some of {', '.join(VARIANTS)}")
    return names


if __name__ == "__main__":
    main()
