"""Controls: arms that take away the one thing under test and leave all the rest."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

from llm_jepa.objective import Pair


def shuffle_code_views(pairs: Sequence[Pair], seed: int) -> list[Pair]:
    """Give each pair, for the JEPA term only, the code view of another pair.

    Rows, labels and order stay as they are, so cross-entropy trains on the very same tokens; only the match
    between the views is broken. No pair gets a code equal to its own, as long as no code is on more than half
    of the rows.

    Args:
        pairs: The training pairs.
        seed: Seed of the exchange, which stays the same in every epoch.

    Raises:
        ValueError: If fewer than two different codes are there to exchange.
    """
    codes = [pair.code_ids for pair in pairs]
    if len({tuple(code) for code in codes}) < 2:
        raise ValueError("shuffle_views needs pairs of at least two different codes: there is nothing to exchange.")
    order = list(range(len(pairs)))
    rng = random.Random(seed)
    rng.shuffle(order)
    order.sort(key=lambda row: codes[row])  # equal codes side by side, in shuffled order among themselves
    # Shifted by the size of the largest group, no row meets its own code (a group of over half would).
    largest = max(_group_sizes(codes).values())
    shift = rng.randint(largest, max(len(pairs) - largest, largest))
    shuffled = list(pairs)
    for place, row in enumerate(order):
        other = codes[order[(place + shift) % len(order)]]
        shuffled[row] = dataclasses.replace(pairs[row], other_code_ids=other)
    return shuffled


def _group_sizes(codes: Sequence[list[int]]) -> dict[tuple[int, ...], int]:
    sizes: dict[tuple[int, ...], int] = {}
    for code in codes:
        sizes[tuple(code)] = sizes.get(tuple(code), 0) + 1
    return sizes
