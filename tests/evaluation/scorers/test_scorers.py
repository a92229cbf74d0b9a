"""Scorers: no output is right by accident."""

from __future__ import annotations

import json
import unicodedata
from decimal import Decimal
from pathlib import Path

import pytest

from llm_jepa.evaluation.scorers import GoldError, Verdict, get_scorer
from llm_jepa.evaluation.scorers.answer_numbers import find_number
from llm_jepa.evaluation.scorers.answer_words import normalised_words
from llm_jepa.evaluation.scorers.verdict import quoted

GSM8K = Path(__file__).parents[3].parent / "shared" / "data" / "gsm8k_200.jsonl"
NAMES = ["exact", "startswith", "regex", "number", "any_of", "label"]

HOSTILE = ["1,00", "1e400", "٣", "nan", "9" * 5000, "\x00", "\u200b", "\ud800", "(" * 10_000, "é", "None", "True"]


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


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("output", ["", " ", "\n\t", "\u00a0"])
def test_an_empty_answer_is_never_correct(name: str, output: str):
    """An empty output is wrong and is said to be empty."""
    assert get_scorer(name)(output, "a") == Verdict(False, "the output is empty")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("output", HOSTILE)
def test_odd_outputs_are_wrong_and_never_raise(name: str, output: str):
    """Huge, binary and number-like outputs are compared as text; reasons stay short and printable."""
    verdict = get_scorer(name)(output, "#### 1000" if name == "number" else "1000")
    assert not verdict.correct
    assert len(verdict.reason) < 300
    assert verdict.reason.isascii() and verdict.reason.isprintable()


@pytest.mark.parametrize("output", HOSTILE)
def test_odd_texts_are_right_when_the_gold_text_is_the_same(output: str):
    """Nothing is parsed: whatever the text is, it equals itself."""
    assert get_scorer("exact")(output, output).correct


@pytest.mark.parametrize("gold", ["", "   "])
def test_an_empty_gold_text_is_an_error_not_a_free_point(gold: str, raises):
    """Every text starts with the empty one, so a blank gold would make all outputs right."""
    for name in NAMES:
        with raises("gold_empty"):
            get_scorer(name)("anything", gold)


@pytest.mark.parametrize(
    ("output", "gold", "reason"),
    [
        ("abX", "abY", "differs from character 2 on: 'X' instead of 'Y'"),
        ("ab", "abcd", "ends after 2 of the gold text's 4 characters"),
        ("abcd", "ab", "equal for 2 characters, then continues: 'cd'"),
    ],
)
def test_the_reason_says_where_output_and_gold_part(output: str, gold: str, reason: str):
    """A reader of predictions.jsonl sees at once what went wrong."""
    assert get_scorer("exact")(output, gold).reason == reason


def test_aliases_are_the_same_scorers():
    """The names of the paper's code and ours both work."""
    assert get_scorer("exact_match") is get_scorer("exact")
    assert get_scorer("starts_with") is get_scorer("startswith")


def test_an_unknown_scorer_is_refused_with_the_nearest_name(raises):
    """A typing error in a config costs a second, not a run."""
    with raises("unknown_scorer", "'exat'", "Did you mean 'exact'"):
        get_scorer("exat")
    with raises("unknown_scorer", "'bleu'", "exact, startswith"):
        get_scorer("bleu")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 9 * 2 = 18\n#### 18", "18"),
        ("####18", "18"),
        ("#### 1,000", "1000"),
        ("#### 1,234,567.50", "1234567.5"),
        ("#### -3", "-3"),
        ("#### +3", "3"),
        ("#### \u22123", "-3"),
        ("#### $18.00.", "18"),
        ("#### -$5", "-5"),
        ("#### .5", "0.5"),
        ("#### 0007", "7"),
        ("#### 18 dollars a day", "18"),
        ("#### 50%", "50"),
        ("#### 18\n\n#### 19", "18"),
        ("#### 18\n18 18", "18"),  # a model that was not taught to stop goes on
        ("#### 18\r\n7", "18"),
        ("#### 18\n- 3 apples", "18"),
        ("#### " + "9" * 5000, "9" * 5000),
        *((f"#### {text}", "18") for text in ("\u20ac18", "**18**", r"\boxed{18}", r"\$18", "= 18", "__18__", "`18`")),
        *(
            (f"#### {text}", "18")
            for text in ("$18$", r"$\boxed{18}$", r"\(18\)", r"\boxed{\$18}", r"18\%", "18 \u20ac")
        ),
        *((f"#### {text}", "-5") for text in ("$-5", "-$5", "$\u22125", "\u2212\u20ac5", "**$-5**", r"\boxed{-5}")),
        ("#### Step 1: add\n9 + 9 = 18\n#### Step 2: done\n#### 18", "18"),
        ("##### 18", "18"),
        *((f"#### {text}", "18000") for text in ("18{,}000", r"\$18{,}000", r"$18,\!000$")),
    ],
)
def test_the_number_after_the_marker_is_read_as_people_write_it(text: str, number: str):
    """Signs, thousands separators, decimals, currency before and words after; as many digits as one likes."""
    assert find_number(text).value == Decimal(number)
    assert get_scorer("number")(f"let me see. {text}", f"#### {number}").correct


@pytest.mark.parametrize(
    "text",
    [
        *(
            "18",
            "# 18",
            "####",
            "#### ",
            "#### eighteen",
            "#### nan",
            "#### inf",
            "#### \u0663",
            "#### 1e400",
            "#### 1e3",
        ),
        *("#### 0x10", "#### 1,00", "#### 1 000", "#### 1.2.3", "#### 3/4", "#### 5*2", "#### 3 - 3 = 0", "#### 3rd"),
        *(r"#### 18\ 000", r"#### 18\,000", "#### 18~20"),
        *("#### --1", "#### 1_000", "#### 1\u0663", "#### 10^400", "#### 12:30", "#### 3-5", "#### 1'000", "#### ,5"),
        *("#### $", "#### -$-5", "#### 5-", "#### 5 million", r"#### 1\frac{1}{2}", r"#### 3 \times 10^4"),
        *(
            "#### 18 or 20",
            "#### 18, 20",
            "#### 18 and 20",
            "#### 18; 20",
            "#### 3 to 5",
            "#### $18 / $20",
            "#### 18 or maybe 19",
        ),
    ],
)
def test_what_is_no_number_is_never_a_match_not_even_with_itself(text: str):
    """Two texts without a number are not equal numbers; of `1e400` no part is taken for a number."""
    found = find_number(text)
    assert found is None or found.lists_another
    score = get_scorer("number")
    assert not score(text, text).correct and not score(text, text).decided
    assert not any(score(text, f"#### {number}").correct for number in (1, 3, 5, 10, 18, 1000, "1" + "0" * 400))
    assert score(text, "#### 7").decided


def swapped(name: str, golds: list) -> list[tuple[object, object]]:
    """Return the pairs of different golds of a file of which one is right for the other, and those wrong for itself."""
    score = get_scorer(name, golds=golds)
    as_output = [gold if isinstance(gold, str) else gold[0] for gold in golds]
    return [
        (output, golds[place])
        for place in range(len(golds))
        for at, output in enumerate(as_output)
        if score(output, golds[place]).correct is not (at == place)
    ]


@pytest.mark.parametrize(
    "golds",
    [
        ["#### $5", "#### 5", "#### \u20ac5", "#### 5%", "#### 6"],
        ["#### 5 kg", "#### 5 g", "#### 7 apples"],
        ["#### 5 km/h", "#### 5 km", "#### 5 km per second", "#### 5 kilometres"],
        ["#### 5 square feet", "#### 5 square metres", "#### 5"],
        ["#### 5\u00b0C", "#### 5\u00b0F", "#### 5\u00b0"],
        ["#### 5 Mb", "#### 5 MB"],
        ["#### 1,234", "#### 1.234", "#### 7"],
        ["#### Step 1 add\n2\n#### 18", "#### Step 1\n#### Step 2\n#### 19", "#### 1. Add it up\n#### 20"],
    ],
)
def test_different_numbers_of_one_file_stay_different(golds: list[str]):
    """Units count where the same number has several; headings before the answer are passed over."""
    assert swapped("number", golds) == []


def test_no_more_words_of_a_number_count_than_tell_the_golds_apart():
    score = get_scorer("number", golds=["#### 5 kg", "#### 5 g", "#### 7 apples", "#### 7 apples."])
    assert score("#### **5 Kg** of flour", "#### 5 kg").correct and score("#### 7 pears", "#### 7 apples").correct
    assert not score("#### 5 g of flour", "#### 5 kg").correct and not score("#### 5", "#### 5 kg").correct


@pytest.mark.parametrize("output", ["#### $$18$$", "#### $18$", "####: 18", "#### \\[18\\]"])
def test_marks_around_a_number_do_not_count(output: str):
    assert get_scorer("number")(output, "#### 18").correct


def test_a_notation_is_not_guessed_gold_by_gold():
    """With 1,5 in the file, 1.234 may be a thousand: neither reading is taken. Without it, the notation is English."""
    golds = ["#### 1,5", "#### 1.234", "#### 2,750", "#### 7"]
    score = get_scorer("number", golds=golds)
    assert [score(gold, gold).decided for gold in golds] == [False, False, False, True]
    english = get_scorer("number", golds=golds[1:])
    assert [english(gold, gold).correct for gold in golds[1:]] == [True, True, True]


@pytest.mark.parametrize("gold", ["#### 18 or 20", "#### 18\n#### 20", "#### 3, 5", "#### 18 = 3 * 6", "#### 2 (or 3)"])
def test_a_gold_with_several_numbers_is_not_decided(gold: str):
    score = get_scorer("number")
    assert not score("#### 18", gold).decided and not score(gold, gold).correct


def test_numbers_differ_by_their_last_digit():
    """Not by what fits into a float."""
    score = get_scorer("number")
    assert not score("#### 10000000000000000000001", "#### 10000000000000000000000").correct
    assert not score("#### 0.1", "#### 0.10000000000000001").correct
    assert score("#### 17", "#### 18").reason == "the number is '17' instead of '18'"
    assert not score("#### 18" + " and so on" * 20_000, "#### 18").correct  # an answer that never ends


@pytest.mark.skipif(not GSM8K.exists(), reason="the GSM8K sample is not here")
def test_the_answers_of_gsm8k_all_have_a_number_and_match_themselves_alone():
    """200 answers; each is right for itself, and for the next one where the two numbers are the same."""
    golds = [json.loads(line)["messages"][-1]["content"] for line in GSM8K.read_text(encoding="utf-8").splitlines()]
    numbers = [gold.rpartition("####")[2].strip().replace(",", "") for gold in golds]
    score = get_scorer("number")
    for place in range(len(golds)):
        assert score(golds[place], golds[place]).correct
        same = float(numbers[place]) == float(numbers[place - 1])
        assert score(golds[place], golds[place - 1]).correct is same


@pytest.mark.parametrize(
    ("output", "gold", "correct"),
    [
        ("It was Paris, of course.", '["Paris", "City of Light"]', True),
        ("the city of light", ["Paris", "City of Light"], True),
        ("Beatles", ["The Beatles"], True),
        ("in the U.S. Senate", ["US"], True),
        ("about 1,000 men", ["1000"], True),
        ("CAF\u00c9", ["cafe\u0301"], True),
        ("\u6771\u4eac\u3067\u3059", ["\u6771\u4eac"], True),
        ("The", ["The"], True),
        (
            "\u0e04\u0e37\u0e2d\u0e01\u0e23\u0e38\u0e07\u0e40\u0e17\u0e1e\u0e04\u0e23\u0e31\u0e1a",
            ["\u0e01\u0e23\u0e38\u0e07\u0e40\u0e17\u0e1e"],
            True,
        ),
        ("\u0e04\u0e37\u0e2d\u0e17\u0e35\u0e48", ["\u0e17\u0e35"], False),
        ("J.R.R.Tolkien", ["Tolkien"], True),
        ("Paris", "Paris", True),  # a text that is no list is one answer
        ("14", "14", True),
        ("Parisian", ["Paris"], False),
        ("in 1914", ["14"], False),
        ("-5 degrees", ["5"], False),
        ("3.5", ["5"], False),
        ("Par", ["Paris"], False),  # the published code takes this for right
        ("e", ["Paris"], False),
        ("...", ["Paris"], False),
        ("\u200b", ["Paris"], False),
        ("none of them", ["no"], False),
        ("x" * 100_001 + " Paris", ["Paris"], False),
    ],
)
def test_any_of_is_right_when_an_answer_stands_in_the_output(output: str, gold: object, correct: bool):
    """In that direction, as whole words, whatever the case, the articles and the punctuation."""
    assert get_scorer("any_of")(output, gold).correct is correct


@pytest.mark.parametrize(
    ("gold", "code"),
    [
        *(("[", "not_json"), ('["a"', "not_json"), ("[" * 9999, "not_json")),
        *(("[]", "wrong_type"), ([], "wrong_type"), ({"a": 1}, "wrong_type"), (7, "wrong_type")),
        *(("[1]", "wrong_type"), ([None], "wrong_type")),
        *(('[""]', "gold_empty"), ('["a", " "]', "gold_empty"), ('["..."]', "gold_without_words")),
    ],
)
def test_any_of_needs_answers_with_words_in_them(gold: object, code: str, raises):
    """An answer without a word would stand in every output."""
    with raises(code) as caught:
        get_scorer("any_of")("anything ... a", gold)
    assert isinstance(caught.value, GoldError)


@pytest.mark.parametrize(
    ("output", "gold", "correct"),
    [
        ("Good", "good", True),
        (" good. The film", "Good", True),
        ("**Good**", "good", True),
        ("Very good!", "very good", True),
        *((text, "A", True) for text in ("A. Because", "A.Because", "A.42")),
        ("Not good", "good", False),
        ("goodish", "good", False),
        ("good", "very good", False),
        ("bad", "good", False),
        ("!!!", "good", False),
    ],
)
def test_a_label_is_the_first_words_of_the_output(output: str, gold: str, correct: bool):
    assert get_scorer("label")(output, gold).correct is correct


# Two texts that are different answers: marks of several scripts, signs, units, raised digits, decimal commas.
DIFFERENT = [
    *(("\u0939\u0942\u0901", "\u0939\u0942"), ("\u0e17\u0e35\u0e48", "\u0e17\u0e35"), ("\u0915\u093f", "\u0915\u0940")),
    *(("\u05e9\u05c1\u05b8", "\u05e9"), ("\u0645\u0651\u064f", "\u0645\u0651"), ("\u304c", "\u304b"), ("x\u0304", "x")),
    *(("\uabc0\uabed", "\uabc0"), ("\u1780\u17d2\u1798", "\u1780\u1798"), ("\u0b95\u0bca", "\u0b95\u0bc6")),
    *(("A+", "A"), ("A-", "A"), ("O-", "O+"), ("C++", "C"), ("C#", "C"), ("<5", ">5"), ("\u22645", "\u22655")),
    *(("5%", "5"), ("$5", "\u20ac5"), ("5\u00b2", "52"), ("1\u00bd", "11/2"), ("1,5", "15"), ("3,14", "314")),
    *(("\u22125", "5"), ("-$5", "$5"), ("10\u00b0C", "10\u00b0F"), ("\U0001f44d", "\U0001f44e"), ("+", "-")),
    *(("\u00b15", "5"), ("5\u2032", "5\u2033"), ("F\u266f", "F\u266d"), ("5 $", "5 \u20ac"), ("\u06f5", "5")),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_what_changes_the_meaning_of_a_word_counts(one: str, other: str):
    """With and without the other gold answers of the file."""
    assert normalised_words(one) != normalised_words(other)
    assert normalised_words(one) == normalised_words(unicodedata.normalize("NFD", one))
    for golds in ([], [one, other]):
        label = get_scorer("label", golds=golds)
        assert label(one, one).correct and label(other, other).correct
        assert not label(one, other).correct and not label(other, one).correct
    assert swapped("any_of", [[one], [other]]) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *(("1,000", "1000"), ("1,00,000", "100000"), ("5 %", "5%"), ("10 \u00b0C", "10\u00b0C"), ("$ 5", "$5")),
        *(("\u2460", "1"), ("co\u00adop", "coop"), ("\uff21", "a"), ("# Good", "good"), ("~~no~~", "no")),
    ],
)
def test_what_is_written_in_two_ways_is_one_answer(one: str, other: str):
    assert get_scorer("label")(one, other).correct and get_scorer("label")(other, one).correct


@pytest.mark.parametrize(
    "golds",
    [
        ["US", "us", "it", "IT", "Other"],
        ["we're", "were", "5", "+5", "5%", "3/4", "34", "3 4", "3:4"],
        ["A*", "A", "**A**", "What?", "What", ".NET", "NET", "\u00df", "ss", "\ufb01", "fi", "\u2460", "1"],
        ["yes.", "yes", "Yes", "no"],
        ["good", "good enough", "very good", "\u597d", "\u597d\u4eba"],
        ["1,234", "1234", "1.234"],
        ["foo", "\u200cfoo", "fo\u00ado"],
    ],
)
def test_different_labels_of_one_file_stay_different(golds: list[str]):
    """What normalising would make equal is compared as it is written, and that is told; all else is as before."""
    assert swapped("label", golds) == []
    assert len(get_scorer("label", golds=golds).notes) == (0 if "good" in golds else 1)
    assert get_scorer("label", golds=[*golds, "Maybe"])("maybe. I think", "Maybe").correct


@pytest.mark.parametrize(
    "golds",
    [
        [["The Who"], ["Who"], ["WHO", "World Health Organization"]],
        [["US", "U.S."], ["us"], ["it"]],
        [["5%"], ["-5"], ["$5"], ["1,5"], ["15"]],
    ],
)
def test_different_answers_of_one_file_stay_different(golds: list[list[str]]):
    assert swapped("any_of", golds) == []


def test_answers_of_one_row_and_white_space_are_no_difference():
    """Ways to write one answer do not make a file strict."""
    score = get_scorer("any_of", golds=[["US", "U.S.", "the us"], ["New  York"], ["New York"]])
    assert score.notes == [] and score("in the u.s. senate", ["US", "U.S.", "the us"]).correct


@pytest.mark.parametrize("gold", ["Paris; Lyon", "Paris | Lyon", "Paris\nLyon", "Paris / Lyon", "['Paris', 'Lyon']"])
def test_a_text_that_may_list_several_answers_is_refused(gold: str, raises):
    """It would be read as one, which no output has; a JSON list says what is meant."""
    with raises("not_json" if gold.startswith("[") else "gold_lists_several", quoted(gold), "JSON list"):
        get_scorer("any_of")("Paris", gold)
    assert get_scorer("any_of")("Paris; Lyon", [gold]).decided


def test_a_label_that_lists_labels_is_refused(raises):
    """A list, or a text all parts of which are labels of the file; `black/white` alone is a name."""
    golds = ["sports", "politics", "sports; politics", "black/white"]
    score = get_scorer("label", golds=golds)
    for gold in ("sports; politics", '["sports", "politics"]', "['sports']"):
        with raises("gold_lists_several", quoted(gold)):
            score("sports", gold)
    assert score("Black/white", "black/white").correct
    assert not score("sports; politics", "politics").correct


def test_a_label_without_a_word_is_refused(raises):
    with raises("gold_without_words", "'...'"):
        get_scorer("label")("...", "...")


def test_words_keep_what_belongs_to_a_number_and_lose_what_is_decoration():
    """The signs that decide whether two answers are one."""
    assert normalised_words("end.Next -- well-known \u00abno\u00bb 0.5 .5 1990-1995 dogs' \u2460") == [
        *("end", "next", "well", "known", "no", "0.5", ".5", "1990", "1995", "dogs", "1")
    ]


def test_a_verdict_that_is_not_decided_is_never_correct():
    """It cannot even be made."""
    with pytest.raises(AssertionError):
        Verdict(True, "who knows", decided=False)
