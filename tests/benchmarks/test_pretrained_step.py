"""The benchmark of a pretrained model's step: its variants compute one loss, and its record says what was measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

# The benchmark is a script beside its helpers, not a package.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import pretrained_step
from llm_jepa.objective import FusedCollator

SMALL = ["--shape", "tiny", "--batch-size", "2", "--rounds", "1"]


@pytest.mark.parametrize("objective", ["plain", "stop_grad"])
@pytest.mark.parametrize("loss_on", ["code", "all"])
def test_the_loss_in_chunks_is_that_of_full_logits(loss_on, objective):
    """Loss within 1e-5 and gradients within 1e-4, as everywhere."""
    trained = pretrained_step.Trained(pretrained_step.TINY, lora=False)
    ((pairs,), full) = pretrained_step.make_batches(pretrained_step.TINY, 4, 1), pretrained_step.Variant(objective)
    chunked = pretrained_step.Variant(objective, chunked=True)
    found = {}
    for variant in (full, chunked):
        trained.add(variant, loss_on)
        jepa = trained.of(variant)
        jepa.zero_grad()
        loss = jepa(FusedCollator(jepa.config, 0)(pairs)).loss
        loss.backward()
        gradient = torch.cat([each.grad.flatten() for each in trained.model.parameters() if each.grad is not None])
        found[variant] = loss.item(), gradient
    assert found[chunked][0] == pytest.approx(found[full][0], abs=1e-5)
    assert (found[chunked][1] - found[full][1]).norm() < 1e-4 * found[full][1].norm()


def test_the_record_holds_every_variant_and_the_answers(tmp_path, capsys):
    names = "plain,stop_grad,shared_lora,plain_bf16"
    out = tmp_path / "record.json"
    arguments = ["--only", names, "--generation", "--num-answers", "3", "--new-tokens", "4", "--out", str(out)]
    pretrained_step.main([*SMALL, *arguments])
    record = json.loads(out.read_text())
    assert list(record["variants"]) == names.split(",")
    assert record["variants"]["plain"]["ratio"] == 1
    for figures in record["variants"].values():
        assert figures["cpu_s"] > 0 and figures["peak_share"] > 0 and figures["loss"] > 0
    assert record["generation"]["answers"] == 3 and record["generation"]["tokens"] <= 12
    assert "3 answers" in capsys.readouterr().out


def test_bf16_is_left_out_where_the_processor_has_none(monkeypatch):
    """It would take a hundred times as long; whoever names a variant gets it."""
    monkeypatch.setattr(pretrained_step, "has_bf16_instructions", lambda: False)
    names = [each.name for each in pretrained_step.chosen(None)]
    assert "plain_lora" in names and not any("bf16" in name for name in names)
    assert [each.name for each in pretrained_step.chosen(["plain_bf16"])] == ["plain_bf16"]
