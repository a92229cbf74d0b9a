"""Scores a trained model on held-out rows: by its generated answers, and by retrieval between the views."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from llm_jepa.data.encode import PairEncoder
from llm_jepa.data.encoded_pairs import EncodedPairs
from llm_jepa.data.example import Example
from llm_jepa.errors import ConfigError, DataError, nearest
from llm_jepa.fields import setting, setting_made_by
from llm_jepa.objective import LLMJEPA
from llm_jepa.training.sharding import whole_at_root
from llm_jepa.training.view_embeddings import first_of_each, view_embeddings

from .choices import ANSWER, choice_log_likelihoods, gold_choice, judge_choices, notation_of, row_choices
from .generation import generate_greedy
from .retrieval import retrieval_metrics
from .scorers import ALIASES, NAMES, OF_FILE, GoldError, Verdict, get_scorer

logger = logging.getLogger(__name__)

BY_LIKELIHOOD = ("choice", "choice_per_byte")
ALWAYS = tuple(ALIASES)  # always reported: exact_match, starts_with
SCORERS = (*ALWAYS, *(name for name in NAMES if name not in ALIASES.values()), *BY_LIKELIHOOD)
_NUM_SHOWN = 3  # rows without a usable gold answer that are shown in the log; the others are only counted


@dataclass
class EvaluationConfig:
    """How a trained model is scored."""

    metric: str = setting(
        "exact_match",
        "The scorer of the answers, by which arms are compared: exact_match, starts_with, regex, sql, "
        "number, any_of, label, choice or choice_per_byte (docs/scorers.md).",
    )
    max_new_tokens: int | None = setting(
        None, "Longest answer in tokens. Default: the longest training answer plus 16."
    )
    generation_batch_size: int = setting(256, "Prompts that are answered at once.")
    validation_generations: int = setting(
        100, "Validation rows answered at each evaluation during training; 0 for none."
    )
    scorers: list[str] = setting_made_by(
        list, "Other scorers to report with `metric`; exact_match and starts_with are reported in any case."
    )
    databases: str | None = setting(
        None,
        "For the scorer sql: one SQLite file, or the folder of the files that rows name in their column "
        "`database` or `db_id`.",
    )

    def __post_init__(self) -> None:
        for key, names in (("metric", [self.metric]), ("scorers", self.scorers)):
            for name in names:
                if name not in SCORERS:
                    known = f"{', '.join(SCORERS)}.{nearest(name, SCORERS)}"
                    raise ConfigError("unknown_scorer", f"{key}={getattr(self, key)!r} is not one of: {known}")
        if "sql" in self.reported and self.databases is None:
            text = (
                "The scorer sql needs databases, the folder of the SQLite files (--databases). Set it, or remove sql."
            )
            raise ConfigError("setting_missing", text)
        if "sql" not in self.reported and self.databases is not None:
            text = f"databases={self.databases!r} names files that only the scorer sql reads."
            hint = "Add sql (as metric or among scorers), or remove databases."
            raise ConfigError("setting_without_effect", f"{text} {hint}")
        for key, least in (("max_new_tokens", 1), ("generation_batch_size", 1), ("validation_generations", 0)):
            value = getattr(self, key)
            if value is not None and value < least:
                raise ConfigError("value_out_of_range", f"{key}={value} must be at least {least}.")

    @property
    def reported(self) -> tuple[str, ...]:
        """The scorers that every row is judged by, each once."""
        return tuple(dict.fromkeys((*ALWAYS, self.metric, *self.scorers)))


def answer(
    jepa: LLMJEPA, encoder: PairEncoder, examples: Sequence[Example], config: EvaluationConfig, **options: Any
) -> list[str]:
    """Return the model's greedy answer to each example, after the prompt `encoder.encode_prompt(example)`.

    `config.max_new_tokens` must be set; `options` are those of `generate_greedy`.
    """
    assert config.max_new_tokens is not None
    with whole_at_root(jepa):
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
    """Return the right answer of each row: its code, or, for rows of one text, the decoded text of its code view."""
    return [
        encoder.answer(example) if example.code is not None else encoder.decode_code(rows.pairs[place].code_ids)
        for place, example in enumerate(rows.examples)
    ]


def view_texts(encoder: PairEncoder, rows: EncodedPairs) -> list[tuple[str, str]]:
    """Return the text that each view of each row encodes: the row's `text_view` and `code_view`, else its pair."""
    return [
        (each.text if each.text_view is None else each.text_view, code if each.code_view is None else each.code_view)
        for each, code in zip(rows.examples, gold_answers(encoder, rows), strict=True)
    ]


Known = dict[str, Any]
"""What each scorer knows of all gold answers of a file: the scorer itself, or, for multiple choice, their notation."""


def know_golds(encoder: PairEncoder, rows: EncodedPairs, config: EvaluationConfig) -> Known:
    """Return what scorers must know of all gold answers of a file, to read none by guess and to keep all different."""
    names = [name for name in config.reported if name in OF_FILE or name in BY_LIKELIHOOD]
    pairs = list(zip(rows.examples, gold_answers(encoder, rows), strict=True)) if names else []
    return {
        name: _known_notation(pairs)
        if name in BY_LIKELIHOOD
        else get_scorer(name, golds=[_text_gold(name, example, gold) for example, gold in pairs])
        for name in names
    }


def _known_notation(pairs: Sequence[tuple[Example, str]]) -> str | GoldError:
    rows = []
    for example, gold in pairs:
        row = example.scoring or {}
        with suppress(GoldError):  # reported when the row is judged
            rows.append((row_choices(row), row.get(ANSWER, gold)))
    try:
        return notation_of(rows)
    except GoldError as error:
        return error


def score_generations(
    jepa: LLMJEPA,
    encoder: PairEncoder,
    rows: EncodedPairs,
    config: EvaluationConfig,
    known: Known | None = None,
    **options: Any,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Answer each row and score it by every scorer of `config.reported`.

    A row that a scorer could not decide, or whose gold answer cannot be used, is not right and is counted separately.
    Shares are of all rows, so they are lower bounds if `num_unknown` or `num_gold_errors` is not 0.

    `known` is what `know_golds` found in the file of the rows; by default, the rows are the whole file. `options` are
    those of `answer`.

    Returns:
        The metrics (shares of the rows; counts of rows and of empty answers; `num_unknown` and `num_gold_errors` by
        scorer), and one record per row: source, text, gold and output; for each scorer a bool, or None if it could not
        decide; the reason that `config.metric` gave; and `reasons` of the scorers that are not always reported.

    Raises:
        DataError: If no row at all has a gold answer that a scorer can use.
    """
    outputs = answer(jepa, encoder, rows.examples, config, **options)
    judge = _Judge(encoder, rows, config, known)
    judged = {
        name: judge.choices(name, jepa) if name in BY_LIKELIHOOD else judge.texts(name, outputs)
        for name in config.reported
    }
    added = [name for name in config.reported if name not in ALWAYS]
    records = []
    for place, (example, gold, output) in enumerate(zip(rows.examples, judge.golds, outputs, strict=True)):
        record: dict[str, Any] = {"source": example.source, "text": example.text, "gold": gold, "output": output}
        verdicts = {name: each.verdicts[place] for name, each in judged.items()}
        record |= {name: verdict.correct if verdict.decided else None for name, verdict in verdicts.items()}
        record["reason"] = verdicts[config.metric].reason
        if added:
            record["reasons"] = {name: verdicts[name].reason for name in added}
        records.append(record)
    metrics: dict[str, Any] = {
        name: sum(verdict.correct for verdict in each.verdicts) / max(len(records), 1) for name, each in judged.items()
    }
    metrics |= {"num_rows": len(records), "num_empty": sum(not output for output in outputs)}
    # The scorers that are always reported decide every row, so they are named only if a row has a problem.
    counted = {name: each for name, each in judged.items() if name in added or each.num_unknown or each.num_gold_errors}
    if counted:
        metrics["num_unknown"] = {name: each.num_unknown for name, each in counted.items()}
        metrics["num_gold_errors"] = {name: each.num_gold_errors for name, each in counted.items()}
    return metrics, records


@dataclass
class Judged:
    """The verdicts of one scorer on all rows; a row whose gold answer cannot be used is not counted as unknown."""

    verdicts: list[Verdict] = field(default_factory=list)
    num_gold_errors: int = 0

    @property
    def num_unknown(self) -> int:
        """Rows that the scorer could not decide."""
        return sum(not verdict.decided for verdict in self.verdicts) - self.num_gold_errors


class _Judge:
    """Judges answers to rows by one scorer after the other.

    With `tell`, rows whose gold answer cannot be used are logged; if all are like that, DataError is raised.
    """

    def __init__(
        self, encoder: PairEncoder, rows: EncodedPairs, config: EvaluationConfig, known: Known | None, tell: bool = True
    ) -> None:
        self.encoder, self.examples, self.config, self.tell = encoder, rows.examples, config, tell
        self.golds = gold_answers(encoder, rows)
        self.known = know_golds(encoder, rows, config) if known is None else known

    def texts(self, name: str, answers: Sequence[str]) -> Judged:
        """Judge the answer to each row by its text."""
        scorer = self.known.get(name) or get_scorer(name, databases=self.config.databases if name == "sql" else None)

        def judge(place: int) -> Verdict:
            example = self.examples[place]
            return scorer(answers[place], _text_gold(name, example, self.golds[place]), row=example.scoring or {})

        try:
            return self._all(name, judge)
        finally:
            if close := getattr(scorer, "close", None):
                close()

    def choices(self, name: str, jepa: LLMJEPA) -> Judged:
        """Judge each row by the likelihood of its `choices` after the prompt; nothing is generated."""
        judged, asked = self.with_choices(name)
        questions = [(self.examples[place], choices) for place, (choices, _) in asked.items()]
        sums = choice_log_likelihoods(jepa, self.encoder, questions, batch_size=self.config.generation_batch_size)
        for (place, (choices, gold)), values in zip(asked.items(), sums, strict=True):
            judged.verdicts[place] = judge_choices(choices, values, gold, per_byte=name == "choice_per_byte")
        return judged

    def with_choices(self, name: str) -> tuple[Judged, dict[int, tuple[list[str], int]]]:
        """Return verdicts to be filled in, and, by place, the choices and the right choice of each row."""
        asked: dict[int, tuple[list[str], int]] = {}

        def prepare(place: int) -> Verdict:
            row = self.examples[place].scoring or {}
            choices, notation = row_choices(row), self.known[name]
            if isinstance(notation, GoldError):
                raise notation
            asked[place] = choices, gold_choice(choices, row.get(ANSWER, self.golds[place]), notation)
            return Verdict(False, "has choices")

        return self._all(name, prepare), asked

    def _all(self, name: str, judge: Callable[[int], Verdict]) -> Judged:
        judged, num_rows = Judged(), len(self.examples)
        for place, example in enumerate(self.examples):
            try:
                judged.verdicts.append(judge(place))
            except GoldError as error:
                judged.verdicts.append(Verdict(False, f"error: {error}", decided=False))
                judged.num_gold_errors += 1
                if self.tell and judged.num_gold_errors == num_rows:
                    text = f"The scorer {name} can use no gold answer of {num_rows} rows. {example.source}: {error}"
                    raise DataError("no_usable_gold", text) from error
                if self.tell and judged.num_gold_errors <= _NUM_SHOWN:
                    logger.warning("not scored by %s: %s: %s", name, example.source, error)
        if self.tell and (count := judged.num_gold_errors):
            logger.warning("%d of %d rows not scored by %s, and counted as not right", count, num_rows, name)
        return judged


def _text_gold(name: str, example: Example, gold: str) -> Any:
    return (example.scoring or {}).get("answers", gold) if name == "any_of" else gold


def check_golds(
    encoder: PairEncoder, rows: EncodedPairs, config: EvaluationConfig, split: str, known: Known | None = None
) -> list[str]:
    """Make sure, before a model is trained, that each scorer can decide at least one gold answer.

    Each is judged as if it were the model's. `split` names the rows in messages; `known` is as for `score_generations`.

    Returns:
        Sentences about the gold answers that a scorer cannot decide, those that it compares more strictly, and those
        that are longer than an answer may be.

    Raises:
        DataError: If a scorer can decide none of them: no row has choices, for example, or a number, or a database that
            exists.
    """
    notes: list[str] = []
    judge = _Judge(encoder, rows, config, known, tell=False)
    for name in config.reported if len(rows) else ():
        if name in ALWAYS:
            continue
        judged = judge.with_choices(name)[0] if name in BY_LIKELIHOOD else judge.texts(name, judge.golds)
        lost = [place for place, verdict in enumerate(judged.verdicts) if not verdict.decided]
        if lost:
            first = f"{rows.examples[lost[0]].source}: {judged.verdicts[lost[0]].reason.removeprefix('error: ')}"
            if len(lost) == len(rows):
                text = f"The scorer {name} can use no gold answer of {len(rows):,} {split} rows. {first}"
                raise DataError("no_usable_gold", text)
            notes.append(
                f"{len(lost):,} of {len(rows):,} {split} rows have a gold answer that {name} cannot decide. They "
                f"count as not right. {first}"
            )
        notes += [f"{name}: {note}" for note in getattr(judge.known.get(name), "notes", [])]
    return notes + _about_length(rows, config, split)


def _about_length(rows: EncodedPairs, config: EvaluationConfig, split: str) -> list[str]:
    """Say how many gold answers the model cannot write whole, if the metric needs them whole."""
    limit = config.max_new_tokens
    if limit is None or config.metric in ("label", "any_of", *BY_LIKELIHOOD):
        return []
    num_long = sum(len(pair.code_ids) - 1 > limit for pair in rows.pairs)  # without the end token
    text = f"{num_long:,} of {len(rows):,} {split} rows have a gold answer of more than max_new_tokens={limit} tokens, "
    return [f"{text}which the model cannot write. Raise max_new_tokens."] if num_long else []


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
    """Score generated answers and retrieval; return the metrics and one record per row.

    Every process must call it. They divide the work, and each gets the same result as a single process would.
    """
    metrics, records = score_generations(jepa, encoder, rows, config, **options)
    return metrics | {"retrieval": score_retrieval(jepa, rows, encoder.pad_id)}, records
