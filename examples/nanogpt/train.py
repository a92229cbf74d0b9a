"""Train a small nanoGPT on characters, with LLM-JEPA or without, and print the effect of the JEPA term.

    python train.py --text notes.txt                               # the two halves of each row are its views
    python train.py --pairs pairs.jsonl                            # rows of {"text": ..., "code": ...}
    python train.py --pairs pairs.jsonl --jepa-lambda 0            # the baseline: next-token prediction
    python train.py --pairs pairs.jsonl --jepa-distance infonce

Runs with the same seed differ only in the loss: they start with the same weights and see the same rows in the same
order. `rows.py` reads the data, `looks.py` measures the model on held-out rows.
"""

from __future__ import annotations

import argparse
import math
import pickle
import sys
from pathlib import Path
from typing import Any

import torch

from llm_jepa.errors import ConfigError, DataError, LLMJEPAError
from llm_jepa.files import write_json
from llm_jepa.nanogpt import GPT, GPTConfig
from llm_jepa.nanogpt.weights import save_checkpoint
from looks import describe, look_at
from rows import rows_of_pairs, rows_of_text

WARM_UP, LOG_INTERVAL = 50, 10  # steps


def train(args: argparse.Namespace) -> None:
    """Train as the command line says. Evaluate, save and log every `eval_interval` steps, and at the end."""
    path = args.text or args.pairs
    if not Path(path).is_file():
        raise DataError("file_missing", f"{path} does not exist, or is not a file.")
    chars, rows, held_out = (rows_of_text if args.text else rows_of_pairs)(path, args.block_size)
    # The seed gives the weights, whatever the loss. Rows are drawn with their own generator, so that the loss cannot
    # change which rows come next.
    torch.manual_seed(args.seed)
    draw = torch.Generator().manual_seed(args.seed)
    size = {name: getattr(args, name) for name in ("block_size", "n_layer", "n_head", "n_embd")}
    model = GPT(GPTConfig(**size, vocab_size=len(chars))).to(args.device)
    optimizer = model.configure_optimizers(0.1, args.learning_rate, (0.9, 0.95), torch.device(args.device).type)
    print(
        f"data   {len(rows.table):,} rows to train on, {len(held_out.table)} held out, {len(chars)} characters; "
        f"model of {model.get_num_params():,} parameters"
    )

    jepa = {name: getattr(args, name) for name in ("jepa_lambda", "jepa_k", "jepa_split", "jepa_distance")}
    # The baseline never learns [PRED], so it is evaluated without: Enc(text) is used instead of Pred(text).
    k_of_look = args.jepa_k if args.jepa_lambda else 0
    log: dict[str, Any] = {"config": vars(args), "train": [], "held_out": []}
    best = math.inf
    for step in range(args.max_iters + 1):
        x, y, views = rows.batch(torch.randint(len(rows.table), (args.batch_size,), generator=draw), args.device)
        out = model.jepa_loss(x, y, **jepa, views=views)  # with jepa_lambda 0: that of model(x, y), bit for bit
        loss, ce, term = (each.item() for each in out)
        if not math.isfinite(loss):
            text = f"iter {step}: CE={ce} JEPA={term}, not finite numbers. Try a smaller --learning-rate."
            raise LLMJEPAError("loss_not_finite", text)
        is_last = step == args.max_iters
        if step % LOG_INTERVAL == 0 or is_last:
            log["train"].append({"iter": step, "ce": ce, "jepa": term if args.jepa_lambda else None, "total": loss})
            shown = f"{term:.4f}" if args.jepa_lambda else "-"
            print(f"iter {step:5d}: CE={ce:.4f} JEPA={shown:>6} total={loss:.4f}", flush=True)
        if step % args.eval_interval == 0 or is_last:
            look = look_at(model, held_out, k_of_look, args.jepa_split, args.device)
            log["held_out"].append({"iter": step, **look})
            print(describe(look, with_jepa=args.jepa_lambda > 0 and step > 0), flush=True)
            best = min(best, look["ce"])
            save(model, optimizer, args, chars, step, best)
            if args.log:
                write_json(args.log, log)
        if is_last:
            break  # the model that was just evaluated and saved is the last
        for group in optimizer.param_groups:
            group["lr"] = args.learning_rate * share_of_peak(step, args.max_iters)
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def share_of_peak(step: int, max_iters: int) -> float:
    """Return the share of the peak learning rate: it rises in a line, then falls as half a cosine to a tenth."""
    return min(1.0, (step + 1) / WARM_UP) * (0.55 + 0.45 * math.cos(math.pi * step / max_iters))


def save(
    model: GPT, optimizer: torch.optim.Optimizer, args: argparse.Namespace, chars: str, step: int, best: float
) -> None:
    """Write ckpt.pt as nanoGPT's train.py does, and meta.pkl, where its sample.py finds the characters."""
    config = {**vars(args), "dataset": Path(args.out).name, "chars": chars}
    saved = {"optimizer": optimizer.state_dict(), "iter_num": step, "best_val_loss": best, "config": config}
    save_checkpoint(model, Path(args.out, "ckpt.pt"), **saved)
    itos = dict(enumerate(chars))
    meta = {"vocab_size": len(chars), "itos": itos, "stoi": {char: place for place, char in itos.items()}}
    Path(args.out, "meta.pkl").write_bytes(pickle.dumps(meta))


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the options; those that count something must be at least 1."""
    parser = argparse.ArgumentParser(description="Train a small nanoGPT on characters, with LLM-JEPA or without.")
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--text", metavar="FILE", help="running text: the two parts of each row are its views")
    data.add_argument("--pairs", metavar="FILE", help="JSON lines of text and code")
    parser.add_argument("--out", default="runs/nanogpt", metavar="DIR", help="folder of ckpt.pt (default: %(default)s)")
    parser.add_argument("--log", metavar="FILE", help="JSON file for all numbers that are printed")
    parser.add_argument("--jepa-distance", default="cosine", help="or infonce, l2, mse (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="or cuda (default: %(default)s)")
    numbers: list[tuple[str, Any, str]] = [
        ("--jepa-lambda", 1.0, "weight of the JEPA term; 0 is the baseline"),
        ("--jepa-k", 1, "[PRED] tokens after the text"),
        ("--jepa-split", 0.5, "with --text, the share of a row that is the first view"),
        ("--max-iters", 500, "steps"),
        ("--eval-interval", 50, "steps from one evaluation on held-out rows to the next"),
        ("--batch-size", 32, "rows in a step"),
        ("--block-size", 192, "the most characters that the model reads"),
        ("--n-layer", 3, "layers"),
        ("--n-head", 4, "attention heads"),
        ("--n-embd", 96, "width"),
        ("--learning-rate", 1e-3, "its peak"),
        ("--seed", 0, "of weights and rows"),
    ]
    for name, default, text in numbers:
        parser.add_argument(name, type=type(default), default=default, help=f"{text} (default: %(default)s)")
    args = parser.parse_args(argv)
    for name in ("max_iters", "eval_interval", "batch_size", "block_size", "n_layer", "n_head", "n_embd"):
        if getattr(args, name) < 1:
            text = f"--{name.replace('_', '-')} is {getattr(args, name)}, expected 1 or more."
            raise ConfigError("value_out_of_range", text)
    return args


def main(argv: list[str] | None = None) -> int:
    """Run, and return the exit code: 2 if the call or the data are wrong, 1 if the training failed."""
    try:
        args = parse(argv)
        Path(args.out).mkdir(parents=True, exist_ok=True)
        train(args)
    except LLMJEPAError as error:
        print(f"error: {error} [{error.code}]", file=sys.stderr)
        return error.exit_code
    except (ValueError, OSError) as error:  # of PyTorch or the system
        print(f"error: {error}", file=sys.stderr)
        return ConfigError.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
