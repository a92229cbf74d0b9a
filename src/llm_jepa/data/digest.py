"""Hashes of the data of a run: of its encoded rows, and of its files."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path

from llm_jepa.files import hash_file
from llm_jepa.objective.pair import Pair

from .sources import local_files, local_path, root_of


def bytes_of(pair: Pair) -> bytes:
    """Return everything of a pair that training reads. A field that it does not have changes nothing."""
    parts = (pair.text_ids, pair.bridge_ids, pair.code_ids, pair.other_code_ids or ())
    ids = b"".join(array("q", [len(part), *part]).tobytes() for part in parts)
    own = {
        "text_view": pair.text_view_ids,
        "code_view": pair.code_view_ids,
        "use_jepa": None if pair.use_jepa else False,
        "use_ce": None if pair.use_ce else False,
        "group": pair.group,
    }
    said = "".join(f"{name} {value!r}\n" for name, value in own.items() if value is not None)
    return ids + said.encode("utf-8", "surrogatepass")


def digest_rows(pairs: Sequence[Pair]) -> str:
    """Return the sha256 of all rows, by which two runs train on the same tokens. Rows that stay on disk have it."""
    known = getattr(pairs, "sha256", None)
    if known is not None:
        return known
    sha256 = hashlib.sha256()
    for pair in pairs:
        sha256.update(bytes_of(pair))
    return sha256.hexdigest()


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
