"""The shuffled control: the JEPA term on views that do not belong together, and all the rest as it was."""

from __future__ import annotations

import dataclasses
import random
from array import array
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

from llm_jepa.objective import Pair

from .encoded_pairs import row_lengths
from .lazy_rows import LazySequence


def shuffle_code_views(pairs: Sequence[Pair], seed: int) -> Sequence[Pair]:
    """Give each pair, for the JEPA term only, the code view of another pair.

    Rows, labels and order stay as they are, so cross-entropy trains on the very same tokens; only the match
    between the views is broken (`exchange`). No pair gets a view equal to its own, as long as none is on more than
    half of the rows; `about_exchange` counts the rest. Pairs without a JEPA term (`use_jepa`) give nothing and get
    nothing.

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
    keys = [view.tobytes() for view in views]
    others = {place: views[other] for place, other in zip(places, exchange(keys, seed), strict=True)}
    shuffled = ShuffledPairs(pairs, others)
    return list(shuffled) if isinstance(pairs, list) else shuffled


@dataclasses.dataclass(eq=False, repr=False)
class ShuffledPairs(LazySequence[Pair]):
    """Pairs with the code views of others, made when they are asked for.

    Args:
        pairs: The pairs.
        others: The code view that a pair gets, with an end token after it, by the pair's place.
    """

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
    """Return a random derangement: for each code, the number of the one that takes its place, never an equal one.

    A random permutation, in which every code that met its equal is then swapped with a partner drawn at random among
    those where both get another code. Nothing of a code, its beginning or its length tells which one takes its place.
    Where more than half of the codes are equal some must keep their equal: as few as can be.

    Args:
        codes: Anything that can be compared and hashed; equal ones count as one code.
        seed: Of the draw.

    Raises:
        ValueError: If fewer than two different codes are there.
    """
    sizes = Counter(codes)
    if len(sizes) < 2:
        raise ValueError("shuffle_views needs pairs of at least two different codes: there is nothing to exchange.")
    rng = random.Random(seed)
    others = list(range(len(codes)))
    rng.shuffle(others)
    met = [row for row, other in enumerate(others) if codes[row] == codes[other]]
    num_met = Counter(codes[row] for row in met)
    for row in met:
        code = codes[row]
        if codes[others[row]] != code:
            continue  # it was the partner of an earlier swap
        # Rows of another code that got another code: those that this row can be swapped with.
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
"""Share of pairs of rows with equal codes from which the exchange is reported to be weak (our choice)."""


def about_exchange(pairs: Sequence[Pair], shuffled: Sequence[Pair], rows: str) -> list[str]:
    """Return what weakens an exchange: rows that keep their code, codes that repeat, rows that stay in their group.

    Args:
        pairs: The pairs before the exchange.
        shuffled: The pairs after it.
        rows: What they are, for the sentences ("training rows").
    """
    sizes: Counter[tuple[int, ...]] = Counter()
    groups: dict[tuple[int, ...], set[str | None]] = {}
    for pair in pairs:
        if pair.use_jepa:
            sizes[tuple(pair.code_view)] += 1
            groups.setdefault(tuple(pair.code_view), set()).add(pair.group)
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
            "own, so with few codes the text says something of it, and the control is not free of a match."
        )
    if in_group > REPEATED * total:
        notes.append(
            f"shuffle_views: {in_group:,} of {total:,} {rows} ({in_group / total:.1%}) get a code of their own group."
        )
    return notes
