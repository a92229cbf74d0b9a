"""The shuffled control: the JEPA term on views that do not belong together. Everything else is unchanged."""

from __future__ import annotations

import dataclasses
import random
from array import array
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence

from llm_jepa.errors import DataError
from llm_jepa.objective import Pair

from .encoded_pairs import row_lengths
from .lazy_rows import LazySequence


def shuffle_code_views(pairs: Sequence[Pair], seed: int) -> Sequence[Pair]:
    """Give each pair, for the JEPA term only, the code view of another pair (`exchange`).

    Rows, labels and order stay the same, so cross-entropy trains on exactly the same tokens. Pairs without a JEPA term
    (`use_jepa`) take no part.

    If the pairs stay on disk, their code views are kept in memory, four bytes per token. The exchange is the same in
    every epoch.

    Raises:
        DataError: If there are fewer than two different code views.
    """
    places, views = array("q"), []
    for place, pair in enumerate(pairs):
        if pair.use_jepa:
            places.append(place)
            views.append(array("i", [*pair.code_view, pair.code_ids[-1]]))
    keys = [view.tobytes() for view in views]
    others = {place: views[other] for place, other in zip(places, exchange(keys, seed), strict=True)}
    shuffled = ShuffledPairs(pairs, others)
    return list(shuffled) if isinstance(pairs, list) else shuffled


@dataclasses.dataclass(eq=False, repr=False)
class ShuffledPairs(LazySequence[Pair]):
    """Pairs with the code views of `others`, by the place of a pair, which have an end token after them."""

    pairs: Sequence[Pair]
    others: Mapping[int, array]

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of each pair's row."""
        return row_lengths(self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def _make(self, place: int) -> Pair:
        pair, other = self.pairs[place], self.others.get(place)
        return pair if other is None else dataclasses.replace(pair, other_code_ids=other.tolist())


def exchange(codes: Sequence[Hashable], seed: int) -> list[int]:
    """Return a random derangement: for each code, the number of the code that replaces it, never an equal one.

    It is a random permutation. Each code that was replaced by an equal one is then swapped with a random partner, so
    that both get a different code. Nothing in a code, such as its beginning or its length, shows which one replaces it.
    If more than half of the codes are equal, some must be replaced by an equal one: as few as possible.

    Raises:
        DataError: If there are fewer than two different codes.
    """
    sizes = Counter(codes)
    if len(sizes) < 2:
        raise DataError("codes_all_equal", "shuffle_views needs at least two different codes, or nothing can change.")
    rng = random.Random(seed)
    others = list(range(len(codes)))
    rng.shuffle(others)
    met = [row for row, other in enumerate(others) if codes[row] == codes[other]]
    num_met = Counter(codes[row] for row in met)
    for row in met:
        code = codes[row]
        if codes[others[row]] != code:
            continue  # it was the partner of an earlier swap
        # This row can be swapped with rows that have another code and got another code. If there are none, it stays.
        if len(codes) - 2 * sizes[code] + num_met[code] <= 0:
            continue
        partner = row
        while code in (codes[partner], codes[others[partner]]):
            partner = rng.randrange(len(codes))
        num_met[codes[partner]] -= codes[partner] == codes[others[partner]]
        num_met[code] -= 1
        others[row], others[partner] = others[partner], others[row]
    return others


REPEATED = 0.02
"""The exchange is reported as weak if more than this share of all pairs of rows have equal codes (our choice)."""


def about_exchange(pairs: Sequence[Pair], shuffled: Sequence[Pair], rows: str) -> list[str]:
    """Return what weakens an exchange: rows that keep their code, repeated codes, rows that stay in their group.

    Messages call the pairs `rows`, such as "training rows".
    """
    sizes: Counter[tuple[int, ...]] = Counter()
    groups = defaultdict[tuple[int, ...], set[str | None]](set)
    for pair in pairs:
        if pair.use_jepa:
            sizes[tuple(pair.code_view)] += 1
            groups[tuple(pair.code_view)].add(pair.group)
    kept = in_group = 0
    for one, two in zip(pairs, shuffled, strict=True):
        if one.use_jepa:
            kept += one.code_view == two.code_view
            in_group += one.group is not None and groups[tuple(two.code_view)] == {one.group}
    total = sizes.total()
    equal = sum(size**2 for size in sizes.values()) / total**2
    notes = []
    if kept:
        notes.append(
            f"shuffle_views: {kept:,} of {total:,} {rows} ({kept / total:.1%}) keep a code equal to their own, because "
            "more than half of the rows have that code. The control still has a match there."
        )
    elif equal > REPEATED:
        notes.append(
            f"shuffle_views: two {rows} have equal codes in {equal:.0%} of cases. Each row gets a code that is not its "
            "own. With few codes, the text then says something about that code, so the control still has some match."
        )
    if in_group > REPEATED * total:
        notes.append(
            f"shuffle_views: {in_group:,} of {total:,} {rows} ({in_group / total:.1%}) get a code of their own group."
        )
    return notes
