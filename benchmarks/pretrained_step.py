"""The cost of a training step in the shapes of SmolLM2-135M, with random weights: nothing is downloaded.

    python benchmarks/pretrained_step.py --threads 1 --out benchmarks/results/epyc_cpu_smollm2.json
    python benchmarks/pretrained_step.py --loss-on all --only plain,plain_chunked      # long answers, full rows
    python benchmarks/pretrained_step.py --generation --only plain                     # answers as in an evaluation

Every variant trains on the same batches, in turn, in one process: plain, LLM-JEPA with a target without gradient and
with a shared one, all weights or LoRA, float32 or bf16 autocast (on a processor with bf16 instructions, or where --only
names it), full logits or `linear_cross_entropy` in chunks. `ratio` is the median over rounds of a variant's processor
time, divided by that of `plain` on the same batch. `peak_share` is the rate of the operations that plain training
needs, divided by the rate of a matrix product of the same precision in the same process. Peak memory is that of the
process during the step, less what it held before. Full fine-tunings share one model and one optimizer, LoRA variants
another, because the weights do not affect the time.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import random
import resource
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from llm_jepa.evaluation.generation import generate_greedy
from llm_jepa.files import write_whole
from llm_jepa.objective import LLMJEPA, FusedCollator, JEPAConfig, Pair
from llm_jepa.objective.documents import IGNORED
from llm_jepa.runs.environment import describe_environment
from llm_jepa.training.adapters import AdapterConfig, add_lora
from llm_jepa.training.bf16_products import has_bf16_instructions
from llm_jepa.training.models import num_parameters
from step_timing import Placement, count_flops

# SmolLM2-135M's published shape (its model card).
SMOLLM2 = {
    **{"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30},
    **{"num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192},
    **{"rope_parameters": {"rope_type": "default", "rope_theta": 100000.0}, "tie_word_embeddings": True},
}
TINY = SMOLLM2 | {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
TINY |= {"num_attention_heads": 4, "num_key_value_heads": 2}
SHAPES = {"smollm2-135m": SMOLLM2, "tiny": TINY}
TEXT, BRIDGE, CODE = (
    (16, 32),
    5,
    (12, 40),
)  # tokens of SYNTH rows in SmolLM2's chat template, from the least to the most
PLAIN = "plain"
RESET_PEAK = "5"  # what Linux takes in /proc/self/clear_refs to begin a new peak of memory


class ChunkedLLMJEPA(LLMJEPA):
    """LLMJEPA whose cross-entropy never holds all logits: the head and the loss go through chunks of rows."""

    def _cross_entropy(self, batch: Any, num_labels: Any) -> tuple[Tensor, Tensor]:
        labels = F.pad(batch.labels[:, 1:], (0, 1), value=IGNORED).flatten()
        at = (labels != IGNORED).nonzero().squeeze(1)
        states = self.backbone.states(batch.rows, self.predictor())
        head = self.backbone.head.weight
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else head.dtype
        total = F.linear_cross_entropy(
            states[at].to(dtype),
            head.to(dtype),
            labels[at],
            reduction="sum",
            options=nn.LinearCrossEntropyOptions(),
        )
        return total.float() / batch.num_labels, states


@dataclass(frozen=True)
class Variant:
    """One row of the table. Its name says what it is, such as `stop_grad_lora_bf16_chunked`."""

    objective: str = PLAIN
    lora: bool = False
    bf16: bool = False
    chunked: bool = False

    @property
    def name(self) -> str:
        parts = {"lora": self.lora, "bf16": self.bf16, "chunked": self.chunked}
        return "_".join([self.objective, *(name for name, has in parts.items() if has)])


VARIANTS = {
    each.name: each
    for each in [
        *(Variant(objective) for objective in (PLAIN, "stop_grad", "shared")),
        *(Variant(objective, chunked=True) for objective in (PLAIN, "stop_grad")),
        *(Variant(objective, bf16=True) for objective in (PLAIN, "stop_grad", "shared")),
        Variant(bf16=True, chunked=True),
        *(Variant(objective, lora=True) for objective in (PLAIN, "stop_grad", "shared")),
        *(Variant(objective, lora=True, bf16=True) for objective in (PLAIN, "stop_grad")),
    ]
}


@dataclass
class Seen:
    """What was measured of a variant, one entry a round; `loss` is that of the last."""

    step_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    extra_bytes: list[int] = field(default_factory=list)
    loss: float = 0.0


class Trained:
    """A model, with LoRA or without, and the optimizer of everything that is trained on it."""

    def __init__(self, shape: dict[str, Any], *, lora: bool) -> None:
        torch.manual_seed(0)
        self.model: Any = LlamaForCausalLM(LlamaConfig(**shape))
        if lora:
            self.model = add_lora(self.model, AdapterConfig(lora_r=16, lora_alpha=32), base="random")
        self.objectives: dict[tuple[str, bool], LLMJEPA] = {}
        self.optimizer: Any = None

    def add(self, variant: Variant, loss_on: str) -> None:
        """Build the objective of a variant on this model; variants of another precision share it."""
        weight = 0.0 if variant.objective == PLAIN else 1.0
        target = "shared" if variant.objective == "shared" else "stop_grad"
        config = JEPAConfig(jepa_lambda=weight, jepa_k=1, jepa_target=target, loss_on=loss_on)
        kind = ChunkedLLMJEPA if variant.chunked else LLMJEPA
        self.objectives.setdefault((variant.objective, variant.chunked), kind(self.model, config))

    def of(self, variant: Variant) -> LLMJEPA:
        """Return the objective of a variant."""
        return self.objectives[variant.objective, variant.chunked]

    def parameters(self) -> list[nn.Parameter]:
        """Return each parameter that is trained once."""
        own = [each for each in self.model.parameters() if each.requires_grad]
        return own + [p for each in self.objectives.values() for p in each.predictor.parameters() if p.requires_grad]

    def step(self, variant: Variant, pairs: list[Pair]) -> tuple[float, float, int, float]:
        """Train one step; return its seconds, processor seconds, bytes at its peak, and loss."""
        jepa = self.of(variant)
        batch = FusedCollator(jepa.config, 0)(pairs)
        before, start, cpu = _begin_peak(), time.perf_counter(), time.process_time()
        with Placement(torch.device("cpu"), variant.bf16).autocast():
            loss = jepa(batch).loss
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters(), 1.0)
        if self.optimizer is None:
            self.optimizer = torch.optim.AdamW(self.parameters(), lr=1e-5, weight_decay=0.0, fused=True)
        self.optimizer.step()
        self.optimizer.zero_grad()
        spent = time.perf_counter() - start, time.process_time() - cpu
        return *spent, _peak_bytes() - before, loss.item()


def _status(name: str) -> int:
    """Return a figure of /proc/self/status in bytes; 0 if there is no such file."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), 0)


def _begin_peak() -> int:
    """Begin a new peak of the process's memory; return what it holds now, without what earlier steps have freed."""
    with suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    file = Path("/proc/self/clear_refs")
    if file.exists():
        file.write_text(RESET_PEAK)
    return _status("VmRSS")


def _peak_bytes() -> int:
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def make_batches(shape: dict[str, Any], batch_size: int, number: int) -> list[list[Pair]]:
    """Return batches of random pairs in the lengths of SYNTH rows."""
    stream = random.Random(0)

    def ids(count: int) -> list[int]:
        return [stream.randrange(3, shape["vocab_size"]) for _ in range(count)]

    return [
        [Pair(ids(stream.randint(*TEXT)), [*ids(stream.randint(*CODE)), 2], ids(BRIDGE)) for _ in range(batch_size)]
        for _ in range(number)
    ]


def product_gflops(*, bf16: bool) -> float:
    """Return the rate of a square matrix product, GFLOP per processor second; taken as the processor's peak."""
    size = 512 if bf16 else 1024  # bf16 takes a hundred times as long without instructions for it
    one, other = (torch.randn(size, size).to(torch.bfloat16 if bf16 else torch.float32) for _ in range(2))
    one @ other
    start = time.process_time()
    one @ other
    return 2 * size**3 / (time.process_time() - start) / 1e9


def chosen(names: list[str] | None) -> list[Variant]:
    """Return the variants of these names; by default all that the processor has instructions for."""
    if names is None:
        return [each for each in VARIANTS.values() if has_bf16_instructions() or not each.bf16]
    return [VARIANTS[name] for name in names]


def measure(args: argparse.Namespace, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Time the variants, and return the record."""
    shape = SHAPES[args.shape]
    variants = chosen(args.only)
    batches = make_batches(shape, args.batch_size, args.rounds + 1)
    models = {lora: Trained(shape, lora=lora) for lora in {each.lora for each in variants}}
    for each in variants:
        models[each.lora].add(each, args.loss_on)
    seen = {each.name: Seen() for each in variants}
    peaks: dict[bool, list[float]] = {False: [], True: []}
    for number, pairs in enumerate(batches):
        for bf16, rates_seen in peaks.items():
            rates_seen.append(product_gflops(bf16=bf16))
        for each in variants:
            step_s, cpu_s, extra, loss = models[each.lora].step(each, pairs)
            if number:  # the first round warms up
                timing = seen[each.name]
                timing.step_s.append(step_s)
                timing.cpu_s.append(cpu_s)
                timing.extra_bytes.append(extra)
                timing.loss = loss
            say(f"round {number} {each.name:<28} {step_s:7.2f} s, {cpu_s:6.2f} s of the processor")
    flops = _plain_flops(models, args.loss_on, batches[1:])
    tokens = [sum(map(len, pairs)) for pairs in batches[1:]]
    rates = {bf16: statistics.median(each) for bf16, each in peaks.items()}
    record: dict[str, Any] = {
        "benchmark": "pretrained_step",
        "settings": {key: value for key, value in vars(args).items() if key != "out"},
        "num_parameters": num_parameters(next(iter(models.values())).model),
        "has_bf16_instructions": has_bf16_instructions(),
        "tokens_per_step": statistics.median(tokens),
        "product_gflops": {"bf16" if bf16 else "float32": rate for bf16, rate in rates.items()},
        "variants": {
            each.name: _figures(seen[each.name], seen.get(PLAIN), tokens, flops, rates[each.bf16]) for each in variants
        },
    }
    if args.generation:
        record["generation"] = measure_generation(models[variants[0].lora].model, shape, args)
    return record | {"environment": describe_environment()}


def _plain_flops(models: dict[bool, Trained], loss_on: str, batches: list[list[Pair]]) -> list[int]:
    """Return the operations that plain training of all weights needs for each batch; of LoRA if only LoRA runs."""
    trained = models.get(False) or models[True]
    trained.add(Variant(), loss_on)
    jepa = trained.of(Variant())

    class Plain:
        module, collate = jepa, FusedCollator(jepa.config, 0)

        @staticmethod
        def loss(batch: Any) -> Tensor:
            return jepa(batch).loss

    return [count_flops(Plain, [pairs], Placement(torch.device("cpu")), same_width=False) for pairs in batches]


def _figures(timing: Seen, plain: Seen | None, tokens: list[int], flops: list[int], peak: float) -> dict[str, Any]:
    """Return medians over the rounds; rates are by processor time, which other processes hardly affect."""
    ratios = [mine / theirs for mine, theirs in zip(timing.cpu_s, plain.cpu_s, strict=True)] if plain else []
    return {
        "step_s": statistics.median(timing.step_s),
        "cpu_s": statistics.median(timing.cpu_s),
        "ratio": statistics.median(ratios) if ratios else None,
        "ratio_range": [min(ratios), max(ratios)] if ratios else None,
        "tokens_per_cpu_s": statistics.median(n / s for n, s in zip(tokens, timing.cpu_s, strict=True)),
        "peak_share": statistics.median(n / s / 1e9 / peak for n, s in zip(flops, timing.cpu_s, strict=True)),
        "peak_extra_gib": statistics.median(timing.extra_bytes) / 2**30,
        "loss": timing.loss,
    }


def measure_generation(model: Any, shape: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Time greedy answers to prompts of SYNTH's lengths; a random model ends none of them before `--new-tokens`."""
    (pairs,) = make_batches(shape, args.num_answers, 1)
    prompts = [pair.text_ids + pair.bridge_ids for pair in pairs]
    start, cpu = time.perf_counter(), time.process_time()
    answers = generate_greedy(
        model, prompts, end_ids=[2], pad_id=0, max_new_tokens=args.new_tokens, batch_size=args.answer_batch
    )
    return {
        "answers": len(answers),
        "tokens": sum(map(len, answers)),
        "seconds": time.perf_counter() - start,
        "cpu_s": time.process_time() - cpu,
    }


def format_table(record: dict[str, Any]) -> str:
    """Return the record as a table of 80 columns."""
    lines = [f"{'variant':<26} {'step s':>7} {'ratio':>6} {'tokens/s':>8} {'of peak':>7} {'+ GiB':>6}"]
    for name, each in record["variants"].items():
        ratio = "" if each["ratio"] is None else f"{each['ratio']:.2f}"
        lines.append(
            f"{name:<26} {each['cpu_s']:7.2f} {ratio:>6} {each['tokens_per_cpu_s']:8.0f} {each['peak_share']:7.0%} "
            f"{each['peak_extra_gib']:6.2f}"
        )
    rates = ", ".join(f"{name} {rate:.1f}" for name, rate in record["product_gflops"].items())
    lines.append(f"Times are of the processor. Matrix product: {rates} GFLOP/s.")
    if "generation" in record:
        made = record["generation"]
        lines.append(
            f"{made['answers']} answers, {made['tokens']:,} tokens: {made['seconds']:.0f} s, "
            f"{made['cpu_s']:.0f} s of the processor."
        )
    return "\n".join(lines)


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in VARIANTS]:
        raise argparse.ArgumentTypeError(f"no variant {', '.join(unknown)}; there are {', '.join(VARIANTS)}")
    return names


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--shape", choices=SHAPES, default="smollm2-135m")
    add("--batch-size", type=int, default=8, help="pairs in a step")
    add("--rounds", type=int, default=5, help="counted steps of each variant")
    add("--threads", type=int, default=1)
    add("--loss-on", choices=("code", "all"), default="code", help="labelled tokens: of the answer, or all")
    add("--only", type=_names, metavar="NAMES", help="variants, separated by commas; ratios need plain")
    add("--generation", action="store_true", help="time answers too")
    add("--num-answers", type=int, default=300)
    add("--new-tokens", type=int, default=40)
    add("--answer-batch", type=int, default=256, help="prompts answered at once (generation_batch_size)")
    add("--out", type=Path, metavar="FILE", help="write the record to this file")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    record = measure(args)
    print(format_table(record))
    if args.out:
        write_whole(args.out, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
