"""Semantic Tube Prediction, as in its paper and as in its code."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch

from llm_jepa.objective import LLMJEPA, FusedCollator, JEPAConfig, Pair
from llm_jepa.objective.tube import Tubes, draw_places, key_of, tube_distances
from llm_jepa.runs.settings import read_run
from llm_jepa.training.view_embeddings import view_embeddings

FORMS = ["stp", "stp_released"]


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("model", ["llama", "gpt2", "mistral"])
def test_the_term_in_one_pass_equals_a_forward_for_each_row(
    model, form, packing, tiny_model, make_mixed_pairs, assert_equals_reference
):
    """Loss and every gradient over several steps; rows without a term and rows too short for one are among them."""
    pairs = [*make_mixed_pairs(6, seed=3), Pair([5], [6, 1])]
    for step, loss_on in enumerate(("all", "code")):
        jepa = LLMJEPA(tiny_model(model), JEPAConfig(jepa_term=form, jepa_lambda=0.7, jepa_gamma=1.3, loss_on=loss_on))
        fused, _ = assert_equals_reference(jepa, pairs, step=step, packing=packing)
        assert fused.text_pred is None and fused.lambda_eff == 0.7


def test_both_forms_by_hand():
    """A straight path costs nothing; a right angle 1; the paper's and the code's forms on the same four points."""
    path = torch.tensor([[9.0, 9.0], [0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [3.0, 1.0]])  # the first is another pair's
    tubes = Tubes(starts=[1], lengths=[4], keys=[0])
    seen = {form: set() for form in FORMS}
    for step in range(60):
        for form in FORMS:
            seen[form].add(round(tube_distances(form, path, tubes, seed=0, step=step).item(), 5))
    steps = {(0, 1, 2): 1.0, (0, 1, 3): 1 - 2 / 5**0.5, (0, 2, 3): 1 - 1 / 2**0.5, (1, 2, 3): 1.0}
    assert seen["stp"] == {round(value, 5) for value in steps.values()}

    def released(a, b):
        points = path[1:]
        return 1 - torch.cosine_similarity(points[b] - points[a], points[a] - points[0] + points[3] - points[b], dim=0)

    spans = [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3)]
    assert seen["stp_released"] == {round(released(*span).item(), 5) for span in spans}


@pytest.mark.parametrize("length", [3, 4, 7])
def test_places_are_drawn_from_all_that_there_are(length):
    """All triples alike; all spans but the whole row, the first place uniform."""
    triples = Counter(draw_places("stp", length, 5, 0, step) for step in range(2000))
    wanted = list(itertools.combinations(range(length), 3))
    assert triples.keys() == set(wanted)
    assert max(triples.values()) < 2 * min(triples.values()) + 30
    spans = Counter(draw_places("stp_released", length, 5, 0, step) for step in range(2000))
    assert spans.keys() == set(itertools.combinations(range(length), 2)) - {(0, length - 1)}


def test_places_are_a_function_of_seed_step_and_tokens():
    """The same when asked again, another draw for another seed, step or pair; no random stream is touched."""
    state = torch.get_rng_state()

    def draws(key, seed):
        return [draw_places("stp", 30, key, seed, step) for step in range(20)]

    one = draws(key_of([5, 6, 7]), 1)
    assert one == draws(key_of([5, 6, 7]), 1)
    assert one != draws(key_of([5, 7, 6]), 1) and one != draws(key_of([5, 6, 7]), 2) and len(set(one)) > 15
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("form", FORMS)
def test_order_padding_packing_and_the_split_of_a_step_change_nothing(form, make_jepa, make_pairs, gradients):
    jepa, pairs = make_jepa("llama", jepa_term=form), [*make_pairs(6, seed=2), Pair([5], [6, 1])]
    collate = FusedCollator(jepa.config, pad_token_id=0)
    whole = collate(pairs)
    assert whole.rows.is_plain and whole.views == [] and whole.num_pairs == len(whole.tubes.starts) < len(pairs)
    counts = {"num_labels": whole.num_labels, "num_pairs": whole.num_pairs}
    expected = gradients(jepa, jepa(whole, step=3).loss)
    packed = FusedCollator(jepa.config, pad_token_id=0, packing=True)
    for parts in ([collate(pairs[::-1])], [packed(pairs)], [collate(pairs[:2]), collate(pairs[2:])]):
        for name, each in gradients(jepa, sum(jepa(part, step=3, **counts).loss for part in parts)).items():
            assert (each - expected[name]).norm() <= 1e-5 * expected[name].norm().clamp(min=1e-3), name


def test_places_of_another_step_are_seen(make_jepa, make_pairs):
    """Negative control: the term is not the same whatever is drawn."""
    jepa = make_jepa(jepa_term="stp")
    batch = FusedCollator(jepa.config, pad_token_id=0)(make_pairs(4))
    assert abs(jepa(batch, step=0).jepa_loss - jepa(batch, step=1).jepa_loss) > 1e-3


def test_a_batch_without_a_row_long_enough_has_a_term_of_zero(make_jepa, gradients):
    jepa = make_jepa(jepa_term="stp")
    out = jepa(FusedCollator(jepa.config, pad_token_id=0)([Pair([5], [6, 1])]), step=0)
    assert out.jepa_loss == 0 and out.loss == out.ce_loss
    assert all(each.isfinite().all() for each in gradients(jepa, out.loss).values())


def test_a_run_trains_logs_and_looks_at_the_views_without_training_them(make_jepa, make_pairs, make_trainer):
    """Monitors see Enc(Text) and Enc(Code), as in the baseline; no alarm is fed; dropped steps are plain ones."""
    torch.manual_seed(0)
    jepa = make_jepa(jepa_term="stp_released", jepa_lambda=0.05, jepa_loss_dropout=0.5)
    trainer = make_trainer(jepa, make_pairs(12), make_pairs(5, seed=8), max_steps=6)
    trainer.train()
    steps = [line for line in trainer.state.log_history if "ce_loss" in line]
    assert {line["lambda_eff"] for line in steps} == {0.0, 0.05}
    assert all((line["jepa_loss"] == line["jepa_loss"]) == (line["lambda_eff"] > 0) for line in steps)
    looks = [line for line in trainer.state.log_history if "monitor/gap" in line]
    assert looks and "eval_jepa_loss" not in looks[0] and not jepa.predictor.embedding.requires_grad
    plain = LLMJEPA(jepa.model, JEPAConfig(jepa_lambda=0))
    held_out = make_pairs(5, seed=8)
    ours, theirs = (view_embeddings(each, held_out, pad_token_id=0) for each in (jepa, plain))
    assert torch.equal(ours.text_pred, theirs.text_pred) and torch.equal(ours.code_emb, theirs.code_emb)


def test_a_step_is_asked_for_in_training_alone(make_jepa, make_pairs, raises):
    jepa = make_jepa(jepa_term="stp")
    batch = FusedCollator(jepa.config, pad_token_id=0)(make_pairs(4))
    with raises("step_missing", "jepa_term=stp", "step="):
        jepa(batch)
    assert jepa.eval()(batch).loss.isfinite()
    with raises("batch_not_for_config", "jepa_term=stp"):
        jepa(FusedCollator(JEPAConfig(), pad_token_id=0)(make_pairs(4)))


@pytest.mark.parametrize(
    "setting",
    [
        {"jepa_k": 0},
        {"jepa_direction": "both"},
        {"jepa_target": "shared"},
        {"jepa_distance": "mse"},
        {"jepa_variance_weight": 1.0},
        {"jepa_predictor": "mlp"},
        {"jepa_views": "rendered"},
    ],
)
def test_settings_of_views_are_refused_where_no_view_is_encoded(setting, raises):
    """Only where they were set: the defaults stand."""
    with raises("setting_without_effect", "jepa_term=stp", *setting):
        JEPAConfig(jepa_term="stp", **setting)
    JEPAConfig(jepa_term="stp", jepa_k=1, jepa_lambda=0.02)


def test_the_shuffled_control_of_no_views_is_refused(raises):
    with raises("setting_without_effect", "shuffle_views=true", "jepa_term=stp"):
        read_run({"train_file": "a.jsonl", "test_file": "b.jsonl", "jepa_term": "stp", "shuffle_views": True})
