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


class NearTexts:
    """Texts in which a nearly equal one can be found. The caller normalises the texts."""

    def __init__(self) -> None:
        from datasketch import MinHash, MinHashLSH

        self._hash, self._num_hashes = MinHash, 128
        # 16 bands of 8 hashes: the candidates include 95% of the texts at similarity 0.8, and over 99% from 0.85 on.
        self._index = MinHashLSH(num_perm=self._num_hashes, params=(16, 8))
        self._places: dict[str, int] = {}

    def find(self, text: str, place: int | None = None) -> int | None:
        """Return the first place of a text that is nearly equal, and not equal, to this one; None without any.

        If `place` is given, the text is then added with this place.
        """
        minhash = self._hash(num_perm=self._num_hashes)
        shingles = _shingles(text)
        minhash.update_batch([shingle.encode("utf-8", "surrogatepass") for shingle in shingles])
        candidates = sorted((self._places[other], other) for other in self._index.query(minhash) if other != text)
        first = next((where for where, other in candidates if _similar(shingles, _shingles(other))), None)
        if place is not None and text not in self._places:
            self._places[text] = place
            self._index.insert(text, minhash)
        return first


def find_near(train: Sequence[str], test: Sequence[str]) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return the places of training texts that are near an earlier one, and of test texts near a training text.

    Each comes with the place of that other text. The first `MOST_ROWS` of each are compared.
    """
    known = NearTexts()
    in_train = [known.find(text, place) for place, text in enumerate(tracked(train[:MOST_ROWS], "near", "rows"))]
    in_test = [known.find(text) for text in tracked(test[:MOST_ROWS], "near", "rows")]
    both = [[(place, other) for place, other in enumerate(found) if other is not None] for found in (in_train, in_test)]
    return both[0], both[1]


def _shingles(text: str) -> set[str]:
    return {text[start : start + SHINGLE] for start in range(max(1, len(text) - SHINGLE + 1))}


def _similar(one: set[str], other: set[str]) -> bool:
    return len(one & other) >= LEAST_SIMILARITY * len(one | other)
