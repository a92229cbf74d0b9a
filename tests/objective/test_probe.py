"""The backbone detached from the JEPA term: what does the model hold without training for it?"""

from __future__ import annotations

import pytest
import torch

from llm_jepa.objective import LLMJEPA, FusedCollator, JEPAConfig
from llm_jepa.training.view_embeddings import view_embeddings


def loss_and_gradients(jepa, batch, **at):
    jepa.zero_grad()
    output = jepa(batch, **at)
    output.loss.backward()
    return output, {name: each.grad for name, each in jepa.named_parameters() if each.grad is not None}


@pytest.mark.parametrize("direction", ["text_to_code", "code_to_text", "both"])
@pytest.mark.parametrize("model", ["llama", "gpt2", "mistral"])
def test_a_probe_equals_separate_forwards_through_constant_weights(
    model, direction, tiny_model, make_mixed_pairs, assert_equals_reference
):
    """Loss and every gradient; [PRED] after and before the view, k from 0, heads, packing, pairs without a term."""
    network, pairs = tiny_model(model), make_mixed_pairs(5, seed=5)
    cases = [
        ("stop_grad", "append", 0, "linear"),
        ("ema", "append", 1, "none"),
        ("stop_grad", "prepend", 3, "mlp"),
        ("ema", "prepend", 2, "none"),
    ]
    for target, place, k, head in cases:
        config = JEPAConfig(
            jepa_lambda=0.7,
            jepa_gamma=1.3,
            jepa_target=target,
            jepa_direction=direction,
            jepa_detach_backbone=True,
            jepa_pred_position=place,
            jepa_k=k,
            jepa_predictor=head,
            jepa_distance="infonce" if k else "cosine",
        )
        jepa = LLMJEPA(network, config, check=False)
        assert_equals_reference(jepa, pairs, packing=k == 1)
        assert jepa.predictor.embedding.grad is None or (jepa.predictor.embedding.grad.abs().sum() > 0) == (k > 0)
        if head != "none":
            assert jepa.predictor.head.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("loss_on", ["all", "code"])
@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("model", ["llama", "gpt2", "gemma2"])
def test_the_model_has_the_gradient_of_lambda_zero_to_the_bit(model, packing, loss_on, tiny_model, make_mixed_pairs):
    """The rows are plain training's, and nothing else reaches the weights."""
    network, pairs = tiny_model(model), make_mixed_pairs(5)
    probe = LLMJEPA(network, JEPAConfig(jepa_detach_backbone=True, jepa_lambda=5.0, jepa_k=2, loss_on=loss_on))
    plain = LLMJEPA(network, JEPAConfig(jepa_lambda=0, loss_on=loss_on))
    batches = [FusedCollator(each.config, pad_token_id=0, packing=packing)(pairs) for each in (probe, plain)]
    output, ours = loss_and_gradients(probe, batches[0])
    ours = {name: each.clone() for name, each in ours.items()}
    expected, theirs = loss_and_gradients(plain, batches[1])
    assert torch.equal(output.ce_loss, expected.ce_loss) and output.jepa_loss > 0
    for name, each in theirs.items():
        assert torch.equal(ours[name], each), name
    assert ours.keys() - theirs.keys() == {"predictor.embedding"}


def test_without_detaching_the_gradient_is_another(tiny_model, make_pairs):
    """Negative control: the term does reach the weights where it may."""
    network, pairs = tiny_model("llama"), make_pairs(5)
    jepa, plain = (LLMJEPA(network, JEPAConfig(jepa_lambda=weight)) for weight in (5.0, 0.0))
    one, other = (
        loss_and_gradients(each, FusedCollator(each.config, pad_token_id=0)(pairs))[1][
            "model.model.layers.0.self_attn.q_proj.weight"
        ].clone()
        for each in (jepa, plain)
    )
    assert (one - other).norm() > 1e-2 * other.norm()


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_dropout_and_checkpointing_stay_those_of_plain_training(tiny_model, make_pairs):
    """The probe's own forward draws no random number, computes no activation twice, and leaves modes as they were."""
    network = tiny_model("gpt2", resid_pdrop=0.3, embd_pdrop=0.3, attn_pdrop=0.3)
    network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    network.transformer.h[0].mlp.eval()
    pairs, seen = make_pairs(4), []
    for settings in ({"jepa_detach_backbone": True, "jepa_predictor": "mlp"}, {"jepa_lambda": 0.0}):
        jepa = LLMJEPA(network, JEPAConfig(**settings), check=False)
        torch.manual_seed(3)
        _, gradients = loss_and_gradients(jepa, FusedCollator(jepa.config, pad_token_id=0)(pairs))
        seen.append(
            (
                {name: each.clone() for name, each in gradients.items() if name.startswith("model.")},
                torch.get_rng_state(),
            )
        )
        assert network.training and not network.transformer.h[0].mlp.training
        assert all(each.requires_grad for each in network.parameters())
    assert torch.equal(seen[0][1], seen[1][1])
    for name, each in seen[1][0].items():
        assert torch.equal(seen[0][0][name], each), name


def test_a_run_of_a_probe_trains_the_model_of_plain_training_to_the_bit(make_jepa, make_pairs, make_trainer):
    """Clipping included: a large gradient of the probe does not shorten the model's step."""
    models = []
    for number, settings in enumerate(
        ({"jepa_detach_backbone": True, "jepa_lambda": 50.0, "jepa_predictor": "linear"}, {"jepa_lambda": 0.0})
    ):
        jepa = make_jepa(**settings)
        start = jepa.predictor.embedding.clone()
        make_trainer(jepa, make_pairs(16), out=str(number), max_steps=5, max_grad_norm=0.1).train()
        models.append(jepa.model.state_dict())
        assert torch.equal(start, jepa.predictor.embedding) == (number == 1)
    assert all(torch.equal(each, models[1][name]) for name, each in models[0].items())


def test_a_batch_without_a_pair_gives_pred_a_gradient_of_zero(make_jepa, make_pairs):
    """Processes that average gradients wait for every parameter's."""
    jepa = make_jepa(jepa_detach_backbone=True, jepa_predictor="mlp")
    pairs = make_pairs(3)
    full = FusedCollator(jepa.config, pad_token_id=0)(pairs)
    for pair in pairs:
        pair.use_jepa = False
    for batch in (FusedCollator(jepa.config, pad_token_id=0)(pairs), full.emptied()):
        output, gradients = loss_and_gradients(jepa, batch)
        assert output.jepa_loss == 0
        for name, each in jepa.predictor.named_parameters():
            assert not gradients[f"predictor.{name}"].any() and each.requires_grad


def test_monitors_see_what_the_probe_learned(make_jepa, make_pairs):
    jepa, pairs = make_jepa(jepa_detach_backbone=True, jepa_k=2), make_pairs(4)
    output = jepa(FusedCollator(jepa.config, pad_token_id=0)(pairs))
    views = view_embeddings(jepa, pairs, pad_token_id=0, batch_size=3)
    torch.testing.assert_close(views.text_pred, output.text_pred.detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(views.code_emb, output.code_emb, atol=1e-5, rtol=1e-5)
    baseline = make_jepa(jepa_detach_backbone=True, jepa_lambda=0.0)
    assert view_embeddings(baseline, pairs, pad_token_id=0).text_pred.shape == (4, 32)


@pytest.mark.parametrize(
    ("settings", "values"),
    [({"jepa_target": "shared"}, ["jepa_target=shared"]), ({"jepa_k": 0}, ["jepa_k=0", "jepa_predictor=none"])],
)
def test_a_probe_that_makes_no_sense_is_refused(settings, values, raises):
    with raises("settings_conflict", "jepa_detach_backbone=true", *values):
        JEPAConfig(jepa_detach_backbone=True, **settings)
