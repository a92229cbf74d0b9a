"""Does the shuffled control leave a match that a model can learn? It must not.

    python benchmarks/shuffled_control.py                         # 7,000 rows of NL-RX-SYNTH, 300 steps: minutes
    python benchmarks/shuffled_control.py --out benchmarks/results/epyc_cpu_shuffled_control.json

A model is trained on pairs with only the JEPA term (InfoNCE, gradients through both views), once on the true pairs and
once on those of the control. The held-out rows come from the same exchange as the training rows. If the exchange has a
structure, a model that learned it is right on them, too. For unrelated pairs, the loss cannot be below log(batch) nats,
except by chance.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from llm_jepa.data.config import DataConfig
from llm_jepa.data.prepare import load_data
from llm_jepa.data.shuffled_views import shuffle_code_views
from llm_jepa.files import write_json
from llm_jepa.objective import LLMJEPA, FusedCollator, JEPAConfig, Pair
from llm_jepa.training.models import ModelConfig, build_model

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
CONFIG = JEPAConfig(jepa_gamma=0.0, jepa_lambda=1.0, jepa_distance="infonce", jepa_target="shared")

Shuffle = Callable[[Sequence[Pair], int], Sequence[Pair]]


@dataclass
class Task:
    """Encoded pairs, and what builds a model for them."""

    pairs: list[Pair]
    pad_id: int
    build: Callable[[], nn.Module]

    @staticmethod
    def read(train_file: str, num_rows: int) -> Task:
        """Read a file of pairs; a BPE of 512 tokens is trained on it."""
        data = DataConfig(train_file=train_file, max_train_rows=num_rows, validation_size=0)
        loaded = load_data(data, CONFIG)

        def build() -> nn.Module:
            return build_model(
                ModelConfig(model="nano"),
                loaded.tokenizer,
                end_id=loaded.encoder.end_ids[0],
                pad_id=loaded.encoder.pad_id,
            )

        return Task(list(loaded.train.pairs), loaded.encoder.pad_id, build)


def held_out_infonce(
    task: Task,
    shuffle: Shuffle | None,
    *,
    num_held_out: int,
    steps: int,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> float:
    """Train on pairs with only the JEPA term; return the mean InfoNCE of held-out pairs, in nats.

    Args:
        task: The pairs.
        shuffle: What exchanges the code views of all pairs, held-out ones included; None for the true pairs.
        num_held_out: Pairs that are not trained on.
        steps: Optimizer steps.
        batch_size: Pairs in a step, and the number of pairs that a held-out pair is compared with.
        learning_rate: That of AdamW, after a warm-up over a tenth of the steps.
        seed: That of weights, order and exchange.
    """
    # The last pairs of a random order: what is held out must not depend on how the file is sorted.
    order = random.Random(seed).sample(range(len(task.pairs)), len(task.pairs))
    pairs = [task.pairs[place] for place in order]
    pairs = list(shuffle(pairs, seed)) if shuffle else pairs
    train, held_out = pairs[:-num_held_out], pairs[-num_held_out:]
    torch.manual_seed(seed)
    jepa = LLMJEPA(task.build(), CONFIG)
    collate = FusedCollator(CONFIG, pad_token_id=task.pad_id)
    optimizer = torch.optim.AdamW(jepa.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, 10 * (step + 1) / steps))
    rng = random.Random(seed)
    for _ in range(steps):
        jepa(collate(rng.sample(train, batch_size))).loss.backward()
        nn.utils.clip_grad_norm_(jepa.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    jepa.eval()
    batches = [held_out[start : start + batch_size] for start in range(0, num_held_out - batch_size + 1, batch_size)]
    with torch.no_grad():
        losses = [jepa(collate(batch)).jepa_loss.item() for batch in batches]
    return sum(losses) / len(losses)


def main() -> None:
    parser = argparse.ArgumentParser(description="Held-out InfoNCE after training on true and on shuffled pairs.")
    parser.add_argument("--train-file", default=str(DATA / "nlrx_synth_train.jsonl"))
    parser.add_argument("--rows", type=int, default=8000, help="rows of the file (default %(default)s)")
    parser.add_argument("--held-out", type=int, default=1000, help="rows not trained on (default %(default)s)")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    args = parser.parse_args()
    if not Path(args.train_file).is_file():
        parser.error(f"{args.train_file} is missing. Name a file of pairs with --train-file.")
    task = Task.read(args.train_file, args.rows)
    size = {"num_held_out": args.held_out, "steps": args.steps, "batch_size": args.batch_size, "seed": args.seed}
    figures = {
        "true pairs": held_out_infonce(task, None, **size),
        "shuffled pairs": held_out_infonce(task, shuffle_code_views, **size),
        "log(batch size)": math.log(args.batch_size),
    }
    for name, value in figures.items():
        print(f"{name:16} {value:.3f} nats")
    if args.out:
        settings = {"train_file": Path(args.train_file).name, "rows": args.rows} | size
        write_json(args.out, {"benchmark": "shuffled_control", "settings": settings, "nats": figures})


if __name__ == "__main__":
    main()
