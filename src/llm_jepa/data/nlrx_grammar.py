r"""The grammar of made-up descriptions and their regexes, in the manner of NL-RX.

Each rule has an English side and a regex side over the same parts, so one tree can be read as a description and as its
regex. The idea, the operators and the phrasing follow NL-RX-SYNTH (Locascio et al., 2016, arXiv 1608.03000); the
grammar is our own. Regexes are in NL-RX's notation: Python's `re`, plus `a&b` (both match) and `~a` (a does not match).

A description determines its regex. English alone would not: "a vowel or a letter before a number" can be grouped in
two ways. The grammar allows one, by precedence, highest first:

    followed by                      two terms
    or, and, either                  a list of two or three of the above
    at least once, 2 or more times   the whole list before it
    containing, starting, ending     the list after it, with its count
    words                            the same, or what "containing", "starting" or "ending" says
    not                              all of the above that comes after it
    before                           splits the line into two of the above; at most once
    and, or                          joins two statements about the line; at most once, never with "before"

Each rule has a second, colloquial English side, phrased like a request by people ("find all lines that have a vowel in
them"): the same trees, the same regexes, other words. Such a description has one regex too: counts and lists have the
precedence above, and a second statement follows "and also" or "or else". With `colloquial_share` 0.5, half of the
descriptions have a colloquial frame ("lines which begin with %s", not "lines starting with %s"), and half of what fills
a frame is colloquial ("vowels", not "a vowel").

"and" and "or" join statements where "containing", "starting", "ending" or "not" comes next, and make a list
otherwise. A reader may group a line differently ("words with a vowel and ending with a letter": here the line
ends with a letter, not the word), but the rows are consistent.

What differs from SYNTH: operands of "|", "&" and other loose operators are always in parentheses (SYNTH sometimes
leaves them out, and then the regex means something else); a string is drawn at random (in SYNTH the first one of a row
is always 'dog'); and no row occurs twice. As in SYNTH, no term occurs twice in one row, and a regex may match nothing
at all ("a vowel and a number").
"""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """One way to write a symbol of the grammar. `%s` marks a part; the parts are in the same order on all sides.

    Attributes:
        english: Phrasings that mean the same, equally likely.
        colloquial: Colloquial phrasings of the same, equally likely.
        regex: The regex side; "%s" alone adds nothing to its part.
        parts: The symbol of each part; none for a word of the language.
        weight: How often the rule is drawn, relative to the other rules of its symbol.
    """

    english: tuple[str, ...]
    colloquial: tuple[str, ...]
    regex: str
    parts: tuple[str, ...] = ()
    weight: float = 1.0

    @property
    def is_operator(self) -> bool:
        """Whether the rule adds something to its parts, and so counts for the depth of a tree."""
        return bool(self.parts) and self.regex != "%s"


def _rule(english: str, regex: str, *parts: str, weight: float = 1.0, said: str = "") -> Rule:
    """Return a `Rule`; its phrasings are separated by " / ", so that the grammar reads as a table.

    `said` are the colloquial phrasings; by default the plain ones.
    """
    return Rule(tuple(english.split(" / ")), tuple((said or english).split(" / ")), regex, parts, weight)


# The weights are our choice: with them the lengths, the number of terms and the share of each operator come near
# those of the 8,000 training rows of NL-RX-SYNTH (compared in tests/data/test_nlrx.py): the median description has
# 69 characters against 66, the median regex 28 against 25.
GRAMMAR: dict[str, tuple[Rule, ...]] = {
    "line": (
        _rule(
            *("lines %s", "%s", "statement"),
            weight=8,
            said="find all lines %s / show me the lines %s / lines %s / any line %s / I want the lines %s / items %s",
        ),
        _rule(
            *("lines containing only %s", "%s", "phrase"),
            weight=0.5,
            said="lines made of nothing but %s / lines where all there is is %s",
        ),
        _rule(
            *("lines %s before %s", "(%s).*(%s).*", "statement", "object"),
            weight=9,
            said="lines %s somewhere before %s / find all lines %s and then later %s / "
            "show me the lines %s, with %s coming afterwards / items %s ahead of %s",
        ),
        _rule(
            *("lines %s and %s", "(%s)&(%s)", "statement", "claim"),
            weight=0.5,
            said="lines %s and also %s / find all lines %s and that also %s",
        ),
        _rule(
            *("lines %s or %s", "(%s)|(%s)", "statement", "claim"),
            weight=0.5,
            said="lines %s or else %s / show me the lines %s, or else ones that %s",
        ),
    ),
    "statement": (
        _rule(
            *("with %s / having %s", "%s", "phrase"),
            weight=6,
            said="that have %s in them / where there is %s / which have got %s / with %s in it",
        ),
        _rule("%s", "%s", "claim", weight=4, said="that %s / which %s"),
    ),
    "object": (
        _rule("%s", "%s", "phrase", weight=8),
        _rule("%s", "%s", "claim", weight=1, said="a part to %s"),
    ),
    "claim": (
        _rule("%s", "%s", "place", weight=7),
        _rule("not having %s", "~(%s)", "phrase", weight=3, said="do not have %s / don't have %s in them / lack %s"),
        _rule("not %s", "~(%s)", "place", said="do not %s / never %s"),
    ),
    "place": (
        _rule("containing %s", ".*(%s).*", "counted", said="contain %s / include %s / hold %s"),
        _rule("starting with %s", "(%s)(.*)", "counted", said="start with %s / begin with %s / open with %s"),
        _rule("ending with %s", "(.*)(%s)", "counted", said="end in %s / end with %s / finish with %s"),
    ),
    "phrase": (
        _rule("%s", "%s", "counted", weight=8),
        _rule("words with %s", r"\b(%s)\b", "counted", weight=1.5, said="words that have %s / a word with %s"),
        _rule("words %s", r"\b(%s)\b", "place", weight=0.5, said="words that %s"),
    ),
    "counted": (
        _rule("%s", "%s", "list", weight=13),
        _rule("%s at least once", "(%s)+", "list", said="one or more of %s / %s one or more times"),
        _rule("%s, zero or more times", "(%s)*", "list", said="any number of %s / %s however often"),
        _rule(
            *("%s, %s or more times", "(%s){%s,}", "list", "number"),
            weight=2,
            said="%s at least %s times / %s no fewer than %s times / %s %s times or more",
        ),
    ),
    "list": (
        _rule("%s", "%s", "item", weight=7),
        _rule("%s or %s", "(%s)|(%s)", "item", "item", weight=2, said="%s or %s / either %s or %s"),
        _rule("%s and %s", "(%s)&(%s)", "item", "item", weight=1.5, said="%s and %s / both %s and %s / %s plus %s"),
        _rule(
            "either %s, %s, or %s", "(%s)|(%s)|(%s)", "item", "item", "item", said="%s, %s or %s / any of %s, %s, %s"
        ),
        _rule("%s, %s, and %s", "(%s)&(%s)&(%s)", "item", "item", "item", said="%s, %s and %s / all of %s, %s, %s"),
    ),
    "item": (
        _rule("%s", "%s", "term", weight=8),
        _rule(
            *("%s followed by %s", "%s.*%s.*", "term", "term"),
            weight=1.2,
            said="%s followed by %s / %s then %s / %s with %s after it",
        ),
    ),
    "term": (
        _rule("a number", "[0-9]", said="a digit / a number / any digit / numbers"),
        _rule("a letter", "[A-Za-z]", said="a letter / any letter / letters"),
        _rule("a capital letter", "[A-Z]", said="a capital / an uppercase letter / a capital letter"),
        _rule("a lower-case letter", "[a-z]", said="a lowercase letter / a small letter / lower case letters"),
        _rule("a vowel", "[AEIOUaeiou]", said="a vowel / any vowel / vowels"),
        _rule("a character", ".", said="a character / any character / some character"),
        # Together about a third of the terms, as in SYNTH.
        _rule("the string 'dog'", "dog", weight=0.7, said="'dog' / the word 'dog' / dog"),
        _rule("the string 'truck'", "truck", weight=0.7, said="'truck' / the word 'truck' / truck"),
        _rule("the string 'ring'", "ring", weight=0.7, said="'ring' / the word 'ring' / ring"),
        _rule("the string 'lake'", "lake", weight=0.7, said="'lake' / the word 'lake' / lake"),
    ),
    "number": tuple(
        _rule(str(n), str(n), said=f"{word} / {n}")
        for n, word in enumerate(("two", "three", "four", "five", "six", "seven"), start=2)
    ),
}

# The symbols that fill the frame of a sentence. A frame is all plain ("lines not ending with") or all colloquial
# ("lines that do not end in").
FILLERS = frozenset({"counted", "list", "item", "term", "number"})


@dataclass(frozen=True)
class Node:
    """A tree: `rule` writes `symbol` in its plain phrasing number `phrasing`, with a tree for each part."""

    symbol: str
    rule: Rule
    phrasing: int = 0
    parts: tuple[Node, ...] = ()

    @property
    def english(self) -> str:
        """The description."""
        return self.rule.english[self.phrasing] % tuple(part.english for part in self.parts)

    def say(self, rng: random.Random, share: float = 1.0) -> str:
        """Return the colloquial description, in words drawn at random (with `rng.random()` only).

        `share` is the probability of colloquial words: for the whole frame, and for each symbol that fills it.
        """
        return self._say(rng, share, frame_is_colloquial=_chance(rng, share))

    def _say(self, rng: random.Random, share: float, frame_is_colloquial: bool) -> str:
        is_colloquial = _chance(rng, share) if self.symbol in FILLERS else frame_is_colloquial
        said = self.rule.colloquial
        phrasing = said[int(rng.random() * len(said))] if is_colloquial else self.rule.english[self.phrasing]
        return phrasing % tuple(part._say(rng, share, frame_is_colloquial) for part in self.parts)

    @property
    def regex(self) -> str:
        """The regex that the description describes."""
        return self.rule.regex % tuple(part.regex for part in self.parts)

    @property
    def depth(self) -> int:
        """The number of operators on the longest path down the tree; a single term has 0."""
        return self.rule.is_operator + max((part.depth for part in self.parts), default=0)

    @property
    def terms(self) -> tuple[str, ...]:
        """The regexes of the terms, from left to right; the order is the same in both views."""
        if self.symbol == "term":
            return (self.regex,)
        return tuple(term for part in self.parts for term in part.terms)


def _chance(rng: random.Random, probability: float) -> bool:
    """Return True with a probability. If it is 1, no random number is drawn."""
    return probability >= 1 or rng.random() < probability
