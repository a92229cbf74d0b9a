"""Golden runs: record the results of the code, to compare them before and after a change that should alter none.

    python benchmarks/golden_runs.py OUT                # run everything (minutes), write OUT/manifest.json
    python benchmarks/golden_runs.py NEW --against OUT  # the same; list every file that differs; exit 1 if any does

The commands are those of the command line, so the script works with any version of the package (PYTHONPATH chooses
it). Results depend on the processor in the last bits: compare folders of one machine. Times, paths and versions are
not compared.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
DATA = ["generate_train=400", "generate_test=40", "validation_size=64", "validation_generations=8"]
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
# Not compared wherever they are: times, and what depends on the folder.
VOLATILE = (
    "time",
    "tokens_per",
    "examples_per",
    "steps_per",
    "samples_per",
    "sha256",
    "file",
    "path",
    "folder",
    "when",
)
VOLATILE_FILES = (
    "environment.json",
    "data.json",
    "trainer_state.json",
    "results.csv",
    "experiment.yaml",
    "config.yaml",
)


def main() -> int:
    parser = argparse.ArgumentParser(description="Make golden runs, and compare them with earlier ones.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--against", type=Path, help="folder of an earlier call")
    args = parser.parse_args()
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    make(out)
    manifest = {str(file.relative_to(out)): digest(file) for file in sorted(out.rglob("*")) if is_result(file)}
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    if args.against is None:
        return 0
    before = json.loads((args.against / "manifest.json").read_text())
    differing = [name for name in sorted(before.keys() | manifest.keys()) if before.get(name) != manifest.get(name)]
    print("\n".join(["These differ:", *differing]) if differing else f"All {len(before)} files are equal.")
    return 1 if differing else 0


def make(out: Path) -> None:
    """Run the demo's arms, a sweep with equal FLOPs, a chat run with LoRA, and a nanoGPT export."""
    demo = ["compare", CONFIGS / "demo.yaml", "--seeds", "82", "--workers", "1", "--out", "demo"]
    call(out, *demo, *settings("max_steps=12", "logging_steps=4", "eval_steps=6", *DATA))
    run = "demo/jepa_infonce-s82"
    for verb in ("generate", "retrieve"):
        keep(out, f"{verb}.txt", verb, run, "lines with the word dog")
    keep(out, "evaluate.txt", "evaluate", run, "--data", "demo/data/nlrx-400-40-0-test.jsonl")

    arms = "arms={ntp: {learning_rate: [1.0e-3, 3.0e-3]}, jepa: {jepa_k: [0, 1]}}"
    sweep = ["compare", CONFIGS / "sweep.yaml", "--seeds", "82,23", "--workers", "1", "--out", "sweep"]
    short = ["max_steps=4", "generate_train=120", "generate_test=20", "validation_size=20", "compare_at=[steps, flops]"]
    call(out, *sweep, *settings(*short, arms))

    chat(out)
    nanogpt(out)


def chat(out: Path) -> None:
    """Fine-tune LoRA matrices on messages, on the demo's plain model with a chat template; export the result."""
    base = out / "demo" / "ntp-s82" / "model"
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(base)
    rows = [json.loads(line) for line in (out / "demo/data/nlrx-400-40-0-train.jsonl").read_text().splitlines()[:80]]
    for name, some in (("train", rows[:60]), ("test", rows[60:])):
        messages = [
            [{"role": "user", "content": row["text"]}, {"role": "assistant", "content": row["code"]}] for row in some
        ]
        lines = "".join(json.dumps({"messages": each}) + "\n" for each in messages)
        (out / f"chat_{name}.jsonl").write_text(lines)
    changes = {
        **{
            "train_file": "chat_train.jsonl",
            "test_file": "chat_test.jsonl",
            "model_name_or_path": "demo/ntp-s82/model",
        },
        **{"lora_r": 4, "jepa_k": 2, "jepa_target": "shared", "max_steps": 6, "save_steps": 3, "learning_rate": 1e-3},
        **{"validation_size": 8, "validation_generations": 4, "per_device_train_batch_size": 8, "logging_steps": 1},
    }
    (out / "chat.yaml").write_text(json.dumps(changes | {"arms": ["ntp", "jepa", "jepa_shuffled"]}))
    call(out, "compare", "chat.yaml", "--seeds", "82", "--workers", "1", "--out", "chat")
    keep(out, "inspect.txt", "data", "inspect", "chat_train.jsonl", *settings("model_name_or_path=demo/ntp-s82/model"))
    call(out, "export", "chat/jepa-s82", "--to", "chat_export")


def nanogpt(out: Path) -> None:
    """Write a checkpoint of the drop-in as nanoGPT does, and export it to a transformers folder."""
    code = (
        "import torch; from llm_jepa.nanogpt import GPT, GPTConfig; torch.manual_seed(0);"
        "args = dict(block_size=16, vocab_size=32, n_layer=2, n_head=2, n_embd=16, dropout=0.0, bias=True);"
        "torch.save({'model': GPT(GPTConfig(**args)).state_dict(), 'model_args': args}, 'ckpt.pt')"
    )
    subprocess.run([sys.executable, "-c", code], cwd=out, env=environment(), check=True)
    call(out, "export", "ckpt.pt", "--to", "nanogpt_export")


def settings(*changes: str) -> list[str]:
    """Return `--set` for each change."""
    return [word for change in changes for word in ("--set", change)]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "COLUMNS": "80"}


def call(out: Path, *words: object) -> str:
    """Run a command in the folder; return its standard output."""
    argv = [sys.executable, "-m", "llm_jepa", *map(str, words)]
    print("llm-jepa", *argv[3:5], file=sys.stderr)
    done = subprocess.run(argv, check=False, cwd=out, env=environment(), stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"exit {done.returncode}: {' '.join(argv)}")
    return done.stdout


def keep(out: Path, name: str, *words: object) -> None:
    """Run a command and keep what it prints, except the JSON object at the end, which may contain a time."""
    lines = call(out, *words).replace(str(out), "OUT").splitlines()
    (out / name).write_text("\n".join(line for line in lines if not line.startswith("{")) + "\n")


def is_result(file: Path) -> bool:
    """Whether a file is compared: weights, answers, scores, logs, and what commands print."""
    if not file.is_file() or file.name in VOLATILE_FILES or file.name == "manifest.json":
        return False
    return file.suffix in (".safetensors", ".jsonl", ".json", ".txt") and "optimizer" not in file.name


def digest(file: Path) -> str:
    """Return the sha256 of a file; for JSON, without times and what depends on the folder."""
    if file.suffix == ".json":
        content = json.dumps(lasting(json.loads(file.read_text())), sort_keys=True).encode()
    elif file.name == "metrics.jsonl":
        lines = [lasting(json.loads(line)) for line in file.read_text().splitlines()]
        content = json.dumps(lines, sort_keys=True).encode()
    else:
        content = file.read_bytes()
    return hashlib.sha256(content).hexdigest()


def lasting(value: Any) -> Any:
    """Return a JSON value without the keys that name times, files and versions."""
    if isinstance(value, dict):
        return {key: lasting(each) for key, each in value.items() if not any(word in key for word in VOLATILE)}
    return [lasting(each) for each in value] if isinstance(value, list) else value


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
