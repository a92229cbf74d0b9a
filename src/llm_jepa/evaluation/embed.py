"""One side of many pairs as vectors: what `embed` writes, and what `retrieve` searches.

Letters: N pairs, C hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from llm_jepa.errors import ConfigError
from llm_jepa.files import put_in_place, staged_beside
from llm_jepa.objective import LLMJEPA, Pair
from llm_jepa.progress import Progress
from llm_jepa.training.view_embeddings import view_embeddings


def embed_side(
    jepa: LLMJEPA, pairs: Sequence[Pair], pad_id: int, side: str, *, batch_size: int = 128, progress: bool = False
) -> Tensor:
    """Return the text's or the code's side of each pair, as the distance compares them: (N, C), float32, on the CPU.

    Pairs without a JEPA term are embedded too. `side` is "text" or "code"; `batch_size` counts the pairs of a forward;
    `progress` is `bar` of `Progress`.
    """
    parts = []
    with Progress("embed", len(pairs), "rows", bar=progress) as shown:
        for first in range(0, len(pairs), batch_size):
            batch = [replace(pair, use_jepa=True) for pair in pairs[first : first + batch_size]]
            views = view_embeddings(jepa, batch, pad_id, batch_size=batch_size)
            parts.append(views.text_pred if side == "text" else views.code_emb)
            shown.advance(len(batch))
    return torch.cat(parts) if parts else torch.empty(0, 0)


def check_out(out: Path, *, force: bool) -> None:
    """Refuse, before any work, a file whose name does not end in .parquet or .npy, or that exists already."""
    if out.suffix not in (".parquet", ".npy"):
        raise ConfigError("wrong_ending", f"--out {out}: expected a name that ends in .parquet or .npy.")
    if out.is_dir() or (out.exists() and not force):
        raise ConfigError("file_exists", f"{out} exists already. Choose another name, or write over it with --force.")


def write_embeddings(out: Path, embeddings: Tensor, sources: Sequence[str], texts: Sequence[str]) -> None:
    """Write embeddings, (N, C), to a file, either whole or not at all.

    `.npy` holds only the numbers; `.parquet` has the columns `source` (file and row), `text` and `embedding`.
    """
    numbers = embeddings.numpy()
    out.parent.mkdir(parents=True, exist_ok=True)
    with staged_beside(out.resolve()) as staged:
        if out.suffix == ".npy":
            with staged.open("wb") as file:
                np.save(file, numbers)
        else:
            import pyarrow
            import pyarrow.parquet

            vectors = pyarrow.FixedSizeListArray.from_arrays(numbers.ravel(), numbers.shape[1])
            table = pyarrow.table({"source": list(sources), "text": list(texts), "embedding": vectors})
            pyarrow.parquet.write_table(table, staged)
        put_in_place(staged, out.resolve())
