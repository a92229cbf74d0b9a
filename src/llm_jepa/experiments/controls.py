"""Controls: arms that take away the one thing under test and leave all the rest."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Hashable, Sequence

from llm_jepa.objective import Pair


def shuffle_code_views(pairs: Sequence[Pair], seed: int) -> list[Pair]:
    """Give each pair, for the JEPA term only, the code view of another pair.

    Rows, labels and order stay as they are, so cross-entropy trains on the very same tokens; only the match
    between the views is broken. No pair gets a view equal to its own, as long as none is on more than half of
    the rows. Pairs without a JEPA term (`use_jepa`) give nothing and get nothing.

    Args:
        pairs: The training pairs.
        seed: Seed of the exchange, which stays the same in every epoch.

    Raises:
        ValueError: If fewer than two different code views are there to exchange.
    """
    places = [place for place, pair in enumerate(pairs) if pair.use_jepa]
    codes = [[*pairs[place].code_view, pairs[place].code_ids[-1]] for place in places]
    shuffled = list(pairs)
    for row, other in enumerate(exchange(codes, seed)):
        place = places[row]
        shuffled[place] = dataclasses.replace(pairs[place], other_code_ids=codes[other])
    return shuffled


def exchange(codes: Sequence[Sequence], seed: int) -> list[int]:
    """Return, for each code, the number of the one that takes its place: never an equal one, where that can be.

    Raises:
        ValueError: If fewer than two different codes are there.
    """
    sizes: Counter[Hashable] = Counter(map(tuple, codes))
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
