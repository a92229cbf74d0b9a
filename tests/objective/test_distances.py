"""Each distance against its formula by hand or by PyTorch's own, with its gradient."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from llm_jepa.objective import LLMJEPA, FusedCollator, JEPAConfig, reference_loss
from llm_jepa.objective.config import CHOICES
from llm_jepa.objective.distances import declare_distance, get_distance, register_distance

B, C = 6, 16
PLAIN = {
    "cosine": lambda a, b: 1 - F.cosine_similarity(a, b, dim=-1),
    "l2": lambda a, b: ((a - b) ** 2).sum(-1) ** 0.5,
    "mse": lambda a, b: ((a - b) ** 2).sum(-1) / C,
    "infonce": lambda a, b: torch.stack(
        [
            -(F.cosine_similarity(a[i], b[i], dim=0) / 0.2)
            + torch.logsumexp(torch.stack([F.cosine_similarity(a[i], b[j], dim=0) / 0.2 for j in range(B)]), 0)
            for i in range(B)
        ]
    ),
    "infonce_symmetric": lambda a, b: (PLAIN["infonce"](a, b) + PLAIN["infonce"](b, a)) / 2,
}


@pytest.mark.parametrize("name", CHOICES["jepa_distance"])
def test_each_distance_matches_its_formula_and_its_gradient(name):
    """One value a pair, equal to the formula written out; so are the gradients of both sides."""
    torch.manual_seed(0)
    a, b = torch.randn(B, C, requires_grad=True), torch.randn(B, C, requires_grad=True)
    ours = get_distance(name, temperature=0.2)(a, b)
    assert ours.shape == (B,)
    torch.testing.assert_close(ours, PLAIN[name](a, b), rtol=1e-5, atol=1e-6)
    for mine, plain in zip(
        torch.autograd.grad(ours.sum(), (a, b)),
        torch.autograd.grad(PLAIN[name](a, b).sum(), (a, b)),
        strict=True,
    ):
        torch.testing.assert_close(mine, plain, rtol=1e-4, atol=1e-6)


def test_distances_by_hand():
    """Numbers small enough to check on paper."""
    a, b = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    expected = {"cosine": 1.0, "l2": 5.0, "mse": 12.5, "infonce": 0.0, "infonce_symmetric": 0.0}
    for name, value in expected.items():
        assert get_distance(name)(a, b).item() == pytest.approx(value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CHOICES["jepa_distance"])
def test_degenerate_vectors_keep_loss_and_gradient_finite(name, dtype):
    """Zero, tiny and equal vectors: finite, and no gradient above 1e3 (reliability row B2)."""
    torch.manual_seed(0)
    normal = torch.randn(2, C)
    cases = [(torch.zeros(2, C), normal), (normal, torch.zeros(2, C)), (normal, normal.clone())]
    cases += [(torch.zeros(2, C), torch.zeros(2, C)), (torch.full((2, C), 1e-20), normal)]
    for pred, target in cases:
        pred = pred.to(dtype).requires_grad_()
        target = target.to(dtype).requires_grad_()
        loss = get_distance(name, temperature=1.0)(pred, target).sum()
        loss.backward()
        assert math.isfinite(loss.item())
        for side in (pred, target):
            assert side.grad.isfinite().all()
            assert side.grad.abs().max() <= 1.01e3


def test_infonce_tells_the_matching_pair_from_the_others():
    """Aligned targets give a loss near 0, permuted targets a large one, equal targets log B."""
    vectors = torch.eye(4)
    infonce = get_distance("infonce", temperature=0.05)
    assert infonce(vectors, vectors).max() < 1e-6
    assert infonce(vectors, vectors.roll(1, 0)).min() > 10
    torch.testing.assert_close(infonce(vectors, torch.ones(4, 4)), torch.full((4,), math.log(4)))


def test_symmetric_infonce_asks_both_ways_and_infonce_one():
    """Exchanging the sides changes infonce, and not its symmetric form, which is the mean of both ways."""
    symmetric, one_way = get_distance("infonce_symmetric", temperature=0.1), get_distance("infonce", temperature=0.1)
    torch.manual_seed(0)
    a, b = torch.randn(5, C), torch.randn(5, C)
    torch.testing.assert_close(symmetric(a, b), symmetric(b, a))
    assert not torch.allclose(one_way(a, b), one_way(b, a), rtol=1e-2)
    torch.testing.assert_close(symmetric(a, b), (one_way(a, b) + one_way(b, a)) / 2)


def test_pairs_of_one_process_among_those_of_all_have_the_distances_they_have_in_one_batch():
    """Rows 2 and 3 of 5, given the targets and the predictions of all, as after gathering."""
    torch.manual_seed(0)
    a, b = torch.randn(5, C), torch.randn(5, C)
    for name in ("infonce", "infonce_symmetric"):
        distance = get_distance(name, temperature=0.2)
        torch.testing.assert_close(distance(a[2:4], b, 2, a), distance(a, b)[2:4])


def test_an_unknown_distance_is_refused_by_name(raises):
    with raises("unknown_distance", "jepa_distance='euclid'", "cosine"):
        get_distance("euclid")


@pytest.mark.parametrize(
    "objective", [{"jepa_distance": "infonce"}, {"jepa_covariance_weight": 1.0}, {"jepa_sigreg_weight": 1.0}]
)
def test_mixed_precision_takes_no_digit_from_the_term(objective, make_jepa, make_pairs, monkeypatch):
    """Autocast would put the products back into bf16: what reaches the loss is float32, and says what float32 says."""
    jepa = make_jepa(jepa_target="shared", **objective)
    batch = FusedCollator(jepa.config, pad_token_id=0)(make_pairs(8))
    sides = [torch.randn(8, 32), torch.randn(8, 32)]
    monkeypatch.setattr(jepa, "_sides", lambda *_: [[side.bfloat16() for side in sides]])
    plain = jepa(batch, step=0)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = jepa(batch, step=0)
    assert torch.equal(mixed.jepa_loss, plain.jepa_loss) and mixed.jepa_loss.dtype == torch.float32
    assert mixed.terms.keys() == plain.terms.keys()
    assert all(torch.equal(mixed.terms[name], term) for name, term in plain.terms.items())


# ---- a distance of the user's own ----


def log_cosh(pred, target):
    return (pred - target).cosh().log().mean(-1)


def test_a_registered_distance_trains_as_its_formula_says(tiny_model, make_pairs):
    """By its name in the config: the fused pass gives the loss and the gradients of separate forwards."""
    register_distance("log_cosh", log_cosh)
    jepa = LLMJEPA(tiny_model("llama"), JEPAConfig(jepa_distance="log_cosh", jepa_target="shared", jepa_k=2))
    pairs = make_pairs(5)
    found = []
    for output in (jepa(FusedCollator(jepa.config, pad_token_id=0)(pairs)), reference_loss(jepa, pairs)):
        jepa.zero_grad()
        output.loss.backward()
        found.append((output, [each.grad.clone() for each in jepa.parameters() if each.grad is not None]))
    (fused, ours), (slow, theirs) = found
    torch.testing.assert_close(fused.loss, slow.loss, atol=1e-5, rtol=0)
    torch.testing.assert_close(fused.jepa_loss, log_cosh(slow.text_pred, slow.code_emb).mean(), atol=1e-5, rtol=0)
    assert all((one - other).norm() <= 1e-4 * other.norm() for one, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    ("function", "code", "values"),
    [
        (lambda pred, target: (pred - target).square().mean(), "wrong_shape", ["()", "(4, 32)", "(B,)"]),
        (lambda pred, target: 0.5, "wrong_shape", ["float", "(B,)"]),
        (lambda pred, target: (pred - target).detach().square().mean(-1), "gradient_missing", []),
        (lambda pred, target: (pred - target).mean(-1).log(), "value_not_finite", ["nan"]),
        (
            lambda pred, target: (pred - target).square().mean(-1) / pred.std(),
            "distance_uses_other_pairs",
            ["infonce"],
        ),
    ],
)
def test_a_function_that_is_no_distance_of_a_pair_is_refused_before_training(
    function, code, values, tiny_model, raises
):
    register_distance("wrong", function)
    with raises(code, "jepa_distance='wrong'", *values):
        LLMJEPA(tiny_model("llama"), JEPAConfig(jepa_distance="wrong"))


@pytest.mark.parametrize(("name", "code"), [("cosine", "name_taken"), ("my distance", "name_not_allowed")])
def test_a_name_that_is_taken_or_is_none_is_refused(name, code, raises):
    with raises(code, repr(name)):
        register_distance(name, log_cosh)


def test_a_distance_that_is_only_declared_gives_embeddings_and_no_training(tiny_model, make_pairs, raises):
    """What was trained with a distance of another process can be evaluated in this one: its JEPA loss alone is nan."""
    with raises("unknown_distance", "jepa_distance='elsewhere'", "register_distance", "plugins"):
        JEPAConfig(jepa_distance="elsewhere")
    declare_distance("elsewhere")
    jepa = LLMJEPA(tiny_model("llama"), JEPAConfig(jepa_distance="elsewhere"))
    batch = FusedCollator(jepa.config, pad_token_id=0)(make_pairs(3))
    with torch.no_grad():
        output = jepa(batch)
    assert torch.isnan(output.jepa_loss) and torch.isfinite(output.text_pred).all()
    with raises("unknown_distance", "jepa_distance='elsewhere'", "register_distance"):
        jepa(batch)


def test_declaring_a_distance_of_ours_or_a_registered_one_changes_nothing():
    register_distance("log_cosh", log_cosh)
    for name in ("cosine", "log_cosh"):
        declare_distance(name)
        assert get_distance(name)(torch.ones(1, 2, requires_grad=True), torch.ones(1, 2)).item() == pytest.approx(
            0, abs=1e-6
        )
