"""VICReg's variance and covariance, and SIGReg: against their formulas, and through the fused pass."""

from __future__ import annotations

import cmath
import itertools
import math

import pytest
import torch

from llm_jepa.objective import LLMJEPA, FusedCollator, JEPAConfig
from llm_jepa.objective.anti_collapse import covariance_term, random_directions, sigreg_term, variance_term

WEIGHTS = {"jepa_variance_weight": 0.5, "jepa_covariance_weight": 0.3, "jepa_sigreg_weight": 0.2}
N, C = 6, 4


def variance_by_hand(rows):
    """VICReg, Eq. 1 and 2, number by number."""
    hinges = []
    for column in zip(*rows, strict=True):
        mean = sum(column) / len(column)
        variance = sum((each - mean) ** 2 for each in column) / (len(column) - 1)
        hinges.append(max(0.0, 1.0 - math.sqrt(variance + 1e-4)))
    return sum(hinges) / len(hinges)


def covariance_by_hand(rows):
    """VICReg, Eq. 3 and 4, number by number."""
    size, features = len(rows), len(rows[0])
    means = [sum(row[j] for row in rows) / size for j in range(features)]
    total = 0.0
    for i in range(features):
        for j in range(features):
            entry = sum((row[i] - means[i]) * (row[j] - means[j]) for row in rows) / (size - 1)
            total += entry**2 if i != j else 0.0
    return total / features


def sigreg_by_hand(rows, directions):
    """LeJEPA, Algorithm 1: 17 points from -5 to 5, complex exponentials, the trapezoid rule."""
    points = [-5 + 10 * number / 16 for number in range(17)]
    statistics = []
    for direction in directions:
        projections = [sum(x * a for x, a in zip(row, direction, strict=True)) for row in rows]
        errors = []
        for t in points:
            seen = sum(cmath.exp(1j * t * x) for x in projections) / len(projections)
            errors.append(abs(seen - math.exp(-t * t / 2)) ** 2 * math.exp(-t * t / 2))
        integral = sum((left + right) / 2 * 10 / 16 for left, right in itertools.pairwise(errors))
        statistics.append(len(rows) * integral)
    return sum(statistics) / len(statistics)


def test_each_term_is_its_formula_number_by_number():
    torch.manual_seed(0)
    rows = (torch.randn(N, C) * torch.tensor([0.3, 1.0, 2.0, 0.01]) + 0.5).double()
    directions = random_directions(5, C, seed=1, step=2).double()
    numbers = rows.tolist()
    assert variance_term(rows).item() == pytest.approx(variance_by_hand(numbers), rel=1e-10)
    assert covariance_term(rows).item() == pytest.approx(covariance_by_hand(numbers), rel=1e-10)
    assert sigreg_term(rows, directions).item() == pytest.approx(
        sigreg_by_hand(numbers, directions.T.tolist()), rel=1e-10
    )


@pytest.mark.parametrize("name", ["variance", "covariance", "sigreg"])
def test_each_gradient_is_the_slope(name):
    """Against finite differences in float64, away from the hinge's corner."""
    directions = random_directions(3, C, seed=1, step=2).double()
    term = {
        "variance": variance_term,
        "covariance": covariance_term,
        "sigreg": lambda rows: sigreg_term(rows, directions),
    }[name]
    torch.manual_seed(1)
    assert torch.autograd.gradcheck(term, (torch.randn(N, C, dtype=torch.float64) * 0.5).requires_grad_())


def test_a_collapse_raises_every_term_that_is_there_against_it():
    """One vector for all: variance at its top, SIGReg many times that of a Gaussian cloud; one axis: covariance up."""
    torch.manual_seed(0)
    cloud, point = torch.randn(512, 8), torch.randn(8).expand(512, 8)
    line = torch.randn(512, 1).expand(512, 8)
    directions = random_directions(64, 8, seed=0, step=0)
    assert variance_term(point).item() == pytest.approx(0.99) and variance_term(cloud) < 0.05
    assert covariance_term(line) > 100 * covariance_term(cloud)
    assert sigreg_term(point, directions) > 100 * sigreg_term(cloud, directions)
    assert sigreg_term(line, directions) > 20 * sigreg_term(cloud, directions)


@pytest.mark.parametrize("size", [0, 1, 2])
def test_tiny_batches_and_equal_embeddings_keep_value_and_gradient_finite(size):
    for rows in (torch.zeros(size, C), torch.ones(size, C)):
        rows.requires_grad_()
        total = variance_term(rows) + covariance_term(rows) + sigreg_term(rows, random_directions(3, C, 0, 0))
        total.backward()
        assert total.isfinite() and rows.grad.isfinite().all()
        if size < 2:
            assert variance_term(rows) == covariance_term(rows) == 0


def test_directions_are_a_function_of_seed_and_step():
    """Unit length, the same when asked again, others in another step or seed; the global stream is untouched."""
    state = torch.get_rng_state()
    first = random_directions(7, 16, seed=3, step=5)
    torch.testing.assert_close(first.norm(dim=0), torch.ones(7))
    assert torch.equal(first, random_directions(7, 16, seed=3, step=5))
    assert not torch.equal(first, random_directions(7, 16, seed=3, step=6))
    assert not torch.equal(first, random_directions(7, 16, seed=4, step=5))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("target", ["stop_grad", "shared", "ema"])
@pytest.mark.parametrize("direction", ["text_to_code", "both"])
@pytest.mark.parametrize("model", ["llama", "gpt2", "mistral"])
def test_the_fused_pass_with_all_terms_equals_separate_forwards(
    model, direction, target, tiny_model, make_mixed_pairs, assert_equals_reference
):
    """Loss, each term and every gradient; the terms are on predictions, and on targets that carry gradient."""
    config = JEPAConfig(jepa_lambda=0.7, jepa_direction=direction, jepa_target=target, jepa_k=2, **WEIGHTS)
    jepa = LLMJEPA(tiny_model(model), config)
    fused, slow = assert_equals_reference(jepa, make_mixed_pairs(6, seed=3), step=4, packing=target == "shared")
    assert fused.terms.keys() == {"variance", "covariance", "sigreg"}
    for name, term in slow.terms.items():
        assert fused.terms[name].item() == pytest.approx(term.item(), rel=1e-4), name
    distance = fused.jepa_loss + 0.5 * fused.terms["variance"] + 0.3 * fused.terms["covariance"]
    expected = fused.ce_loss + 0.7 * (distance + 0.2 * fused.terms["sigreg"])
    assert fused.loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_targets_without_gradient_are_left_out(make_jepa, make_pairs):
    """With stop_grad the terms are those of the predictions alone; with shared, the mean of both sides."""
    pairs = make_pairs(5)
    for target in ("stop_grad", "shared"):
        jepa = make_jepa(jepa_target=target, jepa_variance_weight=1.0)
        out = jepa(FusedCollator(jepa.config, pad_token_id=0)(pairs))
        sides = [out.text_pred] + ([out.code_emb] if target == "shared" else [])
        expected = sum(variance_term(side) for side in sides) / len(sides)
        assert out.terms["variance"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_micro_batches_weigh_by_their_pairs(make_jepa, make_pairs):
    """A step of micro-batches of 3 and 2 pairs has 3/5 and 2/5 of each one's own term: a mean, not a sum."""
    jepa, pairs = make_jepa(jepa_covariance_weight=1.0), make_pairs(5)
    collate = FusedCollator(jepa.config, pad_token_id=0)
    parts = [collate(pairs[:3]), collate(pairs[3:])]
    shares = [jepa(part, num_pairs=5).terms["covariance"].item() for part in parts]
    alone = [jepa(part).terms["covariance"].item() for part in parts]
    assert shares == pytest.approx([alone[0] * 3 / 5, alone[1] * 2 / 5], rel=1e-5)


def test_sigreg_needs_the_step_in_training_alone(make_jepa, make_pairs, raises):
    jepa = make_jepa(jepa_sigreg_weight=1.0)
    batch = FusedCollator(jepa.config, pad_token_id=0)(make_pairs(4))
    with raises("step_missing", "jepa_sigreg_weight=1.0", "step="):
        jepa(batch)
    assert jepa(batch, step=1).loss != jepa(batch, step=2).loss
    assert jepa(batch, step=1).loss == jepa(batch, step=1).loss
    assert jepa.eval()(batch).loss.isfinite()


def test_the_terms_are_in_the_log(make_jepa, make_pairs, make_trainer):
    """By name, unweighted, averaged over steps like the distance; none without a weight."""
    for weights, names in [({}, set()), (WEIGHTS, {"variance_loss", "covariance_loss", "sigreg_loss"})]:
        trainer = make_trainer(make_jepa(**weights), make_pairs(8), max_steps=2, gradient_accumulation_steps=2)
        trainer.train()
        line = trainer.state.log_history[0]
        assert {name for name in line if name.endswith("_loss")} == {"ce_loss", "jepa_loss", *names}
        weighted = sum(weights[f"jepa_{name.removesuffix('_loss')}_weight"] * line[name] for name in names)
        assert line["loss"] == pytest.approx(line["ce_loss"] + line["jepa_loss"] + weighted, rel=1e-4)


@pytest.mark.parametrize(
    ("settings", "code", "values"),
    [
        ({"jepa_variance_weight": -1.0}, "value_out_of_range", ["jepa_variance_weight=-1.0"]),
        ({"jepa_sigreg_weight": float("nan")}, "value_out_of_range", ["jepa_sigreg_weight=nan"]),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, code, values, raises):
    with raises(code, *values):
        JEPAConfig(**settings)
