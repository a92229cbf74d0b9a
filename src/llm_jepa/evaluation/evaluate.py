"""A trained model on held-out rows: generated answers scored, and retrieval between the views."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from llm_jepa.data.formats import Example
from llm_jepa.data.pairs import EncodedPairs, PairEncoder
from llm_jepa.objective import LLMJEPA
from llm_jepa.training.embedding import first_of_each, view_embeddings

from .generation import generate_greedy
from .retrieval import retrieval_metrics
from .scorers import get_scorer


@dataclass
class EvaluationConfig:
    """How a trained model is scored.

    Raises:
        ValueError: If a number is out of range.
    """

    metric: str = field(
        default="exact_match",
        metadata={"help": "What answers are scored by, and arms compared on: exact_match or starts_with."},
    )
    max_new_tokens: int | None = field(
        default=None, metadata={"help": "Longest answer in tokens. Default: the longest training answer plus 16."}
    )
    generation_batch_size: int = field(default=256, metadata={"help": "Prompts that are answered at once."})
    validation_generations: int = field(
        default=100, metadata={"help": "Validation rows answered at each look during training; 0 for none."}
    )

    def __post_init__(self) -> None:
        if self.metric not in SCORERS:
            raise ValueError(f"metric={self.metric!r} is not one of: {', '.join(SCORERS)}.")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={self.max_new_tokens} must be at least 1.")
        if self.generation_batch_size < 1 or self.validation_generations < 0:
            raise ValueError("generation_batch_size must be at least 1, validation_generations at least 0.")


SCORERS = ("exact_match", "starts_with")  # both are always reported; `metric` says which one is compared


def answer(
    jepa: LLMJEPA, encoder: PairEncoder, examples: Sequence[Example], config: EvaluationConfig, **options: Any
) -> list[str]:
    """Return the model's greedy answer to each example; `config.max_new_tokens` must be set.

    Args:
        jepa: The model.
        encoder: Its encoder; generation starts at `encoder.encode_prompt(example)`.
        examples: The rows, N of them.
        config: How long an answer may be, and how many are made at once.
        options: Passed on to `generate_greedy`.
    """
    assert config.max_new_tokens is not None
    ids = generate_greedy(
        jepa.model,
        [encoder.encode_prompt(example) for example in examples],
        end_ids=encoder.end_ids,
        pad_id=encoder.pad_id,
        max_new_tokens=config.max_new_tokens,
        batch_size=config.generation_batch_size,
        **options,
    )
    return [encoder.decode_code(each) for each in ids]


def gold_answers(encoder: PairEncoder, rows: EncodedPairs) -> list[str]:
    """Return the right answer of each row: its code, or, for rows of one text, what its code view decodes to."""
    return [
        example.code if example.code is not None else encoder.decode_code(pair.code_ids)
        for example, pair in zip(rows.examples, rows.pairs, strict=True)
    ]


def score_generations(
    jepa: LLMJEPA, encoder: PairEncoder, rows: EncodedPairs, config: EvaluationConfig, **options: Any
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Answer each row and score it by every scorer.

    Returns:
        The metrics (shares of the rows, and counts of rows and of empty answers), and one record a row:
        source, text, gold, output, a bool for each scorer, and why the first one said no.
    """
    outputs = answer(jepa, encoder, rows.examples, config, **options)
    records = []
    for example, gold, output in zip(rows.examples, gold_answers(encoder, rows), outputs, strict=True):
        verdicts = {name: get_scorer(name)(output, gold) for name in SCORERS}
        record: dict[str, Any] = {"source": example.source, "text": example.text, "gold": gold, "output": output}
        record |= {name: verdict.correct for name, verdict in verdicts.items()}
        records.append(record | {"reason": verdicts[config.metric].reason})
    totals = Counter({name: sum(record[name] for record in records) for name in SCORERS})
    metrics: dict[str, Any] = {name: totals[name] / max(len(records), 1) for name in SCORERS}
    return metrics | {"num_rows": len(records), "num_empty": sum(not output for output in outputs)}, records


def score_retrieval(jepa: LLMJEPA, rows: EncodedPairs, pad_id: int) -> dict[str, float]:
    """Find each row's code among all distinct codes of the rows: Pred(Enc(Text)) against Enc(Code), by cosine."""
    views = view_embeddings(jepa, rows.pairs, pad_id)
    if not len(views.numbers):
        return {"recall@1": math.nan, "recall@10": math.nan, "mrr": math.nan, "num_queries": 0, "num_candidates": 0}
    candidates = views.code_emb[first_of_each(views.code_groups)]  # (number of distinct codes, C)
    return retrieval_metrics(views.text_pred, candidates, views.code_groups)


def evaluate(
    jepa: LLMJEPA, encoder: PairEncoder, rows: EncodedPairs, config: EvaluationConfig, **options: Any
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Score generated answers and retrieval; return the metrics and one record a row."""
    metrics, records = score_generations(jepa, encoder, rows, config, **options)
    return metrics | {"retrieval": score_retrieval(jepa, rows, encoder.pad_id)}, records
