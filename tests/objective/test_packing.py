"""Several pairs to a row: the same loss and gradients as a row for each, and what goes wrong without the rule."""

from __future__ import annotations

import itertools
from contextlib import nullcontext

import pytest
import torch

from llm_jepa.objective import LLMJEPA, FusedCollator, JEPAConfig, Pair, backbone
from llm_jepa.objective.config import CHOICES
from llm_jepa.objective.documents import IGNORED
from llm_jepa.objective.masks import boolean_mask

MODELS = ["llama", "gpt2", "qwen3", "mistral", "gemma2"]
LENGTH = 60  # room for two or three of the pairs here, views included


def collate(config, pairs, packing, pack_length=LENGTH):
    return FusedCollator(config, pad_token_id=0, packing=packing, pack_length=pack_length)(pairs)


def loss_and_gradients(jepa, batch, context=nullcontext, **counts):
    jepa.zero_grad()
    with context():
        output = jepa(batch, **counts)
    output.loss.backward()
    return output, {name: each.grad.clone() for name, each in jepa.named_parameters() if each.grad is not None}


def gradient_error(one, other):
    """Length of the difference of all gradients over the length of all gradients."""
    return (sum((one[name] - other[name]).square().sum() for name in other).sqrt() / norm(other)).item()


def norm(gradients):
    return sum(each.square().sum() for each in gradients.values()).sqrt()


def assert_packed_equals_unpacked(jepa, pairs, pack_length=LENGTH):
    apart, together = (collate(jepa.config, pairs, packing, pack_length) for packing in (False, True))
    assert len(together.rows.input_ids) < len(apart.rows.input_ids)
    assert (together.num_labels, together.num_pairs) == (apart.num_labels, apart.num_pairs)
    expected, slow = loss_and_gradients(jepa, apart)
    output, fast = loss_and_gradients(jepa, together)
    assert output.loss.item() == pytest.approx(expected.loss.item(), abs=1e-5, rel=1e-5)
    assert output.ce_loss.item() == pytest.approx(expected.ce_loss.item(), abs=1e-5, rel=1e-5)
    assert fast.keys() == slow.keys()
    for name in slow:
        assert (fast[name] - slow[name]).norm() <= 1e-4 * slow[name].norm().clamp(min=1e-6), name
    if expected.text_pred is not None:
        torch.testing.assert_close(output.text_pred, expected.text_pred, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(output.code_emb, expected.code_emb, atol=1e-5, rtol=1e-4)


ATTENTION = [*itertools.product(MODELS[:4], ["sdpa", "eager"]), ("gemma2", "eager")]  # soft caps: eager alone


@pytest.mark.parametrize(("model", "attention"), ATTENTION)
def test_packed_rows_equal_a_row_for_each_pair(model, attention, tiny_model, make_mixed_pairs):
    """Loss, embeddings in the order of the pairs, and gradients, for every target and direction, all kinds of views."""
    network, pairs = tiny_model(model, attention=attention), make_mixed_pairs(8, seed=2)
    for number, (target, direction) in enumerate(itertools.product(CHOICES["jepa_target"], CHOICES["jepa_direction"])):
        config = JEPAConfig(
            jepa_target=target,
            jepa_direction=direction,
            jepa_distance=CHOICES["jepa_distance"][number % 5],
            jepa_k=number % 5,
            loss_on=CHOICES["loss_on"][number % 2],
        )
        assert_packed_equals_unpacked(LLMJEPA(network, config, check=False), pairs)


@pytest.mark.parametrize("loss_on", CHOICES["loss_on"])
@pytest.mark.parametrize("model", MODELS)
def test_packed_plain_training_equals_unpacked(model, loss_on, tiny_model, make_pairs):
    """N2: with jepa_lambda 0 as well, to rounding. (The bits of plain training are promised without packing.)"""
    assert_packed_equals_unpacked(LLMJEPA(tiny_model(model), JEPAConfig(jepa_lambda=0, loss_on=loss_on)), make_pairs(8))


@pytest.mark.parametrize("jepa_lambda", [0.0, 1.0])
def test_without_the_document_rule_gradients_are_far_off(jepa_lambda, tiny_model, make_pairs, monkeypatch):
    """Negative control (N2): pairs that see their neighbours in the row give other gradients by more than a tenth."""
    jepa, pairs = LLMJEPA(tiny_model("llama"), JEPAConfig(jepa_lambda=jepa_lambda)), make_pairs(8)
    _, right = loss_and_gradients(jepa, collate(jepa.config, pairs, packing=False))
    _, packed = loss_and_gradients(jepa, collate(jepa.config, pairs, packing=True))
    assert gradient_error(packed, right) < 1e-5

    def one_document(rows, window=None):
        rows.documents = rows.real.long()
        return boolean_mask(rows, window)

    monkeypatch.setattr(backbone, "boolean_mask", one_document)
    _, mixed = loss_and_gradients(jepa, collate(jepa.config, pairs, packing=True))
    assert gradient_error(mixed, right) > 0.1


def test_positions_that_run_on_are_seen(tiny_model, make_pairs):
    """Negative control: with learned positions, pairs that do not begin at 0 are other pairs."""
    jepa, pairs = LLMJEPA(tiny_model("gpt2"), JEPAConfig(jepa_lambda=0)), make_pairs(8)
    _, right = loss_and_gradients(jepa, collate(jepa.config, pairs, packing=False))
    batch = collate(jepa.config, pairs, packing=True)
    batch.rows.position_ids = torch.arange(batch.rows.input_ids.shape[1]).expand_as(batch.rows.input_ids)
    assert gradient_error(loss_and_gradients(jepa, batch)[1], right) > 0.1


def test_two_pairs_share_a_row_by_hand():
    """Documents count on, positions begin anew, and the first token of each pair has no label."""
    pairs = [Pair([5], [8, 1]), Pair([6, 7], [9, 9, 1], [2])]
    batch = collate(JEPAConfig(), pairs, packing=True, pack_length=12)
    assert batch.rows.input_ids.tolist() == [[5, 8, 1, 0, 6, 7, 2, 9, 9, 1, 0]]
    assert batch.rows.position_ids.tolist() == [[0, 1, 2, 1, 0, 1, 2, 3, 4, 5, 2]]
    assert batch.rows.documents.tolist() == [[1] * 4 + [2] * 7]
    assert batch.labels.tolist() == [[IGNORED, 8, 1, IGNORED, IGNORED, 7, 2, 9, 9, 1, IGNORED]]
    assert batch.text_to_code.pred_at.tolist() == [3, 10]
    assert batch.num_labels == 7 and len(batch.rows.input_ids) == 1
    assert len(collate(JEPAConfig(), pairs, packing=True, pack_length=10).rows.input_ids) == 2


def test_rows_are_as_long_as_the_longest_pair_unless_told_otherwise(make_pairs):
    """Without pack_length no row is longer than the longest pair; a pair longer than it makes room for itself."""
    pairs = make_pairs(20)
    longest = collate(JEPAConfig(), pairs, packing=False).rows.input_ids.shape[1]
    for pack_length in (None, 3):
        assert collate(JEPAConfig(), pairs, packing=True, pack_length=pack_length).rows.input_ids.shape[1] == longest


def test_the_same_pairs_give_the_same_rows(make_mixed_pairs):
    """Packing draws no random number: two collators lay the same batch out alike."""
    state = torch.get_rng_state()
    one, two = (collate(JEPAConfig(jepa_target="shared"), make_mixed_pairs(9), packing=True) for _ in range(2))
    assert torch.equal(one.rows.input_ids, two.rows.input_ids) and torch.equal(one.rows.documents, two.rows.documents)
    assert torch.equal(state, torch.get_rng_state())


def test_pairs_of_a_row_do_not_see_each_other(tiny_model, make_pairs):
    """N12: another neighbour in the row leaves embeddings as they were, and its tokens get no gradient from them."""
    jepa = LLMJEPA(tiny_model("llama"), JEPAConfig(jepa_target="shared"))
    pair, one, other = Pair([5, 6, 7], [8, 9, 1], [2]), Pair([20], [21, 22, 1]), Pair([30], [31, 32, 1])
    first, second = (jepa(collate(jepa.config, [pair, neighbour], packing=True)) for neighbour in (one, other))
    assert torch.equal(first.text_pred[0], second.text_pred[0])
    assert torch.equal(first.code_emb[0], second.code_emb[0])
    jepa.zero_grad()
    first.text_pred[0].sum().backward()
    assert not jepa.backbone.embeddings.weight.grad[[20, 21, 22]].any()


def test_a_dropped_step_of_packed_rows_is_a_plain_packed_step(tiny_model, make_mixed_pairs):
    """The views leave the rows, the pairs stay apart, and the loss is that of plain training to rounding."""
    torch.manual_seed(0)
    jepa = LLMJEPA(tiny_model("mistral"), JEPAConfig(jepa_loss_dropout=0.5, jepa_target="shared"))
    pairs = make_mixed_pairs(6)
    dropped = next(step for step in range(50) if jepa.drops_term(step))
    bare = LLMJEPA(jepa.model, JEPAConfig(jepa_lambda=0))
    output, gradients = loss_and_gradients(jepa, collate(jepa.config, pairs, packing=True), step=dropped)
    expected, theirs = loss_and_gradients(bare, collate(bare.config, pairs, packing=False))
    assert output.loss.item() == pytest.approx(expected.loss.item(), abs=1e-5) and output.lambda_eff == 0
    assert gradient_error({name: gradients[name] for name in theirs}, theirs) < 1e-5


@pytest.mark.parametrize("target", CHOICES["jepa_target"])
@pytest.mark.parametrize("split", [[8], [4, 4], [1, 5, 2]])
def test_packed_micro_batches_add_up_to_the_whole_step(target, split, tiny_model, make_mixed_pairs):
    """N4: however a step is cut, and whatever shares a row in each part, both terms are means over the whole step."""
    jepa = LLMJEPA(tiny_model("llama"), JEPAConfig(jepa_target=target))
    pairs = make_mixed_pairs(8)
    whole = collate(jepa.config, pairs, packing=False)
    expected, slow = loss_and_gradients(jepa, whole)
    rest, total = iter(pairs), 0.0
    for size in split:
        batch = collate(jepa.config, list(itertools.islice(rest, size)), packing=True)
        total = total + jepa(batch, num_labels=whole.num_labels, num_pairs=whole.num_pairs).loss
    assert total.item() == pytest.approx(expected.loss.item(), abs=1e-5)
    jepa.zero_grad()
    total.backward()
    parts = {name: each.grad for name, each in jepa.named_parameters() if each.grad is not None}
    assert gradient_error(parts, slow) < 5e-6


@pytest.mark.parametrize("target", CHOICES["jepa_target"])
def test_gradient_checkpointing_changes_nothing(target, tiny_model, make_mixed_pairs):
    """Activations computed twice give the same step, packed and with rendered views."""
    model, pairs = tiny_model("llama"), make_mixed_pairs(6)
    jepa = LLMJEPA(model, JEPAConfig(jepa_target=target))
    batch = collate(jepa.config, pairs, packing=True)
    kept, slow = loss_and_gradients(jepa, batch)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    twice, fast = loss_and_gradients(jepa, batch)
    assert twice.loss.item() == pytest.approx(kept.loss.item(), abs=1e-6)
    assert gradient_error(fast, slow) < 1e-6


@pytest.mark.parametrize("target", CHOICES["jepa_target"])
@pytest.mark.parametrize("packing", [False, True])
def test_bf16_autocast_agrees_with_float32_as_far_as_it_can(packing, target, tiny_model, make_mixed_pairs):
    """Mixed precision stays within the rounding of bfloat16 (2e-2 of the loss, 1e-1 of the gradients' length)."""
    jepa = LLMJEPA(tiny_model("llama"), JEPAConfig(jepa_target=target))
    batch = collate(jepa.config, make_mixed_pairs(6), packing)
    exact, slow = loss_and_gradients(jepa, batch)
    rough, fast = loss_and_gradients(jepa, batch, context=lambda: torch.autocast("cpu", dtype=torch.bfloat16))
    assert rough.loss.dtype == torch.float32
    assert rough.loss.item() == pytest.approx(exact.loss.item(), rel=2e-2)
    assert gradient_error(fast, slow) < 1e-1
