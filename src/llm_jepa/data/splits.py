"""Setting validation rows aside."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from llm_jepa.errors import DataError

from .checks import KEY_BYTES, KEY_DTYPE, pair_key
from .example import Example
from .lazy_rows import take


def split_validation(
    examples: Sequence[Example], size: int, seed: int = 0
) -> tuple[Sequence[Example], Sequence[Example]]:
    """Set `size` rows aside; return `(training rows, validation rows)`, each in the order of the file.

    Rows of one pair, and rows of one `group`, stay together, so no validation pair is ever trained on.
    Which pairs are chosen depends on the pairs alone: not on a run's seed, nor on the order of the rows. Adding rows
    to a file moves few others from one side to the other.

    Args:
        examples: Training rows.
        size: Rows to set aside; 0 sets none aside. Fewer are taken only where the rows of one pair, or of one
            group, would go over it.
        seed: Another seed chooses other pairs.

    Raises:
        DataError: If no row would be left for training.
    """
    if size == 0:
        return examples, []
    if size >= len(examples):
        raise DataError(
            f"validation_size={size} leaves no training row: {len(examples)} rows are left of the training "
            "file. Lower validation_size (0 sets no row aside), or give a validation_file."
        )
    ranks = _ranks(examples, seed)
    order = np.argsort(ranks, kind="stable")  # rows of one rank stay together
    borders = np.flatnonzero(ranks[order][1:] != ranks[order][:-1]) + 1
    is_chosen = np.zeros(len(examples), bool)
    num_chosen = 0
    for start, stop in pairwise([0, *borders.tolist(), len(examples)]):
        if num_chosen + stop - start <= size:
            is_chosen[order[start:stop]] = True
            num_chosen += stop - start
        if num_chosen == size:
            break
    kept, chosen = (np.flatnonzero(each).tolist() for each in (~is_chosen, is_chosen))
    return take(examples, kept), [examples[place] for place in chosen]


def _ranks(examples: Sequence[Example], seed: int) -> np.ndarray:
    """Return 16 bytes a row, equal for rows that stay together; in their order rows are chosen."""
    # A hash ranks the pairs as a shuffle would, but each pair by itself, whatever the other rows are.
    ranks = bytearray()
    groups: dict[int, str] = {}
    for place, example in enumerate(examples):
        ranks += _hash((seed, pair_key(example)))
        if example.group is not None:
            groups[place] = example.group
    of_pairs = np.frombuffer(ranks, KEY_DTYPE)
    return _join_groups(of_pairs, groups, seed) if groups else of_pairs


def _join_groups(ranks: np.ndarray, groups: dict[int, str], seed: int) -> np.ndarray:
    """Give rows that share a pair or a group, or are linked by rows that do, the rank of one of their groups."""
    parent: dict[bytes, bytes] = {}

    def root(name: bytes) -> bytes:
        while (above := parent.setdefault(name, name)) != name:
            parent[name] = parent.setdefault(above, above)
            name = above
        return name

    rank_of = {group: _hash((seed, "group", group)) for group in groups.values()}
    for place, group in groups.items():
        parent[root(ranks[place])] = root(rank_of[group])
    return np.array([root(rank) for rank in ranks.tolist()], KEY_DTYPE)


def _hash(key: object) -> bytes:
    return hashlib.blake2b(repr(key).encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()
