"""The embeddings of some held-out pairs, kept with a run, so that its geometry can be drawn without its model.

embeddings.safetensors of a run folder holds at most `MOST_PAIRS` pairs, as the objective compares them:

    text_pred, code_emb   (N, C), float32        code_groups   (N,), a number for each distinct code view
    metadata              `about`: JSON of the other fields of `StoredEmbeddings`

Its size is 8 N C bytes plus the texts: 0.5 MB for 128 features, 3.6 MB for 896. Letters: N pairs, C hidden size.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from llm_jepa.data.encode import PairEncoder
from llm_jepa.data.encoded_pairs import EncodedPairs
from llm_jepa.errors import DataError
from llm_jepa.files import put_in_place, staged_beside
from llm_jepa.objective import LLMJEPA, JEPAConfig
from llm_jepa.training.view_embeddings import view_embeddings

from .evaluate import view_texts

MOST_PAIRS = 500  # spread evenly over the rows: enough for a retrieval and a map (our choice)

VIEWS = {"enc": "Enc(Text), Enc(Code)", "pred": "Pred(Enc(Text)), Enc(Code)"}
"""The two sides that are compared: the encodings, or, if a [PRED] was trained, the prediction and its target."""


@dataclass
class StoredEmbeddings:
    """Both views of N pairs as vectors, and which pairs they are."""

    text_pred: Tensor  # (N, C), float32
    code_emb: Tensor  # (N, C), float32
    code_groups: Tensor  # a number for each distinct code view, (N,)
    side: str  # one of `VIEWS`
    views: str  # what the two sides are, in words
    split: str  # `test`, or `held-out view` for those of `views_file`
    file: str  # name of the rows' file
    num_rows: int  # rows of the split that have a JEPA term; the pairs are taken from these
    pairs: list[dict[str, str]]  # `source`, `text` and `code` of each pair, as its views encode it

    @classmethod
    def of(
        cls, jepa: LLMJEPA, encoder: PairEncoder, rows: EncodedPairs, split: str, file: str, most: int = MOST_PAIRS
    ) -> StoredEmbeddings | None:
        """Embed at most `most` held-out rows, in every process of a run; None if no row has a JEPA term."""
        places = [place for place, pair in enumerate(rows.pairs) if pair.use_jepa]
        if not places:
            return None
        spread = np.unique(np.linspace(0, len(places) - 1, min(most, len(places))).round().astype(int))
        chosen = [places[number] for number in spread]
        taken = EncodedPairs([rows.pairs[place] for place in chosen], [rows.examples[place] for place in chosen])
        views = view_embeddings(jepa, taken.pairs, encoder.pad_id)
        pairs = [
            {"source": example.source, "text": text, "code": code}
            for example, (text, code) in zip(taken.examples, view_texts(encoder, taken), strict=True)
        ]
        side = "pred" if has_prediction(jepa.config) else "enc"
        about = {"side": side, "views": words_for(side, jepa.config), "split": split, "file": Path(file).name}
        return cls(views.text_pred, views.code_emb, views.code_groups, **about, num_rows=len(places), pairs=pairs)

    def write(self, path: Path) -> None:
        """Write the embeddings to a file, either whole or not at all."""
        about = {key: getattr(self, key) for key in ("side", "views", "split", "file", "num_rows", "pairs")}
        tensors = {key: getattr(self, key).contiguous() for key in ("text_pred", "code_emb", "code_groups")}
        with staged_beside(path) as staged:
            # ASCII, because JSON may hold half of a surrogate pair, which UTF-8 cannot encode.
            staged.write_bytes(save(tensors, {"about": json.dumps(about)}))
            put_in_place(staged, path)

    @classmethod
    def read(cls, path: Path) -> StoredEmbeddings | None:
        """Return what a file holds, None if there is no file; a damaged file is a DataError."""
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                about: dict[str, Any] = json.loads(file.metadata()["about"])
                return cls(*(file.get_tensor(key) for key in ("text_pred", "code_emb", "code_groups")), **about)
        except (SafetensorError, TypeError, KeyError, ValueError) as error:
            text = f"{path} is damaged: {error}. Remove it; the report will then be without the geometry of this run."
            raise DataError("file_damaged", text) from error


def has_prediction(config: JEPAConfig) -> bool:
    """Whether runs of this objective train a [PRED], so that there is a Pred(Enc(Text)) as well."""
    return config.uses_views and config.jepa_k > 0


def words_for(side: str, config: JEPAConfig) -> str:
    """Return names for the text's and the code's side; they depend on which of the two predicts the other."""
    return "Enc(Text), Pred(Enc(Code))" if side == "pred" and config.jepa_direction == "code_to_text" else VIEWS[side]
