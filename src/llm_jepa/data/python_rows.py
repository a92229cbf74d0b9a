"""Encodes rows that are in memory already (a Hugging Face dataset, for example) as rows of a file are encoded."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from llm_jepa.errors import DataError
from llm_jepa.objective.pair import Pair

from .encode import PairEncoder
from .encoded_pairs import encode_examples
from .rows import keep_readable

logger = logging.getLogger(__name__)


def encode_rows(rows: Iterable[Mapping[str, Any]], encoder: PairEncoder, name: str = "rows") -> list[Pair]:
    """Encode rows of prompt and completion, messages, text and code, or text alone, as rows of a file are encoded.

    Args:
        rows: A `datasets.Dataset`, or any mappings of column to value. All have the same form.
        encoder: The encoder; its `DataConfig` says what happens to rows that are too long, empty or broken.
        name: What the rows are called in messages: `name:17` is the 17th.

    Raises:
        DataError: If a row cannot be used and its policy is `error`, or no row is left.
    """
    numbered = ((f"{name}:{number}", dict(row)) for number, row in enumerate(rows, start=1))
    read = keep_readable(numbered, encoder.config, name)
    encoded = encode_examples(read.examples, encoder, encoder.config)
    if encoded.dropped:
        logger.warning(
            "%s: %d of %d rows left out: %s",
            name,
            sum(encoded.dropped.values()),
            encoded.rows_in,
            ", ".join(f"{reason} {count}" for reason, count in encoded.dropped.items()),
        )
    if encoded.truncated:
        logger.warning("%s: %d rows cut to %d tokens", name, encoded.truncated, encoder.config.max_length)
    if not len(encoded):
        text = f"{name}: all of its {encoded.rows_in} rows are left out. Expected at least one."
        raise DataError("no_rows_left", text)
    return list(encoded.pairs)
