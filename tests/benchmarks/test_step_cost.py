"""The benchmark of the step's cost: its baselines compute the losses they claim, and it runs through."""

from __future__ import annotations

import doctest
import json
import sys
from pathlib import Path

import pytest
import torch

from llm_jepa.objective import LLMJEPA, FusedCollator, JEPAConfig

# The benchmark is a script beside its helpers, not a package.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import step_cost
import step_objectives
import step_packing
import step_report
import step_timing

WIDTH = 48  # stands for the published 512: more than any row here, within the tiny models' positions
FAMILIES = ["llama", "gpt2"]
BASELINES = {
    "separate_stop_grad": ("stop_grad", lambda jepa: step_objectives.Separate(jepa, pad_id=0)),
    "separate_shared": ("shared", lambda jepa: step_objectives.Separate(jepa, pad_id=0)),
    "published_additive": ("shared", lambda jepa: step_objectives.PublishedAdditive(jepa, 0, WIDTH)),
    "published_3pass": ("shared", lambda jepa: step_objectives.PublishedThreePass(jepa, 0, WIDTH)),
}


def loss_and_gradients(objective, pairs):
    """Return the loss of a batch and the gradient of every trained parameter."""
    loss = objective.loss(objective.collate(pairs))
    loss.backward()
    gradients = {name: each.grad.clone() for name, each in objective.module.named_parameters() if each.grad is not None}
    objective.module.zero_grad()
    return loss.detach(), gradients


@pytest.mark.parametrize("k", [0, 1, 3])
@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("family", FAMILIES)
def test_each_baseline_has_the_loss_and_the_gradients_of_the_fused_pass(tiny_model, make_pairs, family, baseline, k):
    """What is timed against the fused pass does the same work: loss within 1e-5, gradients within 1e-4."""
    target, build = BASELINES[baseline]
    jepa = LLMJEPA(tiny_model(family), JEPAConfig(jepa_k=k, jepa_target=target, jepa_lambda=2.0))
    pairs = make_pairs(5)
    loss, gradients = loss_and_gradients(build(jepa), pairs)
    fused_loss, fused_gradients = loss_and_gradients(step_objectives.Fused(jepa, 0), pairs)
    torch.testing.assert_close(loss, fused_loss, atol=1e-5, rtol=0)
    assert gradients.keys() == fused_gradients.keys()
    for name, gradient in fused_gradients.items():
        assert (gradients[name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-7, name


def test_plain_training_has_the_loss_of_lambda_zero(tiny_model, make_pairs):
    """The yardstick of all ratios trains on the same labels as the library's own baseline."""
    model, pairs = tiny_model("llama"), make_pairs(5)
    jepa = LLMJEPA(model, JEPAConfig(jepa_lambda=0))
    plain = step_objectives.Plain(model, 0)
    torch.testing.assert_close(
        plain.loss(plain.collate(pairs)), jepa(FusedCollator(jepa.config, 0)(pairs)).loss, atol=1e-6, rtol=0
    )


def test_the_trainer_trains_as_the_bare_loop_does_on_the_same_batches(tiny_model, make_pairs, tmp_path):
    """Their times compare like with like: after all chunks both have the same weights, and each chunk was announced."""
    place = step_timing.Placement(torch.device("cpu"))
    batches = [make_pairs(3, seed=number) for number in range(step_timing.num_batches(7))]
    chunks = step_timing.make_chunks(batches, 7)
    bare, trained = (LLMJEPA(tiny_model("llama"), JEPAConfig(jepa_lambda=0)) for _ in range(2))
    loop = step_timing.BareLoop(step_objectives.Fused(bare, 0), place)
    for chunk in chunks:
        loop.run(chunk)
    announced = []
    trainer = step_timing.TrainerLoop(trained, 0, place, str(tmp_path))
    trainer.run(chunks, announced.append)
    assert announced == [0, 1]
    assert len(trainer.timing.step_s) == len(trainer.timing.loop_s) == len(loop.timing.step_s) == 7
    for name, weight in bare.named_parameters():
        torch.testing.assert_close(trained.get_parameter(name), weight, atol=1e-6, rtol=0)


def test_flops_of_rows_of_one_width_are_those_of_a_few_times_their_number(tiny_model, make_pairs):
    """Counting two rows for all is exact where every row is as wide as the others."""
    jepa = LLMJEPA(tiny_model("llama"), JEPAConfig(jepa_target="shared"))
    objective = step_objectives.PublishedThreePass(jepa, 0, WIDTH)
    place, batches = step_timing.Placement(torch.device("cpu")), [make_pairs(4), make_pairs(6, seed=1)]
    counted = step_timing.count_flops(objective, batches, place, same_width=True)
    assert counted == step_timing.count_flops(objective, batches, place, same_width=False)


def test_counted_flops_of_attention_are_not_left_out_on_a_cpu(tiny_model, make_pairs):
    """Rows twice as wide cost more than twice as much: attention grows with the square of the width."""
    jepa = LLMJEPA(tiny_model("llama"), JEPAConfig(jepa_target="shared"))
    place, batches = step_timing.Placement(torch.device("cpu")), [make_pairs(2)]
    narrow, wide = (
        step_timing.count_flops(step_objectives.PublishedThreePass(jepa, 0, width), batches, place, same_width=True)
        for width in (WIDTH, 2 * WIDTH)
    )
    assert wide > 2 * narrow


@pytest.mark.slow
def test_every_variant_runs_two_steps_and_the_last_line_is_the_report(capsys, tmp_path):
    """Smoke: all variants in turn, the table within 80 columns, one JSON object at the end, the same in the file."""
    out = tmp_path / "cost.json"
    size = ["--batch-size", "2", "--num-pairs", "60", "--rounds", "2", "--slow-rounds", "1", "--threads", "1"]
    size += ["--published-width", "64"]
    step_cost.main([*size, "--generation", "--num-answers", "3", "--out", str(out)])
    *table, last = capsys.readouterr().out.splitlines()
    report = json.loads(last)
    assert max(map(len, table)) <= 80
    assert report == json.loads(out.read_text())
    assert list(report["variants"]) == list(step_cost.VARIANTS)
    rounds = {name: 1 if variant.is_slow else 2 for name, variant in step_cost.VARIANTS.items()}
    assert {name: row["rounds"] for name, row in report["variants"].items()} == rounds
    assert report["variants"]["trainer_plain"]["loop_ms"] > 0
    assert report["generation"]["num_answers"] == 3


@pytest.mark.slow
def test_variants_one_after_the_other_run_the_same_rounds_on_generated_pairs(capsys, tmp_path, monkeypatch):
    """With --sequential each has the device to itself; plain is always there; without SYNTH files pairs are made."""
    monkeypatch.setattr(step_cost, "SYNTH", tmp_path)
    size = ["--batch-size", "2", "--num-pairs", "60", "--rounds", "6", "--threads", "1", "--length", "12"]
    step_cost.main([*size, "--sequential", "--variants", "fused_stop_grad,trainer_plain"])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(report["variants"]) == ["plain", "trainer_plain", "fused_stop_grad"]
    assert {row["rounds"] for row in report["variants"].values()} == {6}
    assert report["data"]["origin"].startswith("generated pairs")
    assert report["data"]["median_tokens"] == report["data"]["max_tokens"] == 12


def test_a_variant_out_of_memory_is_a_line_of_the_table(tiny_model, make_pairs, monkeypatch):
    """One variant too large for the device does not cost the figures of the others."""

    def raise_out_of_memory():
        raise torch.OutOfMemoryError

    loop = step_timing.BareLoop(
        step_objectives.Plain(tiny_model("llama"), 0), step_timing.Placement(torch.device("cpu"))
    )
    chunk = step_timing.make_chunks([make_pairs(2)] * 3, 1)[0]
    monkeypatch.setattr(loop.optimizer, "step", raise_out_of_memory)
    loop.run(chunk)
    loop.run(chunk)
    plain = step_timing.Timing(step_s=[1.0], collate_s=[1.0], flops=1)
    assert step_report.summarise({"plain": plain, "x": loop.timing}, [chunk], None)["x"] == {"error": "out of memory"}


@pytest.mark.slow
def test_packing_runs_through_and_counts_useful_tokens(capsys, tmp_path):
    """Every layout of both objectives, on GSM8K rows; packing takes fewer rows and the same pairs."""
    out = tmp_path / "packing.json"
    size = ["--batch-size", "4", "--num-pairs", "8", "--rounds", "1", "--pack-length", "900"]
    step_cost.main(["--packing", *size, "--out", str(out)])
    *table, last = capsys.readouterr().out.splitlines()
    report = json.loads(last)
    assert max(map(len, table)) <= 80 and report == json.loads(out.read_text())
    rows = report["variants"]
    assert list(rows) == [f"{one}_{two}" for one in ("plain", "jepa") for two in step_packing.LAYOUTS]
    assert rows["plain_padded_grouped"]["ratio"] == 1
    assert rows["plain_packed"]["rows_per_step"] < rows["plain_padded_random"]["rows_per_step"] == 4
    assert all(0 < row["useful_share"] <= 1 and row["tokens_per_s"] > 0 for row in rows.values())


def test_pairs_of_mixed_length_are_made_where_there_is_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(step_cost, "SYNTH", tmp_path)
    data, origin = step_cost.load_mixed_pairs(tmp_path, 40)
    lengths = sorted(len(pair) for pair in data.train.pairs)
    assert origin.startswith("generated pairs") and lengths[-1] > 2 * lengths[0]


def test_wrong_calls_are_refused_with_exit_code_2():
    """A call that cannot be measured ends before any work."""
    for call in (
        ["--variants", "fussed"],
        ["--rounds", "0"],
        ["--length", "3"],
        ["--packing", "--length", "64"],
    ):
        with pytest.raises(SystemExit) as stop:
            step_cost.main(call)
        assert stop.value.code == 2


@pytest.mark.parametrize("module", [step_cost, step_packing, step_report, step_timing])
def test_examples_in_the_docstrings_are_right(module):
    assert doctest.testmod(module).failed == 0
