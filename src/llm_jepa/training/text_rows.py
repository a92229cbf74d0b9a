"""Turns what users of transformers have, a plain model and rows of text, into what the trainer takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from llm_jepa.data.config import DataConfig
from llm_jepa.data.encode import PairEncoder
from llm_jepa.data.encoded_pairs import encode_rows, longest_part
from llm_jepa.errors import ConfigError
from llm_jepa.objective import LLMJEPA, JEPAConfig, Pair

from .models import check_model_fits
from .sanity_checks import check_rows

AnyRows = Sequence[Pair] | Sequence[Mapping[str, Any]]
"""What a trainer takes: pairs; or rows with columns, in a list or a `datasets.Dataset`."""


def under_objective(model: LLMJEPA | nn.Module, config: JEPAConfig | None, seed: int) -> LLMJEPA:
    """Return the model under its objective: unchanged if it has one, else under `config`, by default that of the paper.

    It is a ConfigError if the model has an objective already, and `config` is another.
    """
    if not isinstance(model, LLMJEPA):
        return LLMJEPA(model, config or JEPAConfig(), seed=seed)
    if config is not None and config != model.config:
        text = "jepa_config differs from the objective that the model has. Give only one of them."
        raise ConfigError("settings_conflict", text)
    return model


class TextRows:
    """Encodes those data sets of a trainer that are rows of text; data sets of pairs stay as they are.

    Without a tokenizer, rows of text are refused. `config` says what happens to rows that cannot be used as they are.
    """

    def __init__(self, jepa: LLMJEPA, tokenizer: PreTrainedTokenizerBase | None, config: DataConfig | None) -> None:
        self.jepa, self.tokenizer, self.config = jepa, tokenizer, config
        self.encoder: PairEncoder | None = None  # until there are rows of text

    def pairs(self, name: str, rows: Any) -> Sequence[Pair]:
        """Return pairs, or a `datasets.Dataset` or list of rows with columns, as pairs; `name` is for messages.

        It is a ConfigError if they are neither, or the model has too few tokens or positions for them, and a DataError
        if a row cannot be used.
        """
        if self.tokenizer is None or not _are_texts(rows):
            check_rows(name, rows)
            return rows
        if self.encoder is None:
            objective = self.jepa.config
            self.encoder = PairEncoder(self.tokenizer, self.config, objective.jepa_split, objective.jepa_views)
        pairs = encode_rows(rows, self.encoder, name)
        longest = max(map(longest_part, pairs))
        check_model_fits(self.jepa.model, self.tokenizer, max_length=longest, jepa_k=self.jepa.config.jepa_k)
        return pairs


def _are_texts(rows: Any) -> bool:
    """Whether these are rows with columns, of a known number."""
    try:
        return len(rows) > 0 and isinstance(rows[0], Mapping)
    except (TypeError, KeyError, IndexError):  # a dict of splits, or a stream
        return False
