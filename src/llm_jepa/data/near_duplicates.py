"""Texts that are nearly equal, found by MinHash (Broder, 1997).

The library `datasketch` finds candidates; each is then compared exactly. So the time grows with the number of rows,
not with the number of pairs of rows.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from llm_jepa.progress import tracked

LEAST_SIMILARITY = 0.8
"""Texts with at least this Jaccard similarity of their shingles are nearly equal. Our choice: about one word in ten
differs."""

SHINGLE = 5  # characters
MOST_ROWS = 50_000
"""So many rows of a file are compared, from its start; about 0.5 ms each."""

INSTALL = "There was no search for near-duplicates. It needs: `pip install 'llm-jepa[near]'`."


def can_find_near() -> bool:
    """Whether the library is installed."""
    return importlib.util.find_spec("datasketch") is not None


def find_near(train: Sequence[str], test: Sequence[str]) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return the places of training texts that are near an earlier one, and of test texts near a training text.

    Each comes with the first place of such a text. Equal texts do not count; the caller normalises the texts.
    """
    from datasketch import MinHash, MinHashLSH

    # 16 bands of 8 hashes: the candidates include 95% of the texts at similarity 0.8, and over 99% from 0.85 on.
    index, known = MinHashLSH(num_perm=128, params=(16, 8)), dict[str, int]()
    in_train: list[tuple[int, int]] = []
    in_test: list[tuple[int, int]] = []
    for texts, found, is_train in ((train, in_train, True), (test, in_test, False)):
        for place, text in enumerate(tracked(texts, "near", "rows")):
            shingles, minhash = _shingles(text), MinHash(num_perm=128)
            minhash.update_batch([shingle.encode("utf-8", "surrogatepass") for shingle in shingles])
            candidates = sorted((known[other], other) for other in index.query(minhash) if other != text)
            similar = (where for where, other in candidates if _similar(shingles, _shingles(other)))
            if (first := next(similar, None)) is not None:
                found.append((place, first))
            if is_train and text not in known:
                known[text] = place
                index.insert(text, minhash)
    return in_train, in_test


def _shingles(text: str) -> set[str]:
    return {text[start : start + SHINGLE] for start in range(max(1, len(text) - SHINGLE + 1))}


def _similar(one: set[str], other: set[str]) -> bool:
    return len(one & other) >= LEAST_SIMILARITY * len(one | other)
