"""`torch_compile` works with the objective: the compiled step takes the steps of the plain one."""

from __future__ import annotations

import pytest
import torch


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("objective", [{"jepa_lambda": 0.0}, {"jepa_direction": "both"}], ids=["plain", "jepa"])
def test_compiled_training_equals_plain_training(objective, make_jepa, make_trainer, make_mixed_pairs):
    """Losses within 1e-5 and weights within 1e-4 after four steps, packed; graphs are traced but no code is made."""
    losses, weights = {}, {}
    for compiled in (False, True):
        torch.compiler.reset()
        trainer = make_trainer(
            make_jepa(**objective),
            make_mixed_pairs(16, seed=3),
            packing=True,
            pack_length=60,
            max_steps=4,
            learning_rate=1e-3,
            torch_compile=compiled,
            **({"torch_compile_backend": "aot_eager"} if compiled else {}),
        )
        trainer.train()
        losses[compiled] = [line["loss"] for line in trainer.state.log_history if "loss" in line]
        weights[compiled] = [each.detach().clone() for each in trainer.jepa.parameters()]
    assert losses[True] == pytest.approx(losses[False], abs=1e-5) and len(losses[True]) == 4
    for one, other in zip(weights[True], weights[False], strict=True):
        assert (one - other).norm() <= 1e-4 * other.norm().clamp(min=1e-3)
