"""The hash of encoded rows: two runs with the same one train on the same tokens."""

from __future__ import annotations

import hashlib
from array import array

from llm_jepa.objective.pair import Pair


class PairsDigest:
    """Takes pairs in one at a time, in order; what none of them has (views of their own, say) changes nothing."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def add(self, pair: Pair) -> None:
        """Take in everything of a pair that training reads."""
        for ids in (pair.text_ids, pair.bridge_ids, pair.code_ids, pair.other_code_ids or ()):
            self._sha256.update(array("q", [len(ids), *ids]).tobytes())
        own = {
            "text_view": pair.text_view_ids,
            "code_view": pair.code_view_ids,
            "use_jepa": None if pair.use_jepa else False,
            "use_ce": None if pair.use_ce else False,
            "group": pair.group,
        }
        for name, value in own.items():
            if value is not None:
                self._sha256.update(f"{name} {value!r}\n".encode("utf-8", "surrogatepass"))

    def hexdigest(self) -> str:
        """Return the sha256 of all pairs so far."""
        return self._sha256.hexdigest()
