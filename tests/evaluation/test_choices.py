"""Multiple choice: the likeliest choice after the prompt, by the probabilities that a plain forward gives."""

from __future__ import annotations

import math

import pytest
import torch

from llm_jepa.evaluation.choices import choice_log_likelihoods, gold_choice, judge_choices, notation_of, row_choices
from llm_jepa.evaluation.evaluate import EvaluationConfig, evaluate
from llm_jepa.evaluation.scorers.verdict import quoted
from llm_jepa.objective import LLMJEPA

CHOICES = [".*dog.*", ".*[0-9].*", "x", "a much longer answer than the others"]


def literal_log_likelihood(model, prompt: list[int], choice: list[int]) -> float:
    """Sum the log probabilities of the choice's tokens, one forward for each of them."""
    total = 0.0
    for place, token in enumerate(choice):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + choice[:place]])).logits[0, -1]
        total += torch.log_softmax(logits.double(), -1)[token].item()
    return total


@pytest.mark.parametrize(("family", "batch_size"), [("llama", 1), ("llama", 32), ("gpt2", 3), ("gemma2", 3)])
def test_likelihoods_are_those_of_one_token_after_the_other(learned, some_rows, tiny_model, family, batch_size):
    """Padding and batches change nothing; the end token and the prompt do not count."""
    encoder = learned.encoder
    jepa = LLMJEPA(tiny_model(family, vocab_size=len(encoder.tokenizer)), learned.jepa.config)
    rows = some_rows({"text": "lines with a dog", "code": "a"}, {"text": "x", "code": "a"})
    asked = [(rows.examples[0], CHOICES), (rows.examples[1], CHOICES[:2])]
    found = choice_log_likelihoods(jepa, encoder, asked, batch_size=batch_size)
    assert [len(each) for each in found] == [4, 2]
    for (example, choices), values in zip(asked, found, strict=True):
        for choice, value in zip(choices, values, strict=True):
            ids = encoder.tokenizer(choice, add_special_tokens=False)["input_ids"]
            expected = literal_log_likelihood(jepa.model.eval(), encoder.encode_prompt(example), ids)
            assert value == pytest.approx(expected, abs=1e-4)


def test_a_model_that_knows_the_answers_chooses_them(learned, some_rows):
    """By place; the wrong gold answer is wrong, and a row without choices is not decided."""
    rows = some_rows(
        {"text": "lines with a dog", "code": "-", "choices": CHOICES, "answer": "0"},
        {"text": "lines with a number", "code": "-", "choices": CHOICES, "answer": 1},
        {"text": "lines with a number", "code": "-", "choices": CHOICES, "answer": 0},
        {"text": "lines with a number", "code": "-"},
    )
    config = EvaluationConfig(metric="choice", scorers=["choice_per_byte"], max_new_tokens=24)
    metrics, records = evaluate(learned.jepa, learned.encoder, rows, config)
    assert [record["choice"] for record in records] == [True, True, False, None]
    assert [record["choice_per_byte"] for record in records] == [True, True, False, None]
    assert metrics["choice"] == 2 / 4 and metrics["num_gold_errors"] == {"choice": 1, "choice_per_byte": 1}
    assert records[0]["reason"].startswith("the gold choice '.*dog.*' is the likeliest: -")
    assert records[2]["reason"].startswith("'.*[0-9].*' is as likely as '.*dog.*', or likelier: -")


@pytest.mark.parametrize("answers", [("A", "b"), (".*dog.*", " .*[0-9].* ")])
def test_answers_are_letters_or_words_of_the_whole_file(learned, some_rows, answers):
    rows = some_rows(
        {"text": "lines with a dog", "code": "-", "choices": CHOICES, "answer": answers[0]},
        {"text": "lines with a number", "code": "-", "choices": CHOICES, "answer": answers[1]},
    )
    metrics, _ = evaluate(learned.jepa, learned.encoder, rows, EvaluationConfig(metric="choice", max_new_tokens=24))
    assert metrics["choice"] == 1.0


def test_how_answers_are_written_is_decided_once_for_the_whole_file(learned, some_rows):
    """A choice that happens to be called 0 does not make a word of one answer, where all others are places."""
    rows = some_rows(
        {"text": "lines with a dog", "code": "-", "choices": [".*dog.*", "0"], "answer": "0"},
        {"text": "lines with a dog", "code": "-", "choices": CHOICES, "answer": "0"},
        {"text": "lines with a dog", "code": "-", "choices": CHOICES, "answer": "A"},
    )
    config = EvaluationConfig(metric="choice", max_new_tokens=24)
    metrics, records = evaluate(learned.jepa, learned.encoder, rows, config)
    assert [record["choice"] for record in records] == [True, True, None]
    assert metrics["num_gold_errors"] == {"choice": 1}
    assert records[2]["reason"].startswith("error: ") and "'A'" in records[2]["reason"]
    assert "place of a choice from 0" in records[2]["reason"]
    asked = [(["2", "1", "0"], "0"), (["red", "blue"], "1")]
    assert notation_of(asked) == "place" and notation_of(asked[:1]) == "word"


def test_places_that_count_from_one_are_refused_and_not_read_one_off(raises):
    """None is 0, and one is the number of the choices: read from 0, three of four would be the wrong choice."""
    rows = [(["a", "b", "c", "d"], answer) for answer in ("1", 2, "3", "4")]
    with raises("places_count_from_one", "one is 4"):
        notation_of(rows)
    assert notation_of([*rows, (["a", "b"], 0)]) == "place"


def test_a_long_choice_loses_by_its_length_unless_that_is_divided_out():
    """The sum prefers the short one, the mean over bytes the one that is likelier a byte."""
    choices, sums = ["ab", "abcdefghij"], [-4.0, -10.0]
    assert judge_choices(choices, sums, 0, per_byte=False).correct
    assert judge_choices(choices, sums, 1, per_byte=True).correct
    assert judge_choices(choices, sums, 0, per_byte=True).reason.endswith("-1.000 against -2.000 nats per byte")
    assert judge_choices(["\u00df", "abc"], [-1.0, -2.0], 0, per_byte=True).correct  # two bytes against three


@pytest.mark.parametrize("value", [-3.0, math.nan, -math.inf])
def test_a_tie_and_a_diverged_model_are_wrong_wherever_the_gold_stands(value: float):
    """A collapsed model finds all choices equally likely, and must not be right by the order of a list."""
    for gold in range(3):
        assert not judge_choices(["a", "b", "c"], [value] * 3, gold, per_byte=False).correct


@pytest.mark.parametrize("choices", [None, "ab", [], ["a"], ["a", "a"], ["a", ""], ["a", 1], {"text": ["a", "b"]}])
def test_choices_are_two_different_texts_or_more(choices, raises):
    with raises("choices_not_usable", f"choices is {quoted(str(choices))}"):
        row_choices({"choices": choices})


def alone(choices, answer):
    """The place of an answer whose row is the whole file."""
    return gold_choice(choices, answer, notation_of([(choices, answer)]))


@pytest.mark.parametrize(
    ("answer", "place"),
    [("blue", 1), (" blue ", 1), ("B", 1), ("b", 1), ("1", 1), (1, 1), ("A", 0), (0, 0), ("2", 2)],
)
def test_the_answer_is_a_choice_its_letter_or_its_place(answer, place):
    assert alone(["red", "blue", "green"], answer) == place


def test_a_choice_word_for_word_goes_before_letters_and_places():
    """Choices may themselves be letters or numbers."""
    assert alone(["B", "A"], "A") == 1
    assert alone(["2", "1", "0"], "0") == 2
    assert alone(["2", "1", "0"], 0) == 0


def test_white_space_around_a_choice_or_the_answer_is_left_aside():
    """Choices that go on from a text begin with a blank; two that differ by it alone are told apart by it."""
    assert [alone([" went home.", " ran."], answer) for answer in (" ran.", "ran.", "went home. ")] == [1, 1, 0]
    assert alone(["a", " a"], " a") == 1


@pytest.mark.parametrize("answer", ["yellow", "D", "3", 3, -1, True, None, 1.0, "", "9" * 5000, ["A"]])
def test_an_answer_that_names_no_choice_is_refused(answer, raises):
    with raises("answer_not_a_choice", quoted(str(answer)), "word for word"):
        alone(["red", "blue", "green"], answer)
