"""The cost of a training step of the nanoGPT drop-in: plain, with JEPA in one fused pass, and with separate passes.

    python benchmarks/nanogpt_step.py                       # block 256, batch 12, 4 layers of 128, this machine's CPU
    python benchmarks/nanogpt_step.py --device cuda --dtype bf16 --n-layer 12 --n-embd 768 --block-size 1024

`ratio` is the median over rounds of a variant's time, divided by that of `nanogpt_style` in the same round: a model of
the same size in few lines, used only here. Variants take turns, so that other work of the machine affects all of them
equally. A step is forward, loss, backward, clipping to norm 1, AdamW, and clearing the gradients.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm_jepa.files import write_whole
from llm_jepa.nanogpt import GPT, GPTConfig
from llm_jepa.objective.distances import cosine_distance
from llm_jepa.runs.environment import describe_environment

PLAIN = "nanogpt_style"
WARM_UP = 2  # steps of a turn that are not counted: the caches still hold the last variant's weights
COUNTED = 3  # steps of a turn that are
LossFunction = Callable[[Tensor, Tensor], Tensor]


class PlainGPT(nn.Module):
    """GPT-2's architecture as a plain language model, with which the variants are compared."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        width = config.n_embd
        self.words = nn.Embedding(config.vocab_size, width)
        self.places = nn.Embedding(config.block_size, width)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm_1": nn.LayerNorm(width, bias=config.bias),
                    "qkv": nn.Linear(width, 3 * width, bias=config.bias),
                    "out": nn.Linear(width, width, bias=config.bias),
                    "norm_2": nn.LayerNorm(width, bias=config.bias),
                    "up": nn.Linear(width, 4 * width, bias=config.bias),
                    "down": nn.Linear(4 * width, width, bias=config.bias),
                }
            )
            for _ in range(config.n_layer)
        )
        self.norm = nn.LayerNorm(width, bias=config.bias)
        self.n_head = config.n_head
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, idx: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy of (B, T) tokens."""
        B, T = idx.shape
        x = self.words(idx) + self.places(torch.arange(T, device=idx.device))
        for block in self.blocks:
            qkv = block["qkv"](block["norm_1"](x)).view(B, T, 3, self.n_head, -1).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(*qkv, is_causal=True)
            x = x + block["out"](y.transpose(1, 2).reshape(x.shape))
            x = x + block["down"](F.gelu(block["up"](block["norm_2"](x))))
        logits = self.norm(x) @ self.words.weight.T
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def three_forwards(model: GPT, idx: Tensor, targets: Tensor, k: int) -> Tensor:
    """Return the loss of `jepa_loss` with three passes: the row, text [PRED], and code, each by itself."""
    text = idx.shape[1] // 2
    _, ce_loss = model(idx, targets)
    prediction = model.encode_last_with_pred(idx[:, :text], k)
    target = model.encode_last(idx[:, text:])
    return ce_loss + cosine_distance(prediction, target).mean()


class Variant:
    """One way to train, with its own model and optimizer."""

    def __init__(self, model: nn.Module, loss: LossFunction) -> None:
        self.model, self.loss = model.train(), loss
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        self.seconds: list[float] = []

    def step(self, idx: Tensor, targets: Tensor, args: argparse.Namespace, counts: bool) -> None:
        """Train on one batch, and note the time if it counts."""
        start = _now(args)
        with torch.autocast(args.device, dtype=torch.bfloat16, enabled=args.dtype == "bf16"):
            loss = self.loss(idx, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if counts:
            self.seconds.append(_now(args) - start)


def build_variants(args: argparse.Namespace) -> dict[str, Variant]:
    """Return the variants by name, all from the same seed."""
    config = GPTConfig(
        block_size=args.block_size,
        vocab_size=args.vocab_size,
        n_layer=args.n_layer,
        n_head=args.n_head,
        n_embd=args.n_embd,
        bias=args.bias,
    )

    def gpt() -> GPT:
        torch.manual_seed(82)
        return GPT(config).to(args.device)

    plain, drop_in, zero, fused, literal = PlainGPT(config).to(args.device), gpt(), gpt(), gpt(), gpt()
    k = args.jepa_k
    return {
        PLAIN: Variant(plain, plain),
        "plain": Variant(drop_in, lambda idx, targets: drop_in(idx, targets)[1]),
        "jepa_lambda0": Variant(zero, lambda idx, targets: zero.jepa_loss(idx, targets, jepa_lambda=0.0).loss),
        "jepa_fused": Variant(fused, lambda idx, targets: fused.jepa_loss(idx, targets, jepa_k=k).loss),
        "jepa_three_forwards": Variant(literal, lambda idx, targets: three_forwards(literal, idx, targets, k)),
    }


def measure(variants: dict[str, Variant], args: argparse.Namespace) -> None:
    """Let the variants take turns on random rows, the same for all."""
    generator = torch.Generator().manual_seed(82)
    names = list(variants)
    for turn in range(args.turns):
        size = (WARM_UP + COUNTED, args.batch_size, args.block_size + 1)
        rows = torch.randint(args.vocab_size, size, generator=generator).to(args.device)
        first = turn % len(names)  # so that no variant always follows the same one
        for name in names[first:] + names[:first]:
            for number, row in enumerate(rows):
                idx, targets = row[:, :-1].contiguous(), row[:, 1:].contiguous()
                variants[name].step(idx, targets, args, counts=number >= WARM_UP)


def summarise(variants: dict[str, Variant]) -> dict[str, dict[str, float]]:
    """Return for each variant its median time, and the median and quartiles of its ratios to `nanogpt_style`."""
    rows = {}
    for name, variant in variants.items():
        ratios = [each / plain for each, plain in zip(variant.seconds, variants[PLAIN].seconds, strict=True)]
        to_plain = [each / plain for each, plain in zip(variant.seconds, variants["plain"].seconds, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        rows[name] = {
            "step_time_ms": round(1e3 * statistics.median(variant.seconds), 2),
            "ratio": round(middle, 3),
            "ratio_quartiles": [round(low, 3), round(high, 3)],
            "ratio_to_plain": round(statistics.median(to_plain), 3),
        }
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table, and end standard output with one JSON object."""
    args = _parse(argv)
    torch.set_num_threads(args.threads)
    variants = build_variants(args)
    measure(variants, args)
    report = {
        "benchmark": "nanogpt_step",
        "settings": {name: value for name, value in vars(args).items() if name != "out"},
        "num_parameters": variants["plain"].model.get_num_params(),  # type: ignore[operator]
        "variants": summarise(variants),
        "environment": describe_environment(),
    }
    if args.out:
        write_whole(args.out, json.dumps(report, indent=2) + "\n")
    print(f"{'variant':20}  {'step ms':>8}  {'ratio':>6}  {'quartiles':>13}  {'to plain':>8}")
    for name, row in report["variants"].items():
        quartiles = "-".join(f"{each:.3f}" for each in row["ratio_quartiles"])
        print(
            f"{name:20}  {row['step_time_ms']:8.1f}  {row['ratio']:6.3f}  {quartiles:>13}  {row['ratio_to_plain']:8.3f}"
        )
    print(json.dumps(report))


def _now(args: argparse.Namespace) -> float:
    if args.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time training steps of the nanoGPT drop-in.")
    parser.add_argument("--block-size", type=int, default=256, help="tokens in a row")
    parser.add_argument("--batch-size", type=int, default=12, help="rows")
    parser.add_argument("--n-layer", type=int, default=4, help="blocks")
    parser.add_argument("--n-head", type=int, default=4, help="heads")
    parser.add_argument("--n-embd", type=int, default=128, help="width")
    parser.add_argument(
        "--vocab-size", type=int, default=65, help="size of the vocabulary: 65 characters of a small text"
    )
    parser.add_argument("--bias", action=argparse.BooleanOptionalAction, default=False, help="biases, as GPT-2 has")
    parser.add_argument("--jepa-k", type=int, default=1, help="[PRED] tokens")
    parser.add_argument("--turns", type=int, default=20, help=f"turns of {COUNTED} counted steps for each variant")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where steps run")
    parser.add_argument("--dtype", choices=["float32", "bf16"], default="float32", help="bf16: autocast")
    parser.add_argument("--out", type=Path, help="also write the JSON object to this file")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
