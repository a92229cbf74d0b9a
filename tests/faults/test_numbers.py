"""B1 to B3: numbers that are not finite stop a run before its step, and degenerate vectors give finite gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import Trainer

from llm_jepa.objective import LLMJEPA, FusedCollator, JEPAConfig
from llm_jepa.objective.distances import get_distance
from llm_jepa.objective.documents import IGNORED
from llm_jepa.training.checkpoints import find_newest
from llm_jepa.training.trainer import JEPATrainer

POISONED_STEP = 3
DISTANCES = ["cosine", "l2", "mse", "infonce"]


def poison(trainer, what):
    """Let the loss, or only its gradient, be nan in the second micro-batch of step POISONED_STEP."""
    original, seen = trainer.jepa.forward, []

    def forward(batch, **more):
        out = original(batch, **more)
        seen.append(batch)
        if len(seen) == 2 * (POISONED_STEP - 1) + 2:
            if what == "loss":
                out.loss = out.loss * torch.nan
            else:
                out.loss.register_hook(lambda gradient: gradient * torch.nan)
        return out

    trainer.jepa.forward = forward


def build(make_run, out, **arguments):
    return make_run(out, gradient_accumulation_steps=2, per_device_train_batch_size=2, **arguments)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_b1_a_nan_stops_the_run_before_its_step(what, make_run, final_weights, fault_row, raises):
    """No step after it, no checkpoint of it, the rows named; the checkpoint before it is whole and finite."""
    trainer = build(make_run, "run")
    poison(trainer, what)
    with fault_row("B1", "the loss or its gradient is nan in one micro-batch", 1) as row:
        with raises(f"{what}_not_finite", f"step {POISONED_STEP} ", exit_code=1):
            trainer.train()
        assert trainer.state.global_step == POISONED_STEP - 1
        newest = find_newest(trainer.args.output_dir)
        assert newest == Path(trainer.args.output_dir) / f"checkpoint-{POISONED_STEP - 1}"
        assert all(each.isfinite().all() for each in final_weights(trainer).values())
        row.passed = 1


def test_b1_the_stock_trainer_goes_on_with_nan_weights(make_run, final_weights, monkeypatch):
    """Negative control: without our checks the run goes through all steps, and its weights are nan."""
    trainer = build(make_run, "run", save_steps=None)
    poison(trainer, "gradient")
    monkeypatch.setattr(JEPATrainer, "_get_grad_norm", Trainer._get_grad_norm)
    monkeypatch.setattr(JEPATrainer, "compute_loss", lambda self, model, inputs, **_: model(inputs, step=0).loss)
    trainer.train()
    assert trainer.state.global_step == trainer.state.max_steps
    assert not all(each.isfinite().all() for each in final_weights(trainer).values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", DISTANCES)
def test_b2_degenerate_embeddings_give_finite_losses_and_gradients(name, dtype, fault_row):
    """Zero vectors, equal vectors, vectors of length 1e-20: no gradient over 1e3, that is 1 / MIN_NORM.

    InfoNCE divides cosines by its temperature of 0.1, and its bound with them.
    """
    bound = 1e4 if name == "infonce" else 1e3
    torch.manual_seed(0)
    some, zero = torch.randn(4, 16), torch.zeros(4, 16)
    cases = {"zero": (zero, some), "both zero": (zero, zero), "equal": (some, some), "tiny": (some * 1e-20, some)}
    with fault_row("B2", "embeddings are zero, equal or of length 1e-20", len(cases)) as row:
        for pred, target in cases.values():
            pred = pred.to(dtype).requires_grad_()
            loss = get_distance(name)(pred, target.to(dtype)).mean()
            loss.backward()
            assert loss.isfinite()
            assert pred.grad.isfinite().all()
            assert pred.grad.abs().max() <= bound
            row.passed += 1


def test_b2_the_usual_cosine_explodes_at_zero():
    """Negative control: PyTorch's own cosine similarity near zero."""
    pred = torch.full((1, 16), 1e-12, requires_grad=True)
    torch.nn.functional.cosine_similarity(pred, torch.randn(1, 16)).sum().backward()
    assert pred.grad.abs().max() > 1e6


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_b3_rows_that_are_mostly_padding_give_no_nan(attention, tiny_model, make_pairs, fault_row):
    """A mask whose padding rows see nothing makes nan of them in a softmax; here padding sees itself."""
    config = JEPAConfig(jepa_target="shared", jepa_direction="both")
    jepa = LLMJEPA(tiny_model("llama", attention=attention), config)
    pairs = [*make_pairs(3, longest=40), *make_pairs(3, longest=1, seed=4)]
    with fault_row("B3", "rows that are mostly padding", 1) as row:
        out = jepa(FusedCollator(config, pad_token_id=0)(pairs))
        out.loss.backward()
        assert out.loss.isfinite()
        assert all(each.grad.isfinite().all() for each in jepa.parameters() if each.grad is not None)
        row.passed = 1


def test_b4_a_batch_in_which_nothing_counts_gives_zero_and_no_nan(tiny_model, make_pairs, fault_row):
    """No labelled token, no pair of the term, neither: that term is 0, and every gradient is finite."""
    config = JEPAConfig()
    with fault_row("B4", "a batch without a labelled token, without a pair of views, without either", 3) as row:
        for without_labels, without_views in ((True, False), (False, True), (True, True)):
            jepa, pairs = LLMJEPA(tiny_model("llama"), config), make_pairs(3)
            for pair in pairs:
                pair.use_jepa = not without_views
            batch = FusedCollator(config, pad_token_id=0)(pairs)
            batch.labels.fill_(IGNORED) if without_labels else None
            out = jepa(batch)
            out.loss.backward()
            assert (out.ce_loss == 0) == without_labels
            assert (out.jepa_loss == 0) == without_views
            assert out.loss.isfinite()
            assert all(each.grad.isfinite().all() for each in jepa.parameters() if each.grad is not None)
            row.passed += 1


def test_b4_the_usual_cross_entropy_of_nothing_is_nan():
    """Negative control: what transformers' own loss is made of."""
    nothing = torch.full((4,), IGNORED)
    assert torch.nn.functional.cross_entropy(torch.randn(4, 8), nothing, ignore_index=IGNORED).isnan()
