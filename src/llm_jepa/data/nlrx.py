r"""Made-up pairs of a description and its regex, in the manner of NL-RX.

A synchronous grammar writes both views at once: each rule has an English side and a regex side over the same
parts, so one tree reads as a description and as the regex that it describes. The idea, the operators and the
phrasing follow NL-RX-SYNTH (Locascio et al., 2016, "Neural Generation of Regular Expressions from Natural
Language with Minimal Domain Knowledge", arXiv 1608.03000); the grammar is our own. It serves demos and tests,
which then need no download.

The regexes are written in NL-RX's notation: that of Python's `re`, plus `a&b` (both match) and `~a` (a does not
match).

A description determines its regex. English alone would not: "a vowel or a letter before a number" can be
grouped in two ways. The grammar allows one, by what binds tighter, tightest first:

    followed by                      two terms
    or, and, either                  a list of two or three of the above
    at least once, 2 or more times   the whole list before it
    containing, starting, ending     the list after it, with its count
    words                            the same, or what "containing", "starting" or "ending" says
    not                              all of the above that comes after it
    before                           splits the line into two of the above; at most once
    and, or                          joins two statements about the line; at most once, never with "before"

Each rule has a second English side, colloquial, which says it as people ask for lines and not as SYNTH does ("find all
lines that have a vowel in them"): the same trees, the same regexes, other words. So a tree gives a pair of phrasings
too, which needs no regex. A colloquial description has one regex as well: counts and lists bind as above, and a second
statement follows "and also" or "or else".

People mix the two. With `colloquial_share` 0.5 half of the descriptions have a colloquial frame ("lines which begin
with %s", not "lines starting with %s"), and half of what fills a frame is colloquial ("vowels", not "a vowel").

"and" and "or" join statements where "containing", "starting", "ending" or "not" comes next, and make a list
otherwise. A reader may well group a line differently ("words with a vowel and ending with a letter": here the line
ends with a letter, not the word); the rows themselves are consistent. The other way round there is a choice:
a regex can have several descriptions ("lines with", "lines having").

What differs from SYNTH: operands of "|", "&" and other loose operators always stand in parentheses, where SYNTH
now and then leaves a pair out and the regex says something else; a string is drawn at random, where in SYNTH the
first one of a row is always 'dog'; and no row occurs twice. As in SYNTH, no term occurs twice in one row, and a
regex may match nothing at all ("a vowel and a number").
"""

from __future__ import annotations

import random
from bisect import bisect
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import accumulate, islice
from pathlib import Path

from llm_jepa.errors import ConfigError
from llm_jepa.files import write_json_lines

from .config import PHRASINGS

# All but 15 of the 8,000 training rows of NL-RX-SYNTH have four terms or less.
MAX_TERMS = 4

# Three deep by default, as SYNTH goes: a "before" of a counted list, or of a list with a "followed by" in it.
MAX_DEPTH = 3

# So many draws in a row without a new pair mean that the language has none left, or so few that we give up.
MAX_MISSES = 10_000


@dataclass(frozen=True)
class GeneratedPair:
    """One generated row.

    Attributes:
        text: The description, such as "lines ending with a vowel".
        code: Its regex, such as "(.*)([AEIOUaeiou])".
    """

    text: str
    code: str


@dataclass(frozen=True)
class GeneratedViews:
    """One generated pair of views, without a label.

    Attributes:
        text: The plain description, such as "lines ending with a vowel".
        paraphrase: A colloquial one of the same regex, such as "find all lines that end in a vowel".
    """

    text: str
    paraphrase: str


@dataclass(frozen=True)
class Rule:
    """One way to write a symbol of the grammar, in both languages.

    `%s` marks a part. The parts stand in the same order on both sides.

    Attributes:
        english: Phrasings that mean the same, equally likely.
        colloquial: The same as people say it, equally likely.
        regex: The regex side; "%s" alone adds nothing to its part.
        parts: The symbol of each part; none for a word of the language.
        weight: How often the rule is drawn, against the other rules of its symbol.
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

    Args:
        english: The plain phrasings.
        regex: The regex side.
        parts: The symbol of each part.
        weight: How often it is drawn.
        said: The colloquial phrasings. Default: the plain ones.
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

# What fills the frame of a sentence. The frame is said in one way throughout: "lines not ending with", or "lines that
# do not end in", and nothing in between.
FILLERS = frozenset({"counted", "list", "item", "term", "number"})

# Added to the seed of the colloquial words: they are drawn apart, so that the trees are those of the plain pairs.
COLLOQUIAL_STREAM = 2**64


@dataclass(frozen=True)
class Node:
    """A tree of the grammar: it reads as English and as a regex.

    Attributes:
        symbol: The symbol that the tree writes, a key of `GRAMMAR`.
        rule: The rule that it is written by.
        phrasing: Which of the rule's phrasings.
        parts: A tree for each part of the rule.
    """

    symbol: str
    rule: Rule
    phrasing: int = 0
    parts: tuple[Node, ...] = ()

    @property
    def english(self) -> str:
        """The description."""
        return self.rule.english[self.phrasing] % tuple(part.english for part in self.parts)

    def say(self, rng: random.Random, share: float = 1.0) -> str:
        """Return the description as people say it, in words drawn at random; asks `rng` for `random()` alone.

        Args:
            rng: Where the words are drawn from.
            share: Probability of colloquial words, for the frame as one and for each thing that fills it.
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
        """Operators on the longest way down; a lone term has 0."""
        return self.rule.is_operator + max((part.depth for part in self.parts), default=0)

    @property
    def terms(self) -> tuple[str, ...]:
        """The regexes of the terms, from left to right, which is the same in both views."""
        if self.symbol == "term":
            return (self.regex,)
        return tuple(term for part in self.parts for term in part.terms)


def _chance(rng: random.Random, probability: float) -> bool:
    """Return True with a probability; what is certain asks `rng` for nothing."""
    return probability >= 1 or rng.random() < probability


def _grow(symbol: str, rng: random.Random) -> Node:
    """Draw a tree for `symbol`, top down.

    The only thing asked of `rng` is `random()`: Python promises the same numbers for the same seed in every
    version for it, and not for `choice` and its like.
    """
    rules = GRAMMAR[symbol]
    totals = list(accumulate(rule.weight for rule in rules))
    rule = rules[bisect(totals, rng.random() * totals[-1])]
    phrasing = int(rng.random() * len(rule.english))
    return Node(symbol, rule, phrasing, tuple(_grow(part, rng) for part in rule.parts))


def _draw(rng: random.Random, max_depth: int, excluded: Collection[str]) -> Iterator[Node]:
    """Yield trees with no regex of `excluded`, until `MAX_MISSES` draws in a row bring no new one.

    No plain description comes twice, which keeps the rows apart and each description to one regex.
    """
    texts: set[str] = set()
    misses = 0
    while misses < MAX_MISSES:
        misses += 1
        tree = _grow("line", rng)
        terms = tree.terms
        if tree.depth > max_depth or len(terms) > MAX_TERMS or len(set(terms)) < len(terms):
            continue
        text = tree.english
        if text in texts or tree.regex in excluded:
            continue
        texts.add(text)
        misses = 0
        yield tree


def _take(trees: Iterator[Node], number: int, name: str, limits: str) -> list[Node]:
    taken = list(islice(trees, number))
    if len(taken) < number:
        raise ConfigError(
            f"{name} is {number:,}, but with {limits} only {len(taken):,} different pairs were found. "
            f"Ask for fewer, or loosen these limits."
        )
    return taken


def _phrase(trees: Iterable[Node], phrasing: str, seed: int, share: float) -> list[GeneratedPair]:
    """Return trees as pairs in one phrasing; colloquial words are drawn from a stream of their own."""
    if phrasing == "plain":
        return [GeneratedPair(tree.english, tree.regex) for tree in trees]
    rng = random.Random(COLLOQUIAL_STREAM + seed)
    return [GeneratedPair(tree.say(rng, share), tree.regex) for tree in trees]


def _phrase_twice(trees: Iterable[Node], seed: int, share: float) -> list[GeneratedViews]:
    rng = random.Random(COLLOQUIAL_STREAM + seed)
    return [GeneratedViews(tree.english, tree.say(rng, share)) for tree in trees]


def generate_pairs(
    num_pairs: int,
    seed: int,
    *,
    max_depth: int = MAX_DEPTH,
    exclude_codes: Collection[str] = (),
    phrasing: str = "plain",
    colloquial_share: float = 1.0,
) -> list[GeneratedPair]:
    """Return pairs of a description and its regex, no two of them with the same description.

    The same arguments give the same pairs on every machine. More pairs from the same seed begin with the same
    rows.

    Args:
        num_pairs: How many.
        seed: Seed of the random numbers, 0 or more.
        max_depth: Most operators on any way from the line down to a term; 0 gives lines with a single term.
        exclude_codes: Regexes that must not occur, such as those of a test file.
        phrasing: `plain`, in the manner of SYNTH, or `colloquial`: the same regexes in the same order, as people ask
            for them. Two rows that differ in plain words alone may then be one.
        colloquial_share: How much of a colloquial description is colloquial, above 0 and at most 1 (all of it); the
            rest is plain.

    Returns:
        `num_pairs` pairs, in the order in which they were drawn. A regex may occur under several descriptions,
        a description has one regex.

    Raises:
        ConfigError: If `phrasing` is neither, `colloquial_share` is out of range, `num_pairs`, `seed` or `max_depth` is
            negative, or so many different pairs cannot be found. It is a `ValueError`.

    Example:
        >>> for pair in generate_pairs(2, seed=4):
        ...     print(f"{pair.text}  ->  {pair.code}")
        lines with a letter and the string 'truck', 6 or more times  ->  (([A-Za-z])&(truck)){6,}
        lines not having a vowel followed by the string 'ring'  ->  ~([AEIOUaeiou].*ring.*)
    """
    _check_phrasing(phrasing, colloquial_share)
    _check_not_negative(num_pairs=num_pairs, seed=seed, max_depth=max_depth)
    excluded = frozenset(exclude_codes)
    trees = _draw(random.Random(seed), max_depth, excluded)
    limits = f"max_depth={max_depth} and {len(excluded):,} excluded regexes"
    return _phrase(_take(trees, num_pairs, "num_pairs", limits), phrasing, seed, colloquial_share)


def generate_views(num_pairs: int, seed: int, *, colloquial_share: float = 1.0) -> list[GeneratedViews]:
    """Return view pairs: the descriptions of `generate_pairs(num_pairs, seed)` in both phrasings, without regexes.

    Args:
        num_pairs: How many.
        seed: Seed of the random numbers, 0 or more.
        colloquial_share: As in `generate_pairs`.

    Raises:
        ConfigError: As `generate_pairs`.
    """
    _check_phrasing("colloquial", colloquial_share)
    _check_not_negative(num_pairs=num_pairs, seed=seed)
    trees = _draw(random.Random(seed), MAX_DEPTH, frozenset())
    return _phrase_twice(_take(trees, num_pairs, "num_pairs", f"max_depth={MAX_DEPTH}"), seed, colloquial_share)


def generate_splits(num_train: int, num_test: int, seed: int) -> tuple[list[GeneratedPair], list[GeneratedPair]]:
    """Return train pairs and test pairs that share no regex.

    The test pairs are drawn first and are `generate_pairs(num_test, seed)`: a fair sample of the language, which
    stays the same when `num_train` grows. Drawn second, they would lack the short regexes, most of which a large
    training set holds.

    Different strings count as different regexes: "a or b" can be in train and "b or a" in test.

    Args:
        num_train: How many training pairs.
        num_test: How many test pairs.
        seed: Seed of the random numbers, 0 or more.

    Returns:
        The training pairs and the test pairs.

    Raises:
        ConfigError: If a number is negative, or so many different pairs cannot be found. It is a `ValueError`.
    """
    made = generate_transfer(num_train, 0, num_test, seed)
    return made["train"], made["test"]  # type: ignore[return-value]


def generate_transfer(
    num_train: int,
    num_views: int,
    num_test: int,
    seed: int,
    *,
    test_phrasing: str = "plain",
    num_validation: int = 0,
    colloquial_share: float = 1.0,
) -> dict[str, list[GeneratedPair] | list[GeneratedViews]]:
    """Return labelled rows, view pairs, test and validation rows, of which no two kinds share a regex.

    A model that has read labels for plain descriptions alone is then asked in colloquial words, which it has met in the
    view pairs, without a regex. The test rows are drawn first, then those for validation; without the latter, train and
    test rows are those of `generate_splits`.

    Args:
        num_train: How many labelled rows, plainly phrased.
        num_views: How many view pairs, a plain and a colloquial phrasing of one regex.
        num_test: How many test rows.
        seed: Seed of the random numbers, 0 or more.
        test_phrasing: `plain` or `colloquial`, of the rows for validation too.
        num_validation: How many rows to make choices on, phrased like the test rows.
        colloquial_share: As in `generate_pairs`, of view pairs, test and validation rows.

    Returns:
        The rows under the names `train`, `views`, `test` and `validation`.

    Raises:
        ConfigError: If a number is negative, `test_phrasing` is neither, `colloquial_share` is out of range, or so many
            different pairs cannot be found.
    """
    _check_phrasing(test_phrasing, colloquial_share)
    _check_not_negative(
        num_train=num_train, num_views=num_views, num_test=num_test, num_validation=num_validation, seed=seed
    )
    rng = random.Random(seed)
    test = _take(_draw(rng, MAX_DEPTH, frozenset()), num_test, "num_test", f"max_depth={MAX_DEPTH}")
    codes = {tree.regex for tree in test}
    limits = f"max_depth={MAX_DEPTH} and {num_test:,} test pairs"
    validation = _take(_draw(rng, MAX_DEPTH, codes), num_validation, "num_validation", limits) if num_validation else []
    codes |= {tree.regex for tree in validation}
    train = _take(_draw(rng, MAX_DEPTH, codes), num_train, "num_train", limits)
    codes |= {tree.regex for tree in train}
    limits += f" and {num_train:,} training pairs"
    views = _take(_draw(rng, MAX_DEPTH, codes), num_views, "num_views", limits)
    return {
        "train": _phrase(train, "plain", seed, colloquial_share),
        "views": _phrase_twice(views, seed, colloquial_share),
        "test": _phrase(test, test_phrasing, seed, colloquial_share),
        "validation": _phrase(validation, test_phrasing, seed, colloquial_share),
    }


def write_jsonl(pairs: Iterable[GeneratedPair | GeneratedViews], path: Path) -> None:
    """Write one `{"text": ..., "code": ...}` (or `paraphrase`, of view pairs) object per line, UTF-8.

    The file is written beside its name and renamed into place, so that nobody ever reads half of it, and an
    older file stays as it was if the writing fails.

    Args:
        pairs: The rows, in order.
        path: The file. Its folder must exist.

    Raises:
        OSError: If the file cannot be written.
    """
    write_json_lines(path, (asdict(pair) for pair in pairs))


def _check_not_negative(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 0:
            raise ConfigError(f"{name} is {number}, expected 0 or more.")


def _check_phrasing(phrasing: str, colloquial_share: float) -> None:
    if phrasing not in PHRASINGS:
        raise ConfigError(f"phrasing={phrasing!r} is not one of: {', '.join(PHRASINGS)}.")
    if not 0 < colloquial_share <= 1:
        raise ConfigError(f"colloquial_share={colloquial_share} must be above 0 and at most 1.")
