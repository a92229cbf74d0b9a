"""Monitors say what the embeddings look like; the alarm tells a collapse from a healthy or a narrow model."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from llm_jepa.training.monitors import CollapseAlarm, effective_rank, embedding_monitors, looks_collapsed


def collapsed(noise: float = 1e-3, num_pairs: int = 200, size: int = 64) -> dict[str, float]:
    """Monitors of views that are all one vector up to small noise."""
    base = torch.randn(size)
    return embedding_monitors(base + noise * torch.randn(num_pairs, size), base + noise * torch.randn(num_pairs, size))


def narrow_but_healthy(num_pairs: int = 200, size: int = 64) -> dict[str, float]:
    """Monitors of views in a narrow cone, as in many language models, in which pairs still match."""
    content, base = torch.randn(num_pairs, size), 8 * torch.ones(size)
    return embedding_monitors(base + content + 0.3 * torch.randn(num_pairs, size), base + content)


def contrastive(num_pairs: int = 200, size: int = 64) -> dict[str, float]:
    """Monitors of views that match as InfoNCE makes them: alike in pairs, spread out otherwise."""
    content = torch.randn(num_pairs, size)
    return embedding_monitors(content + 0.7 * torch.randn(num_pairs, size), content)


def untrained(num_pairs: int = 200, size: int = 64) -> dict[str, float]:
    """Monitors of a model that knows nothing: two narrow cones that have nothing to do with each other."""
    return embedding_monitors(
        torch.randn(size) + 0.3 * torch.randn(num_pairs, size), torch.randn(size) + 0.3 * torch.randn(num_pairs, size)
    )


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# ---- embedding_monitors ----


def test_four_pairs_by_hand():
    """Orthogonal codes and perfect predictions: matched 1, shuffled 0, all retrieved at a chance of one in four."""
    monitors = embedding_monitors(3 * torch.eye(4), torch.eye(4))
    assert monitors["matched_cosine"] == pytest.approx(1)
    assert monitors["shuffled_cosine"] == pytest.approx(0)
    assert monitors["gap"] == pytest.approx(1)
    assert monitors["retrieval@1"] == 1
    assert monitors["retrieval_chance"] == 0.25
    assert monitors["mean_pairwise_cosine"] == pytest.approx(0)
    assert monitors["effective_rank"] == pytest.approx(3)  # centring takes one of four equal directions


def test_each_monitor_matches_a_plain_loop():
    """Independent reference in float64, one pair of pairs at a time."""
    text, code = torch.randn(12, 5), torch.randn(12, 5)
    t, c = F.normalize(text.double(), dim=-1), F.normalize(code.double(), dim=-1)
    others = [(i, j) for i in range(12) for j in range(12) if i != j]
    monitors = embedding_monitors(text, code)
    assert monitors["matched_cosine"] == pytest.approx(sum(float(t[i] @ c[i]) for i in range(12)) / 12, abs=1e-6)
    assert monitors["shuffled_cosine"] == pytest.approx(sum(float(t[i] @ c[j]) for i, j in others) / 132, abs=1e-6)
    assert monitors["mean_pairwise_cosine"] == pytest.approx(sum(float(c[i] @ c[j]) for i, j in others) / 132, abs=1e-6)
    assert monitors["mean_pairwise_cosine_text"] == pytest.approx(
        sum(float(t[i] @ t[j]) for i, j in others) / 132, abs=1e-6
    )
    hits = sum(all(float(t[i] @ c[i]) > float(t[i] @ c[j]) for j in range(12) if j != i) for i in range(12))
    assert monitors["retrieval@1"] == pytest.approx(hits / 12)
    deviations = [float(c[:, feature].std()) for feature in range(5)]
    assert monitors["feature_std"] == pytest.approx(sum(deviations) / 5 * math.sqrt(5), abs=1e-6)


def test_pairs_of_the_same_code_are_no_negatives():
    """With groups, a twin's code is as right as one's own, and is not counted as shuffled."""
    text, code = torch.eye(3)[[0, 0, 1]], torch.eye(3)[[0, 0, 1]]
    alone, grouped = embedding_monitors(text, code), embedding_monitors(text, code, torch.tensor([7, 7, 9]))
    assert alone["retrieval@1"] == pytest.approx(1 / 3)  # the twins tie with each other
    assert grouped["retrieval@1"] == 1
    assert grouped["retrieval_chance"] == pytest.approx(5 / 9)
    assert alone["shuffled_cosine"] > 0.3
    assert grouped["shuffled_cosine"] == pytest.approx(0)
    assert grouped["mean_pairwise_cosine"] == pytest.approx(0)


@pytest.mark.parametrize("vector", [torch.zeros(8), torch.ones(8), torch.full((8,), 1e-20)])
def test_equal_vectors_are_finite_and_show_as_a_full_collapse(vector: torch.Tensor):
    """Zero vectors too: no nan, no gap, no retrieval, no spread, no rank."""
    monitors = embedding_monitors(vector.repeat(50, 1), vector.repeat(50, 1))
    assert all(math.isfinite(value) for value in monitors.values())
    assert monitors["gap"] == pytest.approx(0, abs=1e-6)
    assert monitors["retrieval@1"] == 0
    assert monitors["feature_std"] == pytest.approx(0, abs=1e-6)
    assert monitors["effective_rank"] == 0


def test_feature_std_is_one_for_directions_drawn_evenly():
    """The scale that makes the monitor comparable between widths."""
    for C in (16, 256):
        code = torch.randn(2000, C)
        assert embedding_monitors(code, code)["feature_std"] == pytest.approx(1, abs=0.02)


def test_effective_rank_counts_directions_and_forgets_size():
    """Three equal directions count as three, however small the cloud: this is why the alarm ignores it."""
    cloud = torch.randn(4000, 3) @ torch.linalg.qr(torch.randn(20, 3)).Q.T
    assert effective_rank(cloud) == pytest.approx(3, abs=0.02)
    assert effective_rank(torch.ones(20) + 1e-3 * cloud) == pytest.approx(3, abs=0.02)


def test_what_one_code_alone_cannot_say_is_left_out():
    """A batch of one pair, or of one code only, has no shuffled pair: no number is made up."""
    assert set(embedding_monitors(torch.ones(1, 4), torch.ones(1, 4))) == {"matched_cosine"}
    assert set(embedding_monitors(torch.randn(3, 4), torch.randn(3, 4), torch.zeros(3))) == {"matched_cosine"}


def test_monitors_leave_no_graph_and_take_half_precision():
    """They are called in the middle of training, on whatever the model returned."""
    text = torch.randn(8, 4, requires_grad=True)
    monitors = embedding_monitors(text.bfloat16(), text.bfloat16())
    assert all(type(value) is float for value in monitors.values())
    assert monitors["matched_cosine"] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("text", "code", "groups", "kind", "values"),
    [
        (torch.ones(3, 4), torch.ones(2, 4), None, "wrong_shape", ["text_pred (3, 4)", "code_emb (2, 4)"]),
        (torch.ones(0, 4), torch.ones(0, 4), None, "wrong_shape", ["text_pred (0, 4)", "B > 0"]),
        (torch.ones(3, 4), torch.ones(3, 4), torch.zeros(2), "wrong_shape", ["groups (2,)", "(3,)"]),
        (torch.full((2, 2), math.nan), torch.ones(2, 2), None, "embeddings_not_finite", ["text_pred"]),
        (torch.ones(2, 2), torch.full((2, 2), math.inf), None, "embeddings_not_finite", ["code_emb"]),
    ],
)
def test_wrong_input_is_named(text, code, groups, kind, values, raises):
    """A diverged model is told apart from a collapsed one."""
    with raises(kind, *values):
        embedding_monitors(text, code, groups)


# ---- CollapseAlarm ----


def fed(check, steps=range(0, 200, 20), **kwargs) -> CollapseAlarm:
    alarm = CollapseAlarm(**kwargs)
    for step in steps:
        alarm.update(step, check())
    return alarm


@pytest.mark.parametrize("noise", [0.0, 1e-4, 1e-2, 0.1])
def test_a_collapse_is_caught_at_the_third_check(noise: float):
    """Equal embeddings up to noise, from the first trained check on: the alarm names the first of the three."""
    alarm = CollapseAlarm()
    reasons = [alarm.update(step, collapsed(noise)) for step in (0, 20, 40, 60, 80)]
    assert [reason is not None for reason in reasons] == [False, False, False, True, False]
    assert alarm.first_step == 20
    assert "collapsed from step 20 on. At step 60" in alarm.reason
    assert alarm.summary()["reason"].endswith("At the last check, step 80, they were still collapsed.")


@pytest.mark.parametrize("check", [contrastive, narrow_but_healthy, untrained])
def test_healthy_narrow_and_untrained_models_raise_no_alarm(check):
    """No false alarm in ten checks of any of them."""
    alarm = fed(check)
    assert not alarm.alarmed and alarm.streak == 0


def test_a_high_mean_cosine_alone_is_no_collapse():
    """The narrow model passes thresholds that would call it collapsed, and it retrieves every pair."""
    monitors = narrow_but_healthy()
    assert monitors["mean_pairwise_cosine"] > 0.9
    assert monitors["feature_std"] < 0.3
    assert monitors["retrieval@1"] > 0.95
    assert not looks_collapsed(monitors)


def test_views_that_never_met_are_no_collapse():
    """Plain training has no gap and no retrieval either, but the distance between the views is large."""
    monitors = untrained()
    assert monitors["gap"] < 0.05
    assert monitors["retrieval@1"] < 0.05
    assert not looks_collapsed(monitors)


def test_a_collapse_keeps_its_effective_rank():
    """What rank would have said: nothing."""
    assert looks_collapsed(collapsed())
    assert collapsed()["effective_rank"] > 40


def test_one_healthy_check_starts_the_count_anew():
    """Models pass through narrow places: only checks in a row count."""
    alarm = CollapseAlarm()
    for step, check in enumerate([collapsed, collapsed, contrastive, collapsed, collapsed], start=1):
        alarm.update(step, check())
    assert not alarm.alarmed and alarm.streak == 2
    assert alarm.update(6, collapsed()) is not None
    assert alarm.first_step == 4


def test_the_alarm_stays_and_speaks_once():
    """A run that was trained through a collapse is not made good by its end."""
    alarm = fed(collapsed, range(20, 120, 20))
    assert alarm.update(200, contrastive()) is None
    assert alarm.alarmed and alarm.streak == 0
    reason = f"{alarm.reason} At the last check, step 200, they were no longer collapsed."
    assert alarm.summary() == {"alarmed": True, "first_step": 20, "reason": reason, "recovered": True}


def test_checks_before_the_first_step_do_not_count():
    """At step 0 nothing has been trained: whatever the model looks like, the objective has not done it."""
    alarm = fed(collapsed, [0, 0, 0, 0])
    assert alarm.summary() == {"alarmed": False, "first_step": None, "reason": None, "recovered": False}
    assert alarm.num_looks == 0


def test_checks_that_cannot_decide_are_passed_over():
    """A check on a single pair neither raises the count nor resets it."""
    alarm = fed(collapsed, [1, 2])
    alarm.update(3, embedding_monitors(torch.ones(1, 4), torch.ones(1, 4)))
    assert alarm.streak == alarm.num_looks == 2


def test_gradient_descent_on_the_distance_alone_is_caught():
    """A real collapse: two encoders of unrelated views, trained on cosine distance with gradients through both."""
    texts, codes = torch.randn(128, 16), torch.randn(128, 16)
    encoders = [torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 16)) for _ in "ab"]
    optimizer = torch.optim.Adam([p for encoder in encoders for p in encoder.parameters()], lr=1e-2)
    alarm = CollapseAlarm()
    for step in range(121):
        held_out = torch.randn(200, 16), torch.randn(200, 16)
        if step % 20 == 0:
            alarm.update(step, embedding_monitors(*(net(x) for net, x in zip(encoders, held_out, strict=True))))
        loss = 1 - F.cosine_similarity(encoders[0](texts), encoders[1](codes)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert alarm.alarmed


def test_a_run_with_fewer_looks_than_an_alarm_takes_was_not_watched():
    """That there was no alarm says something from the third look on."""
    assert [fed(contrastive, range(1, looks + 1)).could_alarm for looks in (0, 1, 2, 3, 4)] == [False] * 3 + [True] * 2
