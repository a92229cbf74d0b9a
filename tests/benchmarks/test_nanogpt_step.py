"""The benchmark of the nanoGPT drop-in: its variants compute what they claim, and it runs through."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

# The benchmark is a script, not part of the package.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import nanogpt_step
from llm_jepa.nanogpt import GPT, GPTConfig

SMALL = {"block_size": 16, "vocab_size": 20, "n_layer": 2, "n_head": 2, "n_embd": 16}
FLAGS = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]


@pytest.fixture
def rows():
    tokens = torch.randint(20, (3, 17), generator=torch.Generator().manual_seed(0))
    return tokens[:, :-1], tokens[:, 1:]


@pytest.mark.parametrize("bias", [True, False])
def test_the_yardstick_is_the_same_model(rows, bias):
    """The same weights give the same loss, so that the ratio compares two ways to write one thing."""
    config = GPTConfig(**SMALL, bias=bias)
    plain, ours = nanogpt_step.PlainGPT(config), GPT(config)
    names = {"words": "transformer.wte", "places": "transformer.wpe", "norm": "transformer.ln_f"}
    inner = {"norm_1": "ln_1", "qkv": "attn.c_attn", "out": "attn.c_proj"}
    inner |= {"norm_2": "ln_2", "up": "mlp.c_fc", "down": "mlp.c_proj"}
    state = {"lm_head.weight": plain.words.weight}
    for name, value in plain.state_dict().items():
        module, kind = name.rsplit(".", 1)
        if module.startswith("blocks"):
            _, number, part = module.split(".")
            state[f"transformer.h.{number}.{inner[part]}.{kind}"] = value
        else:
            state[f"{names[module]}.{kind}"] = value
    ours.load_state_dict(state)
    torch.testing.assert_close(plain(*rows), ours(*rows)[1])
    assert sum(each.numel() for each in plain.parameters()) == ours.get_num_params(non_embedding=False) - 16


def test_three_forwards_have_the_loss_of_the_fused_pass(rows):
    """What is timed against the fused pass does the same work."""
    model = GPT(GPTConfig(**SMALL))
    for k in (0, 1, 3):
        literal = nanogpt_step.three_forwards(model, *rows, k)
        torch.testing.assert_close(literal, model.jepa_loss(*rows, jepa_k=k).loss, atol=1e-5, rtol=0)


def test_it_runs_through_and_ends_in_json(capsys, tmp_path):
    """A table for people, one JSON object for programs, and the same in a file."""
    nanogpt_step.main([*FLAGS, "--turns=2", "--batch-size=2", f"--out={tmp_path}/cost.json"])
    lines = capsys.readouterr().out.splitlines()
    report = json.loads(lines[-1])
    assert report == json.loads((tmp_path / "cost.json").read_text())
    assert report["variants"].keys() == {line.split()[0] for line in lines[1:-1]}
    assert report["variants"][nanogpt_step.PLAIN]["ratio"] == 1.0
    assert all(row["step_time_ms"] > 0 for row in report["variants"].values())
