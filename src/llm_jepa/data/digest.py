"""Hashes of the data of a run: of its encoded rows, and of its files."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path

from llm_jepa.files import hash_file
from llm_jepa.objective.pair import Pair

from .sources import local_files, local_path, root_of


class PairsDigest:
    """The hash of encoded rows: two runs with the same hash train on the same tokens.

    Pairs are added one at a time, in order. A field that no pair has (such as views of its own) does not change it.
    """

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def add(self, pair: Pair) -> None:
        """Add everything of a pair that training reads."""
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


def digest_rows(pairs: Sequence[Pair]) -> str:
    """Return the sha256 of everything that training reads of the rows. Rows that stay on disk have it (`sha256`)."""
    known = getattr(pairs, "sha256", None)
    if known is not None:
        return known
    digest = PairsDigest()
    for pair in pairs:
        digest.add(pair)
    return digest.hexdigest()


def data_fingerprint(files: Iterable[str | None]) -> dict[str, str]:
    """Return the sha256 of each local file, to find out later whether the data changed.

    The hash of a folder, or of a pattern, covers the names and contents of all its files. None, and names that are not
    on this disk (data sets of the hub), are left out.
    """
    return {name: _hash_files(name, found) for name in files if name is not None and (found := local_files(name))}


def _hash_files(name: str, files: Sequence[Path]) -> str:
    if files == [local_path(name)]:
        return hash_file(files[0])
    whole = hashlib.sha256()
    for file in files:
        shown = file.relative_to(root_of(local_path(name)))
        whole.update(f"{shown.as_posix()}\0{hash_file(file)}\n".encode())
    return whole.hexdigest()
