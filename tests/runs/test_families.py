"""Any decoder-only model of transformers: from its folder, with its own tokenizer, through a run and back."""

from __future__ import annotations

import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertLMHeadModel, MambaConfig, MambaForCausalLM

from llm_jepa.data.tokenizer import train_tokenizer
from llm_jepa.evaluation.generation import generate_greedy
from llm_jepa.runs.run import train_run
from llm_jepa.runs.settings import read_run
from llm_jepa.runs.trained_run import load_run

FAMILIES = ("llama", "qwen2", "qwen3", "gemma2", "gemma3", "mistral", "olmo2", "phi", "gpt2", "gpt_neox")
SPREAD = {"initializer_range": 0.3}  # weights large enough that the next token depends on all before it


@pytest.fixture(scope="module")
def tokenizer(pair_files):
    """A tokenizer of its own, trained on other texts than the run's would be."""
    return train_tokenizer([pair_files[0].read_text()], 320)


@pytest.fixture
def save_model(tiny_model, tokenizer, tmp_path):
    """Save a random model of a family with its tokenizer, as a hub would have it."""

    def save(family):
        folder = tmp_path / "pretrained"
        model = tiny_model(family, vocab_size=len(tokenizer), **SPREAD)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return save


@torch.no_grad()
def plain_greedy(model, tokenizer, prompt, longest):
    """transformers' own greedy generation of one prompt, with a cache, without padding."""
    ids = torch.tensor([prompt])
    answer = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=longest,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )[0, len(prompt) :].tolist()  # fmt: skip
    return answer[: answer.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in answer else answer


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_trained_saved_loaded_plainly_and_answers_alike(family, save_model, tiny_settings, tmp_path):
    """Its weights move, its vocabulary and tokenizer stay, plain transformers loads the result without a missing or
    an unexpected weight, and its greedy answers are ours, token for token."""
    source = save_model(family)
    settings = tiny_settings(
        model_name_or_path=str(source), vocab_size=None, max_steps=2, jepa_k=2, validation_generations=0
    )
    train_run(read_run(settings), 0, tmp_path / "run")
    shutil.move(source, tmp_path / "away")  # what was saved stands alone

    folder = tmp_path / "run" / "model"
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    before = AutoModelForCausalLM.from_pretrained(tmp_path / "away")
    assert model.config.vocab_size == before.config.vocab_size
    moved = [not torch.equal(one, two) for one, two in zip(model.parameters(), before.parameters(), strict=True)]
    assert sum(moved) > len(moved) * 0.8  # biases of keys have no gradient

    tokenizer = AutoTokenizer.from_pretrained(folder)
    run = load_run(tmp_path / "run")
    prompts = [tokenizer(text)["input_ids"] for text in ("lines with a dog", "x", "lines that end with 'tree', or not")]
    ours = generate_greedy(
        run.jepa.model, prompts, end_ids=run.encoder.end_ids, pad_id=run.encoder.pad_id, max_new_tokens=12
    )
    assert ours == [plain_greedy(model.eval(), tokenizer, prompt, 12) for prompt in prompts]
    assert len({tuple(answer) for answer in ours}) > 1


def test_a_model_whose_layers_mix_the_views_unseen_is_refused_with_the_reason(
    tokenizer, tiny_settings, tmp_path, raises
):
    """A state-space model takes no mask: it is refused before the first step, and by name."""
    MambaForCausalLM(
        MambaConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, state_size=4)
    ).save_pretrained(tmp_path / "mamba")
    tokenizer.save_pretrained(tmp_path / "mamba")
    settings = tiny_settings(model_name_or_path=str(tmp_path / "mamba"), vocab_size=None)
    with raises("model_not_supported", "MambaForCausalLM", "linear_attention"):
        train_run(read_run(settings), 0, tmp_path / "run")


@pytest.mark.parametrize("jepa_lambda", [0.0, 1.0])
def test_a_model_that_sees_later_tokens_is_refused_also_without_a_jepa_term(
    jepa_lambda, tokenizer, tiny_settings, tmp_path, raises
):
    """BERT would learn to copy its labels; transformers loads it as a causal model with a warning."""
    shape = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 256}
    BertLMHeadModel(BertConfig(vocab_size=len(tokenizer), hidden_size=32, **shape)).save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    settings = tiny_settings(model_name_or_path=str(tmp_path / "bert"), vocab_size=None, jepa_lambda=jepa_lambda)
    with raises("model_not_supported"):
        train_run(read_run(settings), 0, tmp_path / "run")


def test_texts_beyond_learned_positions_are_refused_with_their_lengths(save_model, tiny_settings, tmp_path, raises):
    """Where embeddings are asked for, as where answers are; a model with rotary positions has no such limit."""
    settings = tiny_settings(model_name_or_path=str(save_model("gpt2")), vocab_size=None, max_steps=1)
    train_run(read_run(settings), 0, tmp_path / "run")
    run, long = load_run(tmp_path / "run"), "lines with a dog " * 60
    positions = run.jepa.model.config.n_positions
    candidates = run.lone([("one", "a"), ("two", "b")], "code")
    with raises("row_too_long", "The text has", f"{positions} positions"):
        run.retrieve(long, candidates, 1)
    with raises("row_too_long", "row from one on", f"{positions} positions"):
        run.lone([("one", long[:400])], "text")
