"""The GPU benchmark: its arithmetic, its refusal, and its course at the size of a test on a CPU."""

from __future__ import annotations

import doctest
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

# The benchmark is a script beside its helpers, not a package.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import gpu
from step_timing import Placement, Timing


def test_without_a_gpu_it_says_so_and_exits_2(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 2
    assert "needs a CUDA device" in capsys.readouterr().err


@pytest.mark.parametrize("length", [16, 48])
def test_the_formula_counts_what_pytorch_counts(length, tiny_model):
    """6 N + 12 L C T, against the operations of a forward and a backward, one by one: within a hundredth."""
    model = tiny_model("llama")
    ids = torch.randint(2, 64, (3, length))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    assert counter.get_total_flops() == pytest.approx(3 * length * gpu.flops_per_token(model, length), rel=1e-2)


def test_figures_by_hand():
    """1,000 tokens of 2 GFLOP in 10 ms are 200 TFLOP/s: a fifth of a peak of 1,000."""
    timings = {
        gpu.BASE: Timing(step_s=[0.01, 0.01, 9.0], held_bytes=2**30, extra_bytes=2**31),
        "jepa_sdpa": Timing(step_s=[0.0125]),
        "jepa_flex": Timing(error="out of memory"),
    }
    rows = gpu.summarise(timings, tokens=1000, flops=2e9, peak_tflops=1000)
    base = rows[gpu.BASE]
    assert (base["step_ms"], base["ratio"], base["tokens_per_s"]) == pytest.approx((10, 1, 1e5))
    assert (base["peak_gib"], base["held_gib"], base["mfu"]) == pytest.approx((3, 1, 0.2))
    assert rows["jepa_sdpa"]["ratio"] == pytest.approx(1.25) and rows["jepa_sdpa"]["mfu"] == pytest.approx(0.16)
    assert rows["jepa_flex"] == {"error": "out of memory"}
    assert gpu.summarise(timings, 1000, 2e9, None)[gpu.BASE]["mfu"] is None


@pytest.mark.slow
def test_it_runs_through_on_a_small_model():
    """On a CPU, which `main` would refuse: every variant at every length has figures, or a reason why not."""
    size = ["--preset", "nano", "--tokens", "64", "--rounds", "2", "--warm-up", "1"]
    args = gpu._parse([*size, "--lengths", "16", "24"])
    with torch.compiler.set_stance("force_eager"):  # the check of a model runs its attention, compiled otherwise
        report = gpu.measure(args, Placement(torch.device("cpu")), peak_tflops=1.0)
    for length in ("16", "24"):
        rows = report["lengths"][length]
        assert rows["plain_sdpa"]["ratio"] == 1
        assert rows["jepa_sdpa"]["tokens_per_s"] > 0
        assert "no gradient on a CPU" in rows["plain_flex"]["error"]
    assert "jepa_flex" in gpu.format_report(report)


def test_examples_in_the_docstrings_are_right():
    assert doctest.testmod(gpu).failed == 0
