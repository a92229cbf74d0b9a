"""LoRA: few matrices move, [PRED] among what is trained, and what is saved is PEFT's own."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys

import pytest
import torch
from peft import IA3Config, LoHaConfig, LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load as load_file_of
from safetensors.torch import save_file
from torch.nn.utils import clip_grad_norm_
from transformers import AutoModelForCausalLM, GenerationConfig

from llm_jepa.evaluation.generation import generate_greedy
from llm_jepa.objective import LLMJEPA, FusedCollator, JEPAConfig, reference_loss
from llm_jepa.objective.documents import IGNORED
from llm_jepa.training.adapters import (
    ADAPTER,
    ADAPTER_CONFIG,
    AdapterConfig,
    adapter_weights,
    add_lora,
    describe_adapter,
    merged,
)
from llm_jepa.training.checkpoints import find_newest
from llm_jepa.training.saving import PREDICTOR, TARGET, WEIGHTS, load_jepa, restore_weights, save_jepa

IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])
FAMILIES = ("llama", "gpt2", "gemma2", "phi")

ELSEWHERE = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, GenerationConfig
base, folder, seen = sys.argv[1:]
ids = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])
one = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).eval()
two = AutoModelForCausalLM.from_pretrained(folder).eval()
assert not [name for name in sys.modules if name.startswith("llm_jepa")]
torch.save({"peft": one(ids).logits, "transformers": two(ids).logits}, seen)
"""


@pytest.fixture
def base(tiny_model, tmp_path):
    """Save a pretrained model of a family, once; return its folder."""

    def save(family="llama", **changes):
        folder = tmp_path / f"base-{family}"
        if not folder.exists():
            tiny_model(family, **changes).save_pretrained(folder)
        return folder

    return save


@pytest.fixture
def make_adapted(base):
    """Build a pretrained model with LoRA under an objective; keywords of JEPAConfig and, as `lora`, AdapterConfig."""

    def make(family="llama", lora=None, check=True, changes=None, **objective):
        folder = base(family, **(changes or {}))
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()
        torch.manual_seed(3)
        adapted = add_lora(model, AdapterConfig(**{"lora_r": 4, **(lora or {})}), base=str(folder))
        return LLMJEPA(adapted, JEPAConfig(**objective), check=check)

    return make


def shake(jepa, size=0.3):
    """Move every trained weight: a fresh adapter changes nothing, its second matrices are zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for each in jepa.parameters():
            if each.requires_grad:
                each.add_(torch.randn(each.shape, generator=generator), alpha=size)


def trained(jepa):
    return {name: each.detach().clone() for name, each in jepa.named_parameters() if each.requires_grad}


def frozen(jepa):
    return {name: each.detach().clone() for name, each in jepa.named_parameters() if not each.requires_grad}


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@torch.no_grad()
def logits(model):
    return model.eval()(IDS).logits


# ---- the objective through an adapter ----


@pytest.mark.parametrize("target", ["stop_grad", "shared", "ema"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_fused_pass_through_an_adapter_equals_separate_forwards(family, target, make_adapted, make_pairs):
    """Loss within 1e-5, each gradient within 1e-4 relative; the frozen weights have none."""
    jepa, pairs = make_adapted(family, jepa_target=target, jepa_k=2, jepa_direction="both"), make_pairs(3, seed=5)
    shake(jepa, 0.05)
    outputs = [jepa(FusedCollator(jepa.config, pad_token_id=0)(pairs)), reference_loss(jepa, pairs)]
    assert outputs[0].loss.item() == pytest.approx(outputs[1].loss.item(), abs=1e-5)
    gradients = []
    for output in outputs:
        jepa.zero_grad()
        output.loss.backward()
        gradients.append({name: each.grad.clone() for name, each in jepa.named_parameters() if each.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() == trained(jepa).keys()
    for name, expected in gradients[1].items():
        assert (gradients[0][name] - expected).norm() <= 1e-4 * expected.norm().clamp(min=1e-6), name


def test_pred_tokens_have_gradients_and_move_while_the_model_stays(make_adapted, make_trainer, make_pairs):
    """Promise 7: in the published code they are rows of a frozen table, and stay at their random start."""
    jepa = make_adapted(jepa_k=2, jepa_pred_tokens="distinct")
    before, still = trained(jepa), frozen(jepa)
    assert {name for name in before if "lora_" not in name} == {"predictor.embedding"}
    make_trainer(jepa, make_pairs(12), max_steps=3).train()
    assert (jepa.predictor.embedding.grad is None) or jepa.predictor.embedding.grad.abs().sum() > 0
    assert all(not torch.equal(each, before[name]) for name, each in trained(jepa).items())
    assert_same(frozen(jepa), still)


def test_a_predictor_head_is_trained_beside_the_adapter(make_adapted, make_trainer, make_pairs):
    jepa = make_adapted(jepa_predictor="mlp")
    before = {name: each.clone() for name, each in jepa.predictor.head.named_parameters()}
    make_trainer(jepa, make_pairs(12), max_steps=3).train()
    assert all(not torch.equal(each, before[name]) for name, each in jepa.predictor.head.named_parameters())


def test_a_probe_leaves_the_adapter_the_gradient_of_lambda_zero(make_adapted, make_pairs):
    """[PRED] is trained through the model, adapter included, and the adapter on cross-entropy alone, to the bit."""
    pairs, found = make_pairs(5), []
    for settings in ({"jepa_detach_backbone": True}, {"jepa_lambda": 0.0}):
        jepa = make_adapted(**settings)
        for name, each in jepa.named_parameters():  # the second matrix of an adapter starts at zero
            each.data += 0.1 * ("lora_" in name)
        jepa(FusedCollator(jepa.config, pad_token_id=0)(pairs)).loss.backward()
        found.append({name: each.grad for name, each in jepa.named_parameters() if "lora_" in name})
        assert settings.keys() == {"jepa_lambda"} or jepa.predictor.embedding.grad.any()
    assert found[0].keys() == found[1].keys() != set()
    assert_same(found[0], found[1])


def test_each_pred_token_has_a_gradient(make_adapted, make_pairs):
    jepa = make_adapted(jepa_k=2, jepa_pred_tokens="distinct")
    jepa(FusedCollator(jepa.config, pad_token_id=0)(make_pairs(3))).loss.backward()
    assert (jepa.predictor.embedding.grad.abs().sum(1) > 0).all()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_lambda_zero_equals_a_bare_loop_of_peft_bit_for_bit(family, make_adapted, make_trainer, make_pairs, base):
    """Promise 3 under LoRA, with its dropout on: the same rows through PEFT and the model's own loss."""
    steps, rate = 8, 1e-2
    lora = {"lora_dropout": 0.1}
    trainer = make_trainer(
        make_adapted(family, lora=lora, jepa_lambda=0.0),
        make_pairs(24),
        max_steps=steps,
        lr_scheduler_type="constant",
        warmup_steps=0,
        learning_rate=rate,
    )
    batches = []
    trainer.jepa.register_forward_pre_hook(lambda _, inputs: batches.append((inputs[0], torch.get_rng_state())))
    trainer.train()

    model = AutoModelForCausalLM.from_pretrained(base(family), dtype=torch.float32).train()
    torch.manual_seed(3)
    settings = LoraConfig(r=4, lora_alpha=32, lora_dropout=0.1, target_modules="all-linear", task_type="CAUSAL_LM")
    bare = get_peft_model(model, settings)
    torch.manual_seed(5)
    optimizer = torch.optim.AdamW(
        [p for p in bare.parameters() if p.requires_grad], lr=rate, weight_decay=0.0, fused=True
    )
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert len(batches) == len(losses) == steps
    for (batch, random_state), loss in zip(batches, losses, strict=True):
        torch.set_rng_state(random_state)  # the loader draws from the same stream, once an epoch
        rows = batch.rows
        labels = rows.input_ids.masked_fill(~rows.real, IGNORED)
        expected = bare(input_ids=rows.input_ids, attention_mask=rows.real.long(), labels=labels).loss
        assert expected.item() == loss
        expected.backward()
        clip_grad_norm_(bare.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    assert_same(trained(trainer.jepa.model), trained(bare))
    assert len(set(losses)) == steps  # it did train


def test_gradient_checkpointing_changes_no_gradient(make_adapted, make_trainer, make_pairs):
    """The layers are run twice, frozen inputs or not, and the adapter and [PRED] end the same."""
    final = []
    for switched_on in (False, True):
        trainer = make_trainer(
            make_adapted(jepa_target="shared"), make_pairs(8), max_steps=2, gradient_checkpointing=switched_on
        )
        trainer.train()
        final.append(trained(trainer.jepa))
    for name, expected in final[0].items():
        assert torch.allclose(final[1][name], expected, atol=1e-6), name


def test_a_slow_copy_holds_nothing_twice_that_is_frozen(make_adapted, make_pairs):
    """It follows the adapter alone; the weights it shares are the model's own memory."""
    jepa = make_adapted(jepa_target="ema", jepa_ema_decay=0.5)
    own = jepa.target.own_state()
    assert own and all("lora_" in name for name in own)
    start = {name: each.clone() for name, each in own.items()}
    shake(jepa)
    jepa.update_target()
    fast = dict(jepa.backbone.layers.named_parameters())
    for name, each in jepa.target.own_state().items():
        expected = 0.5 * (start[name] + fast[name.removeprefix("layers.")])
        assert torch.allclose(each, expected, atol=1e-6)


def test_answers_through_an_adapter_are_those_of_the_merged_model_and_of_no_setting_of_its_own(make_adapted):
    """Padded prompts in one batch; a repetition penalty that the model brought along stays out, and comes back."""
    jepa = make_adapted(changes={"initializer_range": 0.3})
    shake(jepa, 0.1)
    prompts = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14]]
    settings = {"end_ids": [1], "pad_id": 0, "max_new_tokens": 8}
    own = GenerationConfig(repetition_penalty=5.0, do_sample=True, temperature=9.0)
    jepa.model.get_base_model().generation_config = own
    answers = generate_greedy(jepa.model, prompts, **settings)
    assert jepa.model.get_base_model().generation_config is own
    plain = merged(jepa.model)
    plain.generation_config = GenerationConfig()
    assert answers == generate_greedy(plain, prompts, **settings)
    assert len({tuple(answer) for answer in answers}) == len(prompts)


# ---- on disk ----


@pytest.mark.parametrize("family", FAMILIES)
def test_pred_tokens_and_adapter_survive_save_load_and_merge(family, make_adapted, make_pairs, tmp_path):
    """Promise 7: the same bits after loading, the same loss after merging, and the vocabulary is as it was."""
    jepa = make_adapted(family, jepa_k=2, jepa_pred_tokens="distinct", jepa_distance="mse", jepa_predictor="mlp")
    shake(jepa)
    save_jepa(jepa, tmp_path / "model")
    loaded = load_jepa(tmp_path / "model")
    assert loaded.config == jepa.config
    assert_same(trained(loaded), trained(jepa))
    assert_same(frozen(loaded), frozen(jepa))
    batch = FusedCollator(jepa.config, pad_token_id=0)(make_pairs(3))
    with torch.no_grad():
        expected = jepa.eval()(batch).loss
        assert torch.equal(loaded.eval()(batch).loss, expected)
        before = logits(loaded.model)
        plain = LLMJEPA(merged(loaded.model), jepa.config)
        plain.predictor.load_state_dict(loaded.predictor.state_dict())
        assert plain.eval()(batch).loss.item() == pytest.approx(expected.item(), rel=1e-4)
        assert torch.allclose(logits(plain.model), before, atol=1e-4)
    assert plain.model.config.vocab_size == plain.model.get_input_embeddings().num_embeddings == 64
    assert not any("lora" in name for name in plain.model.state_dict())


def test_an_adapter_folder_is_small_and_of_safetensors_and_json(make_adapted, tmp_path):
    """No copy of the base model, no file that could run code, no empty model card; layers in one order."""
    jepa = make_adapted()
    save_jepa(jepa, tmp_path / "model")
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert names == {ADAPTER, ADAPTER_CONFIG, PREDICTOR, "jepa_config.json"}
    written = json.loads((tmp_path / "model" / ADAPTER_CONFIG).read_text())
    assert written["base_model_name_or_path"] == str(tmp_path / "base-llama")
    assert written["target_modules"] == sorted(written["target_modules"])
    assert written["inference_mode"] is True and not jepa.model.peft_config["default"].inference_mode


def test_an_adapter_of_a_model_in_several_files_is_the_adapter_of_one_in_one(make_adapted, base, tiny_model, tmp_path):
    """The base is read from its shards, in training, in loading and in merging."""
    one = make_adapted()
    for each in base().iterdir():
        each.unlink()
    tiny_model("llama").save_pretrained(base(), max_shard_size="20KB")
    assert not (base() / WEIGHTS).exists()
    several = make_adapted()
    shake(one)
    shake(several)
    save_jepa(several, tmp_path / "model")
    assert torch.equal(logits(several.model), logits(one.model))
    loaded = load_jepa(tmp_path / "model")
    assert torch.equal(logits(loaded.model), logits(one.model))
    assert torch.allclose(logits(merged(loaded.model)), logits(one.model), atol=1e-4)


def test_a_size_of_files_is_refused_where_an_adapter_is_one_file(make_adapted, make_trainer, make_pairs, raises):
    with raises("setting_without_effect", "max_shard_size=1MB", "LoRA"):
        make_trainer(make_adapted(), make_pairs(8), max_shard_size="1MB")


@pytest.mark.slow
def test_an_adapter_loads_where_this_package_is_not_imported(make_adapted, base, tmp_path):
    """By PEFT, and by transformers alone; the same logits to the bit."""
    jepa = make_adapted()
    shake(jepa)
    save_jepa(jepa, tmp_path / "model")
    seen = tmp_path / "seen.pt"
    command = [sys.executable, "-c", ELSEWHERE, str(base()), str(tmp_path / "model"), str(seen)]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    found = torch.load(seen, weights_only=True)
    assert torch.equal(found["peft"], logits(jepa.model)) and torch.equal(found["transformers"], logits(jepa.model))


def test_what_peft_loads_is_what_was_trained(make_adapted, base, tmp_path):
    """The control of the slow test, in this process: with the adapter the logits are others than without."""
    jepa = make_adapted()
    shake(jepa)
    save_jepa(jepa, tmp_path / "model")
    plain = AutoModelForCausalLM.from_pretrained(base())
    without = logits(plain)
    found = logits(PeftModel.from_pretrained(plain, tmp_path / "model"))
    assert torch.equal(found, logits(jepa.model)) and not torch.allclose(found, without, atol=1e-2)


# ---- checkpoints ----


@pytest.mark.parametrize("target", ["stop_grad", "ema"])
def test_a_run_goes_on_from_its_checkpoint_to_the_bits_of_one_never_stopped(
    target, make_adapted, make_trainer, make_pairs
):
    """Promise 5 under LoRA, with its dropout on; the checkpoint holds the adapter and not the model."""

    def run(out, steps, **more):
        jepa = make_adapted(lora={"lora_dropout": 0.2}, jepa_target=target, jepa_k=2)
        return make_trainer(jepa, make_pairs(12), out=out, max_steps=steps, save_steps=2, num_train_epochs=9, **more)

    whole = run("whole", 6)
    whole.train()
    run("stopped", 4, lr_scheduler_type="constant").train()
    first = run("constant", 6, lr_scheduler_type="constant")
    first.train()
    again = run("stopped", 6, lr_scheduler_type="constant", allow_changed=["max_steps"])
    again.train(resume_from_checkpoint=True)
    assert_same(trained(again.jepa), trained(first.jepa))
    folder = find_newest(again.args.output_dir)
    assert (folder / ADAPTER).is_file() and not (folder / WEIGHTS).exists()
    assert (folder / TARGET).is_file() == (target == "ema")
    fresh = make_adapted(lora={"lora_dropout": 0.2}, jepa_target=target, jepa_k=2)
    restore_weights(fresh, folder)
    assert_same(dict(fresh.state_dict()), dict(again.jepa.state_dict()))


@pytest.mark.parametrize(
    ("name", "lora"),
    [("lora_alpha", {"lora_alpha": 8.0}), ("lora_r", {"lora_r": 2}), ("lora_dropout", {"lora_dropout": 0.5})],
)
def test_a_run_does_not_go_on_with_another_adapter(name, lora, make_adapted, make_trainer, make_pairs, raises):
    """A scale or a dropout that differs would be taken in silence: the matrices have the same shape."""
    make_trainer(make_adapted(), make_pairs(8), max_steps=2, save_steps=1).train()
    other = make_trainer(make_adapted(lora=lora), make_pairs(8), max_steps=2, save_steps=1)
    with raises("settings_changed", f"\n  {name} was ", f" and is {lora[name]}"):
        other.train(resume_from_checkpoint=True)


def test_a_run_does_not_go_on_with_another_base(make_adapted, make_trainer, make_pairs, base, tiny_model, raises):
    """The same folder with other weights: half of the steps would be trained on each."""
    make_trainer(make_adapted(), make_pairs(8), max_steps=2, save_steps=1).train()
    make_trainer(make_adapted(), make_pairs(8), max_steps=2, save_steps=1).train(resume_from_checkpoint=True)
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.norm.weight.mul_(1.01)
    model.save_pretrained(base())
    other = make_trainer(make_adapted(), make_pairs(8), max_steps=2, save_steps=1)
    with raises("settings_changed", "base_weights was "):
        other.train(resume_from_checkpoint=True)


OTHER_KINDS = {
    "a name": (LoraConfig(r=2, target_modules=["q_proj"]), "mine"),
    "embedding": (LoraConfig(r=2, target_modules=["q_proj", "embed_tokens"]), "default"),
    "tokens": (LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices=[5, 6]), "default"),
    "saved modules": (LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens"]), "default"),
    "DoRA": (LoraConfig(r=2, target_modules=["q_proj"], use_dora=True), "default"),
    "IA3": (IA3Config(target_modules=["q_proj"], feedforward_modules=[]), "default"),
    "LoHa": (LoHaConfig(r=2, target_modules=["q_proj"]), "default"),
}


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_an_adapter_of_the_users_own_is_saved_loaded_and_resumed(kind, base, make_trainer, make_pairs, tmp_path):
    """The adapter that is trained is the one that is saved, whatever its kind and its name."""

    def run(out):
        model = AutoModelForCausalLM.from_pretrained(base(), dtype=torch.float32).train()
        settings, name = OTHER_KINDS[kind]
        torch.manual_seed(3)
        adapted = get_peft_model(model, copy.deepcopy(settings), adapter_name=name)
        return make_trainer(LLMJEPA(adapted, JEPAConfig()), make_pairs(8), out=out, max_steps=3, save_steps=1)

    whole, again = run("run"), run("run")
    whole.train()
    again.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-1")
    assert_same(trained(again.jepa), trained(whole.jepa))
    whole.save_model(tmp_path / "saved")
    assert torch.equal(logits(load_jepa(tmp_path / "saved").model), logits(whole.jepa.model))
    assert not torch.equal(logits(whole.jepa.model), logits(AutoModelForCausalLM.from_pretrained(base())))


def test_of_two_adapters_the_active_one_is_saved(base, make_trainer, make_pairs, tmp_path):
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base()).train(), LoraConfig(target_modules=["q_proj"]))
    model.add_adapter("second", LoraConfig(r=2, target_modules=["q_proj"]))
    model.set_adapter("second")
    trainer = make_trainer(LLMJEPA(model, JEPAConfig()), make_pairs(8), max_steps=2)
    trainer.train()
    trainer.save_model(tmp_path / "saved")
    assert torch.equal(logits(load_jepa(tmp_path / "saved").model), logits(model))


def test_a_run_does_not_go_on_with_another_setting_of_peft(base, make_trainer, make_pairs, raises):
    """The scale of rsLoRA differs, the shapes do not."""

    def run(**settings):
        model = AutoModelForCausalLM.from_pretrained(base(), dtype=torch.float32).train()
        model = get_peft_model(model, LoraConfig(target_modules=["q_proj"], **settings))
        return make_trainer(LLMJEPA(model, JEPAConfig()), make_pairs(8), max_steps=2, save_steps=1)

    run().train()
    with raises("settings_changed", "adapter was None and is {'use_rslora': True}"):
        run(use_rslora=True).train(resume_from_checkpoint=True)


def test_a_learned_prompt_is_refused(base, raises):
    """Its tokens would be before those of every row."""
    settings = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    with raises("model_not_supported"):
        LLMJEPA(get_peft_model(AutoModelForCausalLM.from_pretrained(base()), settings), JEPAConfig(jepa_lambda=0.0))


def test_a_whole_model_replaces_an_adapter_of_its_folder(make_adapted, make_jepa, tmp_path):
    """With the old adapter's files, every program would load that one instead."""
    save_jepa(make_adapted(), tmp_path / "model")
    whole = make_jepa(seed=4)
    save_jepa(whole, tmp_path / "model")
    for model in (load_jepa(tmp_path / "model").model, AutoModelForCausalLM.from_pretrained(tmp_path / "model")):
        assert torch.equal(logits(model), logits(whole.model))


def test_a_run_without_adapter_does_not_go_on_from_one_with(make_adapted, make_jepa, make_trainer, make_pairs, raises):
    make_trainer(make_adapted(), make_pairs(8), max_steps=2, save_steps=1).train()
    with raises("settings_changed", "lora_r was 4 and is None"):
        make_trainer(make_jepa(), make_pairs(8), max_steps=2, save_steps=1).train(resume_from_checkpoint=True)


def test_an_adapter_of_another_shape_is_refused_whole(make_adapted, tmp_path, raises):
    """Neither half of it is loaded: the weights stay what they were."""
    save_jepa(make_adapted(lora={"lora_r": 2}), tmp_path / "checkpoint")
    jepa = make_adapted()
    before = trained(jepa)
    with raises("weights_of_other_model", tmp_path / "checkpoint" / ADAPTER, " is (2, ", "and (4, "):
        restore_weights(jepa, tmp_path / "checkpoint")
    assert_same(trained(jepa), before)


# ---- what is refused ----


def test_an_adapter_without_its_model_says_where_it_looked(make_adapted, base, tmp_path, raises):
    """Base gone, adapter file gone, settings damaged: each named, with what to do."""
    save_jepa(make_adapted(), tmp_path / "model")
    home = base().rename(tmp_path / "moved")
    settings = tmp_path / "model" / ADAPTER_CONFIG
    with raises("base_not_loadable", tmp_path / "base-llama", "base_model_name_or_path", settings):
        load_jepa(tmp_path / "model")
    home.rename(tmp_path / "base-llama")
    weights = (tmp_path / "model" / ADAPTER).read_bytes()
    (tmp_path / "model" / ADAPTER).write_bytes(weights[:100])
    with raises("model_not_loadable", f"adapter in {tmp_path / 'model'}"):
        load_jepa(tmp_path / "model")
    tensors = load_file_of(weights)
    tensors.pop(gone := min(tensors))
    save_file(tensors, tmp_path / "model" / ADAPTER)
    with raises("checkpoint_damaged", tmp_path / "model" / ADAPTER, gone):
        load_jepa(tmp_path / "model")
    (tmp_path / "model" / ADAPTER).unlink()
    with raises("file_missing", tmp_path / "model" / ADAPTER):
        load_jepa(tmp_path / "model")
    settings.write_text("{")
    (tmp_path / "model" / ADAPTER).write_bytes(weights)
    with raises("checkpoint_damaged", settings):
        load_jepa(tmp_path / "model")


@pytest.mark.parametrize(
    ("targets", "code"),
    [
        (["no_such_layer"], "layers_not_found"),
        (["q_proj", "v_prj"], "layers_not_found"),
        ("q_proj[", "layers_not_found"),
        (["q_proj", "embed_tokens"], "layers_not_adaptable"),
        (["q_proj", "lm_head"], "layers_not_adaptable"),
    ],
)
def test_layers_that_cannot_be_adapted_are_refused(targets, code, tiny_model, raises):
    with raises(code, f"lora_target_modules={targets!r}", "all-linear"):
        add_lora(tiny_model("llama"), AdapterConfig(lora_r=2, lora_target_modules=targets), base="base")


def test_a_folder_is_never_taken_for_a_name_on_the_hub(tiny_model, tmp_path, monkeypatch):
    """A run that is read from another place must not fetch `models/base` of a stranger: the name is that of a path."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "base").mkdir(parents=True)
    for base, written in (
        ("models/base", "./models/base"),
        (str(tmp_path), str(tmp_path)),
        ("somebody/model", "somebody/model"),
    ):
        model = add_lora(tiny_model("llama"), AdapterConfig(lora_r=2), base=base, revision="v1")
        settings = model.peft_config["default"]
        assert (settings.base_model_name_or_path, settings.revision) == (written, "v1")


def test_named_layers_alone_are_adapted(tiny_model):
    """A list of names, or a pattern; what was asked for is told of a run."""
    for targets in (["q_proj", "v_proj"], r".*\.(q|v)_proj"):
        model = add_lora(tiny_model("llama"), AdapterConfig(lora_r=2, lora_target_modules=targets), base="base")
        assert {name.split(".")[-3] for name in adapter_weights(model)} == {"q_proj", "v_proj"}
        assert describe_adapter(model)["lora_target_modules"] == targets


@pytest.mark.parametrize(
    ("settings", "code", "values"),
    [
        ({"lora_r": -1}, "value_out_of_range", ["lora_r=-1", "0 or more"]),
        ({"lora_r": 4, "lora_alpha": 0.0}, "value_out_of_range", ["lora_alpha=0.0", "above 0"]),
        ({"lora_r": 4, "lora_dropout": 1.0}, "value_out_of_range", ["lora_dropout=1.0", "[0, 1)"]),
        ({"lora_r": 4, "lora_target_modules": []}, "value_empty", ["lora_target_modules", "all-linear"]),
        ({"lora_r": 4, "quantization": "8bit"}, "value_not_allowed", ["quantization='8bit'", "none, 4bit"]),
        ({"lora_alpha": 8.0}, "setting_without_effect", ["lora_alpha=8.0", "lora_r"]),
        ({"quantization": "4bit"}, "setting_without_effect", ["quantization='4bit'", "lora_r"]),
    ],
)
def test_a_setting_out_of_range_or_without_effect_names_its_field(settings, code, values, raises):
    with raises(code, *values):
        AdapterConfig(**settings)


def test_a_checkpoint_is_predicted_without_the_frozen_model(make_adapted, make_jepa, make_trainer, make_pairs):
    """Room is asked for what is written: adapter, [PRED] and their moments; without an adapter, for all weights."""
    for jepa in (make_adapted(), make_jepa()):
        trainer = make_trainer(jepa, make_pairs(8), max_steps=1)
        assert trainer._checkpoint_bytes() == 3 * sum(each.numel() * 4 for each in trained(jepa).values())
