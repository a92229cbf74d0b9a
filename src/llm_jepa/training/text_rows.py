"""What a user of transformers has in hand, a plain model and rows of text, as the trainer takes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from llm_jepa.data.config import DataConfig
from llm_jepa.data.encode import PairEncoder
from llm_jepa.data.encoded_pairs import longest_part
from llm_jepa.data.python_rows import encode_rows
from llm_jepa.errors import ConfigError
from llm_jepa.objective import LLMJEPA, JEPAConfig, Pair

from .models import check_model_fits
from .sanity_checks import check_rows


def under_objective(model: LLMJEPA | nn.Module, config: JEPAConfig | None, seed: int) -> LLMJEPA:
    """Return the model under its objective: as it came, or under `config`, by default that of the paper.

    Raises:
        ConfigError: If the model has an objective, and `config` is another.
    """
    if not isinstance(model, LLMJEPA):
        return LLMJEPA(model, config or JEPAConfig(), seed=seed)
    if config is not None and config != model.config:
        raise ConfigError("jepa_config differs from the objective that the model has. Give one of the two.")
    return model


class TextRows:
    """Encodes the rows of text among a trainer's data sets; what is pairs already stays as it is.

    Args:
        jepa: The model that is to train on them.
        tokenizer: Its tokenizer; without one, rows of text are refused.
        config: How rows are read, and what happens to those that do not fit.

    Attributes:
        encoder: The encoder, once rows of text came by.
    """

    def __init__(self, jepa: LLMJEPA, tokenizer: PreTrainedTokenizerBase | None, config: DataConfig | None) -> None:
        self.jepa, self.tokenizer, self.config = jepa, tokenizer, config
        self.encoder: PairEncoder | None = None

    def pairs(self, name: str, rows: Any) -> Sequence[Pair]:
        """Return the rows as pairs.

        Args:
            name: What they are called in messages.
            rows: Pairs, or a `datasets.Dataset` or list of rows with columns.

        Raises:
            ConfigError: If they are neither, or the model has not the tokens or positions for them.
            DataError: If a row cannot be used.
        """
        if self.tokenizer is None or not _are_texts(rows):
            check_rows(name, rows)
            return rows
        if self.encoder is None:
            objective = self.jepa.config
            self.encoder = PairEncoder(self.tokenizer, self.config, objective.jepa_split, objective.jepa_views)
        pairs = encode_rows(rows, self.encoder, name)
        longest = max(map(longest_part, pairs)) + self.jepa.config.jepa_k
        check_model_fits(self.jepa.model, self.tokenizer, max_length=longest)
        return pairs


def _are_texts(rows: Any) -> bool:
    """Whether these are rows with columns, whose number is known."""
    try:
        return len(rows) > 0 and isinstance(rows[0], Mapping)
    except (TypeError, KeyError, IndexError):  # splits, or a stream
        return False
