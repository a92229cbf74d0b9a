"""Controls: arms that take away the one thing under test and leave all the rest."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

from llm_jepa.objective import Pair


def shuffle_code_views(pairs: Sequence[Pair], seed: int) -> list[Pair]:
    """Give each pair that has a JEPA term, for that term only, the code view of another such pair.

    Rows, labels and order stay as they are, so cross-entropy trains on the very same tokens; only the match
    between the views is broken. No pair gets a code equal to its own, as long as no code is on more than half
    of the rows.

    Args:
        pairs: The training pairs.
        seed: Seed of the exchange, which stays the same in every epoch.

    Raises:
        ValueError: If fewer than two different codes are there to exchange.
    """
    with_views = [row for row, pair in enumerate(pairs) if pair.use_jepa]
    # What is exchanged is what Enc(Code) reads, so that is what must differ.
    codes = [pairs[row].code_ids if (view := pairs[row].code_view_ids) is None else view for row in with_views]
    if len({tuple(code) for code in codes}) < 2:
        raise ValueError("shuffle_views needs pairs of at least two different codes: there is nothing to exchange.")
    order = list(range(len(codes)))
    rng = random.Random(seed)
    rng.shuffle(order)
    order.sort(key=lambda row: codes[row])  # equal codes side by side, in shuffled order among themselves
    # Shifted by the size of the largest group, no row meets its own code (a group of over half would).
    largest = max(_group_sizes(codes).values())
    shift = rng.randint(largest, max(len(codes) - largest, largest))
    shuffled = list(pairs)
    for place, number in enumerate(order):
        row, other = with_views[number], pairs[with_views[order[(place + shift) % len(order)]]]
        shuffled[row] = dataclasses.replace(
            pairs[row], other_code_ids=other.code_ids, code_view_ids=other.code_view_ids
        )
    return shuffled


def _group_sizes(codes: Sequence[list[int]]) -> dict[tuple[int, ...], int]:
    sizes: dict[tuple[int, ...], int] = {}
    for code in codes:
        sizes[tuple(code)] = sizes.get(tuple(code), 0) + 1
    return sizes
