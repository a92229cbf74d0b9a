"""Scorers: no output is right by accident."""

from __future__ import annotations

import pytest

from llm_jepa.errors import ConfigError
from llm_jepa.evaluation.scorers import Verdict, get_scorer

HOSTILE = ["1,000", "1e400", "٣", "nan", "9" * 5000, "\x00", "\u200b", "\ud800", "(" * 10_000, "é", "None", "True"]


def test_exact_is_equality_up_to_white_space_around():
    """Surrounding space is not the model's answer; everything inside is."""
    exact = get_scorer("exact")
    assert exact("  [0-9]+\n", "[0-9]+") == Verdict(True, "equal to the gold text")
    assert not exact("[0-9] +", "[0-9]+").correct
    assert not exact("DOG", "dog").correct


def test_startswith_is_right_when_the_gold_text_comes_first():
    """The metric for models that do not stop: what follows the gold text does not matter, what precedes it does."""
    startswith = get_scorer("startswith")
    assert startswith("(dog)* and more", "(dog)*").correct
    assert startswith("(dog)*", "(dog)*").correct
    assert not startswith("x(dog)*", "(dog)*").correct
    assert not startswith("(dog)", "(dog)*").correct


@pytest.mark.parametrize("name", ["exact", "startswith"])
@pytest.mark.parametrize("output", ["", " ", "\n\t", "\u00a0"])
def test_an_empty_answer_is_never_correct(name: str, output: str):
    """An empty output is wrong and is said to be empty."""
    assert get_scorer(name)(output, "a") == Verdict(False, "the output is empty")


@pytest.mark.parametrize("name", ["exact", "startswith"])
@pytest.mark.parametrize("output", HOSTILE)
def test_odd_outputs_are_wrong_and_never_raise(name: str, output: str):
    """Huge, binary and number-like outputs are compared as text; reasons stay short and printable."""
    verdict = get_scorer(name)(output, "1000")
    assert not verdict.correct
    assert len(verdict.reason) < 300
    assert verdict.reason.isascii() and verdict.reason.isprintable()


@pytest.mark.parametrize("output", HOSTILE)
def test_odd_texts_are_right_when_the_gold_text_is_the_same(output: str):
    """Nothing is parsed: whatever the text is, it equals itself."""
    assert get_scorer("exact")(output, output).correct


@pytest.mark.parametrize("gold", ["", "   "])
def test_an_empty_gold_text_is_an_error_not_a_free_point(gold: str):
    """Every text starts with the empty one, so a blank gold would make all outputs right."""
    for name in ("exact", "startswith"):
        with pytest.raises(ValueError, match="gold text is empty"):
            get_scorer(name)("anything", gold)


@pytest.mark.parametrize(
    ("output", "gold", "reason"),
    [
        ("abX", "abY", "differs from character 2 on: 'X' instead of 'Y'"),
        ("ab", "abcd", "ends after 2 of the gold text's 4 characters"),
        ("abcd", "ab", "equal for 2 characters, then goes on: 'cd'"),
    ],
)
def test_the_reason_says_where_output_and_gold_part(output: str, gold: str, reason: str):
    """A reader of predictions.jsonl sees at once what went wrong."""
    assert get_scorer("exact")(output, gold).reason == reason


def test_aliases_are_the_same_scorers():
    """The names of the paper's code and ours both work."""
    assert get_scorer("exact_match") is get_scorer("exact")
    assert get_scorer("starts_with") is get_scorer("startswith")


def test_an_unknown_scorer_is_refused_with_the_nearest_name():
    """A typing error in a config costs a second, not a run."""
    with pytest.raises(ConfigError, match="'exat'.*Did you mean 'exact'"):
        get_scorer("exat")
    with pytest.raises(ConfigError, match="known: exact, startswith"):
        get_scorer("bleu")
