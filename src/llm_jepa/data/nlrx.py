"""Made-up pairs of a description and its regex, in the manner of NL-RX (`nlrx_grammar.py`): for demos and tests."""

from __future__ import annotations

import random
from bisect import bisect
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import accumulate

from llm_jepa.errors import ConfigError
from llm_jepa.progress import Progress

from .config import PHRASINGS
from .nlrx_grammar import GRAMMAR, Node

# All except 15 of the 8,000 training rows of NL-RX-SYNTH have four terms or less.
MAX_TERMS = 4
# As deep as in SYNTH: a "before" of a counted list, or of a list with a "followed by" in it.
MAX_DEPTH = 3
# After so many draws without a new pair, the language has none left, or so few that we give up.
MAX_MISSES = 10_000
# Added to the seed of the colloquial words. They have their own random numbers, so that the trees stay the same.
COLLOQUIAL_STREAM = 2**64


@dataclass(frozen=True)
class GeneratedPair:
    """One generated row: a description, such as "lines ending with a vowel", and its regex "(.*)([AEIOUaeiou])"."""

    text: str
    code: str


@dataclass(frozen=True)
class GeneratedViews:
    """A plain description, and a colloquial one of the same regex, such as "find all lines that end in a vowel"."""

    text: str
    paraphrase: str


def generate_pairs(
    num_pairs: int, seed: int, *, phrasing: str = "plain", colloquial_share: float = 1.0
) -> list[GeneratedPair]:
    """Return pairs of a description and its regex, no two of them with the same description.

    The same arguments give the same pairs on every machine. More pairs from the same seed begin with the same
    rows. A regex may occur under several descriptions; a description has one regex.

    Args:
        num_pairs: How many.
        seed: Seed of the random numbers, 0 or more.
        phrasing: `plain`, in the manner of SYNTH, or `colloquial`: the same regexes in the same order, as people ask
            for them. Rows with different plain words may then have the same text.
        colloquial_share: How much of a colloquial description is colloquial, above 0 and at most 1 (all of it); the
            rest is plain.

    Raises:
        ConfigError: If a value is out of range, or there are not enough different pairs.

    Example:
        >>> for pair in generate_pairs(2, seed=4):
        ...     print(f"{pair.text}  ->  {pair.code}")
        lines with a letter and the string 'truck', 6 or more times  ->  (([A-Za-z])&(truck)){6,}
        lines not having a vowel followed by the string 'ring'  ->  ~([AEIOUaeiou].*ring.*)
    """
    _check(phrasing, colloquial_share, num_pairs=num_pairs, seed=seed)
    return _phrase(_draw(random.Random(seed), num_pairs, "num_pairs"), phrasing, seed, colloquial_share)


def generate_views(num_pairs: int, seed: int, *, colloquial_share: float = 1.0) -> list[GeneratedViews]:
    """Return view pairs: the descriptions of `generate_pairs(num_pairs, seed)` in both phrasings, without regexes."""
    _check("colloquial", colloquial_share, num_pairs=num_pairs, seed=seed)
    return _phrase_twice(_draw(random.Random(seed), num_pairs, "num_pairs"), seed, colloquial_share)


def generate_splits(num_train: int, num_test: int, seed: int) -> tuple[list[GeneratedPair], list[GeneratedPair]]:
    """Return the train pairs and test pairs of `generate_transfer`, both in plain phrasing."""
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
    """Return labelled rows, view pairs, test and validation rows. No regex is in two of these kinds.

    A model that was trained on labels for plain descriptions only is then tested on colloquial words. It has read such
    words in the view pairs, without a regex. Different strings count as different regexes: "a or b" can be in train and
    "b or a" in test.

    The test rows are drawn first and are `generate_pairs(num_test, seed)`: a fair sample of the language, which stays
    the same when `num_train` grows. If they were drawn second, they would lack short regexes, because a large training
    set has most of those.

    Training rows are plain; test and validation rows are in `test_phrasing`. `colloquial_share` is that of
    `generate_pairs`.

    Returns:
        The rows under the names `train`, `views`, `test`, `validation`, and `test_plain` (the test rows in plain
        phrasing).

    Raises:
        ConfigError: If a value is out of range, or there are not enough different pairs.
    """
    numbers = {"num_train": num_train, "num_views": num_views, "num_test": num_test, "num_validation": num_validation}
    _check(test_phrasing, colloquial_share, **numbers, seed=seed)
    rng, codes = random.Random(seed), set[str]()
    trees: dict[str, list[Node]] = {}
    for name in ("test", "validation", "train", "views"):
        trees[name] = _draw(rng, numbers[f"num_{name}"], f"num_{name}", codes)
        codes |= {tree.regex for tree in trees[name]}
    return {
        "train": _phrase(trees["train"], "plain", seed, colloquial_share),
        "views": _phrase_twice(trees["views"], seed, colloquial_share),
        "test": _phrase(trees["test"], test_phrasing, seed, colloquial_share),
        "test_plain": _phrase(trees["test"], "plain", seed, colloquial_share),
        "validation": _phrase(trees["validation"], test_phrasing, seed, colloquial_share),
    }


def _grow(symbol: str, rng: random.Random) -> Node:
    """Draw a tree for `symbol`. Only `rng.random()` gives the same numbers in every version of Python."""
    rules = GRAMMAR[symbol]
    totals = list(accumulate(rule.weight for rule in rules))
    rule = rules[bisect(totals, rng.random() * totals[-1])]
    phrasing = int(rng.random() * len(rule.english))
    return Node(symbol, rule, phrasing, tuple(_grow(part, rng) for part in rule.parts))


def _draw(rng: random.Random, number: int, name: str, excluded: Collection[str] = ()) -> list[Node]:
    """Return trees without a regex of `excluded`, each with its own plain description, so that it has one regex."""
    drawn: dict[str, Node] = {}
    misses = 0
    with Progress("draw", number, "pairs") as shown:
        while len(drawn) < number:
            misses += 1
            if misses > MAX_MISSES:
                raise ConfigError(
                    "too_many_pairs",
                    f"{name} is {number:,}, but only {len(drawn):,} different pairs were found whose regex is in no "
                    "other file. Ask for fewer.",
                )
            tree = _grow("line", rng)
            terms = tree.terms
            is_simple = tree.depth <= MAX_DEPTH and len(terms) <= MAX_TERMS and len(set(terms)) == len(terms)
            if is_simple and tree.english not in drawn and tree.regex not in excluded:
                drawn[tree.english] = tree
                misses = 0
                shown.advance()
    return list(drawn.values())


def _phrase(trees: Iterable[Node], phrasing: str, seed: int, share: float) -> list[GeneratedPair]:
    if phrasing == "plain":
        return [GeneratedPair(tree.english, tree.regex) for tree in trees]
    rng = random.Random(COLLOQUIAL_STREAM + seed)
    return [GeneratedPair(tree.say(rng, share), tree.regex) for tree in trees]


def _phrase_twice(trees: Iterable[Node], seed: int, share: float) -> list[GeneratedViews]:
    rng = random.Random(COLLOQUIAL_STREAM + seed)
    return [GeneratedViews(tree.english, tree.say(rng, share)) for tree in trees]


def _check(phrasing: str, colloquial_share: float, **numbers: int) -> None:
    if phrasing not in PHRASINGS:
        raise ConfigError("value_not_allowed", f"phrasing={phrasing!r} is not one of: {', '.join(PHRASINGS)}.")
    if not 0 < colloquial_share <= 1:
        text = f"colloquial_share={colloquial_share} must be above 0 and at most 1."
        raise ConfigError("value_out_of_range", text)
    for name, number in numbers.items():
        if number < 0:
            raise ConfigError("value_out_of_range", f"{name} is {number}, expected 0 or more.")
