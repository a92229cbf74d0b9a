"""Setting validation rows aside."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from llm_jepa.data.checks import PairKey, pair_key
from llm_jepa.data.formats import Example
from llm_jepa.errors import DataError


def split_validation(examples: Sequence[Example], size: int, seed: int = 0) -> tuple[list[Example], list[Example]]:
    """Set `size` rows aside; return `(training rows, validation rows)`, each in the order of the file.

    Rows of one pair stay together, so no validation pair is ever trained on. Which pairs are chosen depends
    on the pairs alone: not on a run's seed, nor on the order of the rows. Adding rows to a file moves few
    others from one side to the other.

    Args:
        examples: Training rows.
        size: Rows to set aside; 0 sets none aside. Fewer are taken only where the rows of one pair would
            go over it.
        seed: Another seed chooses other pairs.

    Raises:
        DataError: If no row would be left for training.
    """
    if size == 0:
        return list(examples), []
    if size >= len(examples):
        raise DataError(
            f"validation_size={size} leaves no training row: {len(examples)} rows are left of the training "
            "file. Lower validation_size (0 sets no row aside), or give a validation_file."
        )
    places_of: dict[PairKey, list[int]] = {}
    for place, example in enumerate(examples):
        places_of.setdefault(pair_key(example), []).append(place)
    chosen: set[int] = set()
    for key in sorted(places_of, key=lambda key: _rank(key, seed)):
        if len(chosen) + len(places_of[key]) <= size:
            chosen.update(places_of[key])
        if len(chosen) == size:
            break
    train = [example for place, example in enumerate(examples) if place not in chosen]
    return train, [examples[place] for place in sorted(chosen)]


def _rank(key: PairKey, seed: int) -> bytes:
    # A hash ranks the pairs as a shuffle would, but each pair by itself, whatever the other rows are.
    return hashlib.blake2b(repr((seed, key)).encode(), digest_size=16).digest()
