r"""Regexes are compared by what they match, against a matcher that is as simple as it is slow.

The slow matcher below reads the same notation by recursive descent and takes regexes for what they say: a set of
(start, end) spans of a string. It shares no line with the automata.
"""

from __future__ import annotations

import itertools
import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest

from llm_jepa.evaluation.scorers import get_scorer
from llm_jepa.evaluation.scorers.regex import automata
from llm_jepa.evaluation.scorers.regex.automata import BudgetError
from llm_jepa.evaluation.scorers.regex.regexes import RegexSyntaxError, difference, parse
from llm_jepa.evaluation.scorers.verdict import quoted


def matches(regex: str, line: str) -> bool:
    """Whether the line is one that the regex matches: the line alone, and the line where the regex matches it too."""
    alone = "".join(f"\\U{ord(char):08x}" for char in line)
    return difference(parse(alone), parse(f"(?:{alone})&(?:{regex})")) is None


SYNTH_TEST = Path(__file__).parents[3].parent / "shared" / "data" / "nlrx_synth_test.jsonl"

Spans = set[tuple[int, int]]


class SlowMatcher:
    """The spans of one string that a regex matches, by recursive descent and sets."""

    def __init__(self, regex: str, line: str) -> None:
        self.regex, self.line, self.at = regex, line, 0
        self.places = range(len(line) + 1)
        self.all = {(i, j) for i in self.places for j in self.places if i <= j}
        self.empty = {(i, i) for i in self.places}

    def matches(self) -> bool:
        spans = self.union()
        assert self.at == len(self.regex)
        return (0, len(self.line)) in spans

    def peek(self) -> str:
        return self.regex[self.at : self.at + 1]

    def take(self) -> str:
        self.at += 1
        return self.regex[self.at - 1]

    def union(self) -> Spans:
        spans = self.intersection()
        while self.peek() == "|":
            self.take()
            spans = spans | self.intersection()
        return spans

    def intersection(self) -> Spans:
        spans = self.sequence()
        while self.peek() == "&":
            self.take()
            spans = spans & self.sequence()
        return spans

    def sequence(self) -> Spans:
        spans = self.empty
        while self.peek() not in ("", "|", "&", ")"):
            spans = self.then(spans, self.repeated())
        return spans

    def then(self, first: Spans, second: Spans) -> Spans:
        return {(i, k) for i, j in first for start, k in second if start == j}

    def repeated(self) -> Spans:
        spans = self.negated()
        if found := re.match(r"\*|\+|\?|\{(\d*)(,?)(\d*)\}", self.regex[self.at :]):
            self.at += len(found[0])
            least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(found[0], (int(found[1] or 0), None))
            if found[0][0] == "{":
                most = (int(found[3]) if found[3] else None) if found[2] else least
            result, rounds = set(), self.empty
            # After as many rounds as the line has characters, more rounds add nothing but empty ones.
            for number in range((least + len(self.line) + 1 if most is None else most) + 1):
                result |= rounds if number >= least else set()
                rounds = self.then(rounds, spans)
            return result
        return spans

    def negated(self) -> Spans:
        if self.peek() == "~":
            self.take()
            return self.all - self.negated()
        return self.atom()

    def atom(self) -> Spans:
        char = self.take()
        if char == "(":
            spans = self.union()
            assert self.take() == ")"
            return spans
        if char == "[":
            end = self.regex.index("]", self.at)
            chars = self.regex[self.at : end]
            self.at = end + 1
            return self.of(lambda each: re.fullmatch(f"[{chars}]", each, re.ASCII))
        if char == ".":
            return self.of(lambda each: True)
        if char == "\\" and (kind := self.take()) == "b":
            return {(i, i) for i in self.places if self.is_word(i - 1) != self.is_word(i)}
        if char == "\\":
            return self.of(lambda each: re.fullmatch(f"\\{kind}", each, re.ASCII))
        return self.of(lambda each: each == char)

    def of(self, is_in) -> Spans:
        return {(i, i + 1) for i, each in enumerate(self.line) if is_in(each)}

    def is_word(self, place: int) -> bool:
        return 0 <= place < len(self.line) and bool(re.fullmatch(r"\w", self.line[place], re.ASCII))


def lines(chars: str, longest: int) -> list[str]:
    return ["".join(each) for size in range(longest + 1) for each in itertools.product(chars, repeat=size)]


def random_regex(rng: random.Random, depth: int) -> str:
    if depth == 0 or rng.random() < 0.2:
        return rng.choice(["a", "b", "ab", ".", "[ab]", "[^a]", "\\b", "\\w", "-", "()"])
    one, other = (random_regex(rng, depth - 1) for _ in range(2))
    form = rng.choice(
        [
            *("%s%s", "(%s)(%s)", "(%s)|(%s)", "(%s)&(%s)", "%s|%s", "%s&%s", "~(%s)", "~(%s)*", "~~(%s)", "(%s)*"),
            *("(%s)+", "(%s)?", "(%s){2}", "(%s){2,}", "(%s){1,3}", "(%s){,2}", ".*(%s).*", "(%s).*(%s)", "\\b(%s)\\b"),
        ]
    )
    return form % (one, other)[: form.count("%s")]


def test_each_random_regex_matches_what_the_slow_matcher_says():
    r"""100 regexes with `&`, `~` and `\b` in every place, each on 40 short lines."""
    rng, verdicts = random.Random(4), Counter()
    short = lines("ab-", 4)
    for _ in range(100):
        text = random_regex(rng, 3)
        for line in rng.sample(short, 40):
            expected = SlowMatcher(text, line).matches()
            assert matches(text, line) == expected, (text, line)
            verdicts[expected] += 1
    assert min(verdicts.values()) > 700  # both happen often


def test_two_random_regexes_are_equal_when_no_short_line_tells_them_apart():
    """Equal: no line up to 4 characters is in one alone. Different: the line that is named is."""
    rng, verdicts = random.Random(23), Counter()
    short = lines("ab-", 4)
    for number in range(500):
        one, other = random_regex(rng, number % 3), random_regex(rng, number % 2)
        found = difference(parse(one), parse(other))
        verdicts[found is None] += 1
        if found is None:
            told = [line for line in short if SlowMatcher(one, line).matches() != SlowMatcher(other, line).matches()]
            assert told == [], (one, other)
        else:
            assert SlowMatcher(one, found.line).matches() is found.is_of_first, (one, other, found)
            assert SlowMatcher(other, found.line).matches() is not found.is_of_first, (one, other, found)
    assert min(verdicts.values()) > 20


def test_without_negation_and_intersection_a_regex_matches_what_python_says():
    """The notation is that of `re`: the same text, read by both."""
    texts = [
        *("a|bc", "(?:ab)+?", "a{2,3}b{,2}", "a{,x}", "[]a]b", "[^]a]", "[a\\-c]", r"\.\*", r"\d+\s\w", r"\D\S\W"),
        *("^a$", "(^a|b)c", r"\Aab\Z", r"a\b-", r"a\Bb", r"\x61\u0062", r"\141?a", "(?P<x>a)b", "a(?#no)b", "{a}", "-"),
        *("[\\w-]+", "[a-]", "[b-c-]", "a{1}{", r"[\]\[]", "(|a)b", "()", r"\t|\n", r"a{2,}|-{1,1}", "[.]", "~?a?"),
    ]
    tried = 0
    for text in texts:
        if text == r"\141?a" or text.startswith("~"):  # an octal reference, and a sign that `re` takes for itself
            continue
        for line in [*lines("ab-", 3), "1 a", "c", "ac", "]", "]b", "[", ".*", "a{,x}", "{a}", "{", "a{", "\t", "é"]:
            assert matches(text, line) == bool(re.fullmatch(text, line, re.ASCII)), (text, line)
            tried += 1
    assert tried > 1000


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("~ab", "(~a)b"),  # ~ binds tighter than a sequence,
        ("~a*", "(~a)*"),  # and than a repeat,
        ("a|b&c", "a|(b&c)"),  # & tighter than |,
        ("ab&c*", "(ab)&(c*)"),  # and looser than a sequence
        ("~~a", "a"),
        (r"\&\~", "[&][~]"),
        ("~(.*)", "a&b"),  # no line at all
        (".*(a&b).*", "[0-9]&dog"),
        ("~(a&b)", ".*"),  # every line
        (r"\d", "[0-9]"),
        ("[A-Za-z]", "[A-Z]|[a-z]"),
        ("((a)|(b)){2,}", "[ab][ab][ab]*"),
        ("(dog.*){3,}", "dog.*dog.*dog.*"),
        (r".*\bdog\b.*", r"(.*\W)?dog(\W.*)?"),
        (r"~(.*\n.*)", ".*"),  # no line has a line feed
        (".*x.*&.*y.*", "(.*x.*y.*)|(.*y.*x.*)"),
    ],
)
def test_two_ways_to_write_one_regex_are_equal(one: str, other: str):
    assert difference(parse(one), parse(other)) is None


@pytest.mark.parametrize(
    "text",
    [
        *("(", "a)", "*a", "a**", "a{2}{3}", "a|*", "~", "a&~", "[a", "[b-a]", "[a-\\d]", "\\", "\\q", "\\x6", "(?"),
        *("a{3,2}", "(?P<a", "(?P<1>a)", "(?#", "\\U00110000", "~*", "(*)", "[]", "(?~a)"),
    ],
)
def test_what_is_no_regex_is_refused(text: str):
    with pytest.raises(RegexSyntaxError):
        parse(text)


@pytest.mark.parametrize(
    "text", ["(?=a)b", "a(?!b)", "(?<=a)b", "(a)\\1", "(?P=a)", "a++", "(?>a)", "(?i)a", "a{99999999999}", "a" * 20_001]
)
def test_a_regex_of_a_kind_that_is_not_compared_is_unknown_and_never_right(text: str, raises):
    """Not wrong, for it may well be right; the gold text itself must not be of that kind."""
    verdict = get_scorer("regex")(text, "a")
    assert not verdict.decided and not verdict.correct and verdict.reason.startswith("not decided: it ")
    with raises("gold_not_usable", quoted(text)):
        get_scorer("regex")("a", text)


def test_the_reason_names_a_line_that_tells_the_two_apart():
    score = get_scorer("regex")
    assert score(".*dog.*", ".*(dog).*") == score(" .*d(o)g.* ", ".*dog.*")
    assert score("[0-9]+", "[0-9]{2,}").reason == "matches what the gold regex does not: '0'"
    assert score("dog", ".*dog").reason == "does not match what the gold regex does: 'ddog'"
    assert score("(dog", "dog").reason == "not a regex: a group is not closed, at character 4: '(dog'"


def test_right_because_neither_matches_any_line_is_said():
    """Of SYNTH's test golds 312 of 2,000 match none: whoever reads the score must be able to count them."""
    verdict = get_scorer("regex")("a&b", "[0-9]&([a-z])")
    assert verdict.correct and verdict.reason == "matches no line at all, as the gold regex does"
    assert get_scorer("regex")("a|b", "[ab]").reason == "matches the same lines as the gold regex"


@pytest.mark.parametrize("output", ["", " ", "\n"])
def test_an_empty_output_is_wrong_even_where_the_gold_matches_the_empty_line(output: str):
    """`()` matches what an empty regex matches; a model that says nothing is not right for it."""
    assert get_scorer("regex")("a{0}", "()").correct
    assert get_scorer("regex")(output, "()").reason == "the output is empty"


@pytest.mark.skipif(not SYNTH_TEST.exists(), reason="NL-RX-SYNTH is not here")
def test_the_golds_of_synth_are_all_decided_against_themselves_and_their_neighbours():
    """4,000 comparisons: none unknown (0.1% is promised); what is said is checked on lines."""
    golds = [
        json.loads(line)["messages"][-1]["content"] for line in SYNTH_TEST.read_text(encoding="utf-8").splitlines()
    ]
    assert len(golds) == 2000
    parsed = [parse(gold) for gold in golds]
    rng, verdicts = random.Random(82), Counter()
    lines_of_synth = ["", "dog", "a", "A1", "dog 7", "ring", "truck lake", "e-E", "aaaaaaa", "dogtruck1", "1ringAdog"]
    for number, gold in enumerate(golds):
        respelled = parse(f"~(~((?:{gold})))&.*")
        assert difference(parsed[number], respelled) is None
        neighbour = (number + 1) % len(golds)
        try:
            found = difference(parsed[number], parsed[neighbour])
        except BudgetError:
            verdicts["unknown"] += 1
            continue
        verdicts["different" if found else "equal"] += 1
        if number % 16 == 0:
            line = found.line if found else rng.choice(lines_of_synth)
            one, other = (SlowMatcher(text, line).matches() for text in (gold, golds[neighbour]))
            assert (one, other) == ((found.is_of_first, not found.is_of_first) if found else (one, one)), gold
    assert verdicts["unknown"] <= 2  # 0.1%
    assert verdicts["different"] > 1900 and verdicts["equal"] > 20  # many golds match no line at all: those are equal


def test_a_wrong_rule_of_derivatives_is_noticed(monkeypatch):
    """Negative control: without the second half of a sequence's derivative, the slow matcher disagrees."""
    monkeypatch.setattr(automata.Automaton, "_empty_on", lambda self, node, before: 0)
    with pytest.raises(AssertionError):
        test_each_random_regex_matches_what_the_slow_matcher_says()
