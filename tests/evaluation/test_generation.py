"""Batched, padded, cached generation says what one forward a token says, prompt by prompt."""

from __future__ import annotations

import pytest
import torch
from transformers import GenerationConfig

from llm_jepa.evaluation import generation
from llm_jepa.evaluation.generation import generate_greedy

END, PAD = 1, 0
MODELS = ["llama", "gpt2", "qwen3", "mistral", "gemma2"]
SPREAD = {"initializer_range": 0.3}  # weights large enough that the next token depends on all before it


@torch.no_grad()
def one_by_one(model, prompt, max_new_tokens, end_ids=(END,)):
    """The specification: the likeliest token, appended, until the end token or the limit; no cache, no padding."""
    ids = list(prompt)
    for _ in range(max_new_tokens):
        token = int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
        if token in end_ids:
            break
        ids.append(token)
    return ids[len(prompt) :]


def make_prompts(seed=0, lengths=(1, 9, 3, 14, 6, 2, 14)):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(2, 64, (length,), generator=generator).tolist() for length in lengths]


def generate(model, prompts, end_ids=(END,), max_new_tokens=10, **options):
    return generate_greedy(model, prompts, end_ids=end_ids, pad_id=PAD, max_new_tokens=max_new_tokens, **options)


@pytest.mark.parametrize("batch_size", [3, 256])
@pytest.mark.parametrize("model", MODELS)
def test_answers_equal_those_of_one_prompt_at_a_time(model, batch_size, tiny_model):
    """Prompts of 1 to 14 tokens in one batch, windows of 4 in two of the models; the order asked is kept."""
    model, prompts = tiny_model(model, **SPREAD).eval(), make_prompts()
    expected = [one_by_one(model, prompt, 10) for prompt in prompts]
    assert generate(model, prompts, batch_size=batch_size) == expected
    assert len({tuple(answer) for answer in expected}) == len(prompts)  # no two answers could be exchanged unseen


def test_an_answer_depends_on_its_prompt_and_not_on_padding(tiny_model):
    """The control: padding that is read as text changes answers, so equality above is no accident."""
    model, prompts = tiny_model("llama", **SPREAD).eval(), make_prompts()
    padded = [[PAD] * (14 - len(prompt)) + prompt for prompt in prompts]
    assert generate(model, padded) != generate(model, prompts)


@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("model", MODELS)
def test_answers_that_have_ended_leave_the_batch_and_change_no_other(model, stride, tiny_model, monkeypatch):
    """The forward passes have ever fewer rows, with windows of attention too; answers are those of a prompt alone."""
    monkeypatch.setattr(generation, "STRIDE", stride)
    model, prompts = tiny_model(model, **SPREAD).eval(), make_prompts()
    free = [one_by_one(model, prompt, 10, end_ids=()) for prompt in prompts]
    ends = [free[1][2], free[3][5]]
    expected = [one_by_one(model, prompt, 10, end_ids=ends) for prompt in prompts]
    sizes = []
    head = model.get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    assert generate(model, prompts, end_ids=ends) == expected
    handle.remove()
    assert sizes == sorted(sizes, reverse=True) and sizes[0] == len(prompts)
    assert sizes[-1] == sum(len(answer) >= (10 - 1) // stride * stride for answer in expected) < len(prompts)
    assert len(sizes) == 10  # no token was computed twice


def test_a_cache_that_cannot_be_cut_is_made_again(tiny_model, monkeypatch):
    monkeypatch.setattr(generation, "STRIDE", 3)
    monkeypatch.setattr(generation, "_cut_cache", lambda cache, kept: None)
    model, prompts = tiny_model("llama", **SPREAD).eval(), make_prompts()
    ends = [one_by_one(model, prompts[1], 10, end_ids=())[2]]
    expected = [one_by_one(model, prompt, 10, end_ids=ends) for prompt in prompts]
    assert generate(model, prompts, end_ids=ends) == expected


@pytest.mark.parametrize("model", ["llama", "gpt2"])
def test_an_answer_stops_at_the_first_end_token_and_does_not_hold_it(model, tiny_model):
    """Each token that the model would write is tried as the end token; other answers of the batch go on."""
    model, prompts = tiny_model(model, **SPREAD).eval(), make_prompts()
    free = [one_by_one(model, prompt, 10, end_ids=()) for prompt in prompts]
    for end in free[1][:4]:
        answers = generate(model, prompts, end_ids=[end])
        assert answers == [answer[: answer.index(end)] if end in answer else answer for answer in free]
        assert len(answers[1]) < 10


def test_any_of_several_end_tokens_ends_an_answer(tiny_model):
    """A chat model has two: its end of turn and its end of text."""
    model, prompts = tiny_model("llama", **SPREAD).eval(), make_prompts()
    free = one_by_one(model, prompts[3], 10, end_ids=())
    ends = [free[6], free[2]]
    assert generate(model, prompts, end_ids=ends)[3] == free[: min(free.index(end) for end in ends)]


def test_an_answer_is_cut_at_the_longest_allowed(tiny_model):
    model, prompts = tiny_model("llama", **SPREAD).eval(), make_prompts()
    for longest in (1, 4):
        answers = generate(model, prompts, end_ids=[63], max_new_tokens=longest)
        assert answers == [one_by_one(model, prompt, longest, end_ids=[63]) for prompt in prompts]


def test_an_end_token_that_is_also_the_pad_token_ends_answers_all_the_same(tiny_model):
    """GPT-2 has no pad token of its own; padding is told by the mask, never by the id."""
    model, prompts = tiny_model("gpt2", **SPREAD).eval(), make_prompts()
    end = one_by_one(model, prompts[1], 10, end_ids=())[3]
    answers = generate_greedy(model, prompts, end_ids=[end], pad_id=end, max_new_tokens=10)
    assert answers == [one_by_one(model, prompt, 10, end_ids=[end]) for prompt in prompts]


def test_the_models_own_generation_settings_are_not_used(tiny_model):
    """Models of the hub bring sampling, penalties and limits of their own; a score must not depend on them."""
    model, prompts = tiny_model("llama", **SPREAD).eval(), make_prompts()
    expected = generate(model, prompts)
    model.generation_config = own = GenerationConfig(
        do_sample=True,
        temperature=5.0,
        top_k=40,
        repetition_penalty=3.0,
        no_repeat_ngram_size=1,
        min_new_tokens=8,
        suppress_tokens=expected[1][:2],
        eos_token_id=expected[3][1],
        max_new_tokens=2,
    )
    state = torch.get_rng_state()
    assert generate(model, prompts) == expected
    assert model.generation_config is own and torch.equal(state, torch.get_rng_state())


def test_generation_leaves_the_model_in_its_mode(tiny_model):
    """Dropout is off while answers are made, and on again afterwards; no random number is drawn."""
    model = tiny_model("gpt2", **SPREAD, resid_pdrop=0.5)
    state = torch.get_rng_state()
    first, again = generate(model, make_prompts()), generate(model, make_prompts())
    assert first == again
    assert model.training and torch.equal(state, torch.get_rng_state())


def test_no_prompt_gives_no_answer(tiny_model):
    assert generate(tiny_model("llama"), []) == []


@pytest.mark.parametrize("batch_size", [1, 2])
def test_an_answer_ends_where_learned_positions_do(tiny_model, raises, batch_size):
    """GPT-2 has no vector for a position beyond its last; models that compute theirs go on. Rows do not share it."""
    prompts = [[5] * 28, [6] * 3]
    answers = generate_greedy(
        tiny_model("gpt2", n_positions=32), prompts, end_ids=[63], pad_id=0, max_new_tokens=9, batch_size=batch_size
    )
    assert [len(answer) for answer in answers] == [4, 9]
    with raises("prompt_too_long", "32 tokens", "32 positions"):
        generate_greedy(tiny_model("gpt2", n_positions=32), [[5] * 32], end_ids=[63], pad_id=0, max_new_tokens=9)
    long = tiny_model("llama", max_position_embeddings=32)
    assert len(generate_greedy(long, [[5] * 28], end_ids=[63], pad_id=0, max_new_tokens=9)[0]) == 9
