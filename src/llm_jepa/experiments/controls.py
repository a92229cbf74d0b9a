"""Controls: arms that take away the one thing under test and leave all the rest."""

from __future__ import annotations

import dataclasses
import random
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import overload

from llm_jepa.data.digest import PairsDigest
from llm_jepa.data.pairs import row_lengths
from llm_jepa.objective import Pair


def shuffle_code_views(pairs: Sequence[Pair], seed: int) -> Sequence[Pair]:
    """Give each pair, for the JEPA term only, the code view of another pair.

    Rows, labels and order stay as they are, so cross-entropy trains on the very same tokens; only the match
    between the views is broken. No pair gets a view equal to its own, as long as none is on more than half of
    the rows. Pairs without a JEPA term (`use_jepa`) give nothing and get nothing.

    Args:
        pairs: The training pairs. Of pairs that stay on disk, the code views are kept in memory, four bytes a token.
        seed: Seed of the exchange, which stays the same in every epoch.

    Raises:
        ValueError: If fewer than two different code views are there to exchange.
    """
    places, views = array("q"), []
    for place, pair in enumerate(pairs):
        if pair.use_jepa:
            places.append(place)
            views.append(array("i", [*pair.code_view, pair.code_ids[-1]]))
    others = {place: views[other] for place, other in zip(places, exchange(views, seed), strict=True)}
    shuffled = ShuffledPairs(pairs, others)
    return list(shuffled) if isinstance(pairs, list) else shuffled


class ShuffledPairs(Sequence[Pair]):
    """Pairs with the code views of others, made when they are asked for.

    Args:
        pairs: The pairs.
        others: The code view that a pair gets, with an end token after it, by the pair's place.
    """

    def __init__(self, pairs: Sequence[Pair], others: Mapping[int, array]) -> None:
        self.pairs = pairs
        self.others = others
        self.lengths = row_lengths(pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    @overload
    def __getitem__(self, place: int) -> Pair: ...

    @overload
    def __getitem__(self, place: slice) -> list[Pair]: ...

    def __getitem__(self, place: int | slice) -> Pair | list[Pair]:
        if isinstance(place, slice):
            return [self[each] for each in range(len(self))[place]]
        pair, other = self.pairs[place], self.others.get(place % len(self))
        return pair if other is None else dataclasses.replace(pair, other_code_ids=other.tolist())

    @cached_property
    def sha256(self) -> str:
        """Hash of all pairs; takes a pass over them, once."""
        digest = PairsDigest()
        for pair in self:
            digest.add(pair)
        return digest.hexdigest()


def exchange(codes: Sequence[array], seed: int) -> list[int]:
    """Return, for each code, the number of the one that takes its place: never an equal one, where that can be.

    Raises:
        ValueError: If fewer than two different codes are there.
    """
    sizes = Counter(code.tobytes() for code in codes)
    if len(sizes) < 2:
        raise ValueError("shuffle_views needs pairs of at least two different codes: there is nothing to exchange.")
    order = list(range(len(codes)))
    rng = random.Random(seed)
    rng.shuffle(order)
    order.sort(key=lambda row: codes[row])  # equal codes side by side, in shuffled order among themselves
    # Shifted by the size of the largest group, no row meets its own code (a group of over half would).
    largest = max(sizes.values())
    shift = rng.randint(largest, max(len(codes) - largest, largest))
    others = [0] * len(codes)
    for place, row in enumerate(order):
        others[row] = order[(place + shift) % len(order)]
    return others
