"""Self-training: a teacher's answers become the labels of unlabelled pairs.

    a pair of views_file   text: people's phrasing       code: the phrasing of the labelled rows
    the teacher answers    the code side                 ──▶ pseudo_labels.jsonl, with likelihoods
    the arm trains on      text ──▶ the answer           views: both phrasings, as before

The teacher is the finished run of another arm with the same seed. Both train their tokenizer on the same
rows. The pairs keep their two views, so the JEPA term and its shuffled control work as they do without a teacher.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llm_jepa.data.context import Context
from llm_jepa.data.example import Example
from llm_jepa.data.rows import read_examples
from llm_jepa.data.views_file import read_views
from llm_jepa.errors import ConfigError
from llm_jepa.evaluation.choices import choice_log_likelihoods
from llm_jepa.evaluation.evaluate import answer
from llm_jepa.processes import on_main

from .folder import RunFolder
from .settings import RunConfig
from .step_flops import counting_flops
from .teacher import teacher_cost, teacher_run
from .trained_run import TrainedRun, load_run

logger = logging.getLogger(__name__)

TEACHER_COST = (
    *("answering_time_s", "answering_flops"),
    *("training_time_s", "training_steps_time_s", "training_flops"),
)
FLOP_ROWS = 32  # number of rows, evenly spaced, whose answers' FLOPs are counted; the sum is scaled to all rows
EMPTY, UNLIKELY = "empty_answer", "unlikely_answer"


@dataclass(frozen=True)
class PseudoLabels:
    """The answers of a teacher."""

    labels: Mapping[str, str]  # the answer of each row that is kept, by the row's source
    dropped: Mapping[str, str]  # the reason why a row is not kept, by the row's source
    context: Context  # what the teacher's training rows have around a question; the labelled rows get it too
    summary: dict[str, Any]  # counts, the accuracy if there is gold, the cost of the teacher; plain values for JSON

    def __call__(self, examples: Sequence[Example]) -> tuple[list[Example], dict[str, int]]:
        """Return the rows that are kept, with their labels, and the number of other rows by reason."""
        kept = [
            replace(
                self.context.labelled(each.text, self.labels[each.source]),
                source=each.source,
                text_view=each.text if each.text_view is None else each.text_view,
                code_view=each.code if each.code_view is None else each.code_view,
                use_jepa=each.use_jepa,
                group=each.group,
            )
            for each in examples
            if each.source in self.labels
        ]
        return kept, dict(Counter(self.dropped[each.source] for each in examples if each.source in self.dropped))


def pseudo_labels(run: RunConfig, seed: int, folder: RunFolder, *, progress: bool = False) -> PseudoLabels | None:
    """Return the labels of a run's view rows: its teacher's answers in its folder, another arm's, or else new ones.

    Answers to other rows, or of a teacher with other weights, are not used. The teacher's run has the same seed and is
    next to the run's folder; it is a ConfigError if it is not finished. Its cost is in each arm, whoever asked.
    """
    if run.teacher.teacher is None:
        return None
    teacher = teacher_run(run.teacher.teacher, seed, folder)
    rows, sha256 = read_views(run.data).examples, on_main(teacher.weights_sha256)
    if not on_main(_find_answers, folder, rows, sha256):
        start = time.perf_counter()
        taught = load_run(teacher.path)
        records = _ask(taught, rows, progress=progress)
        seconds = time.perf_counter() - start
        shared = {"seconds": seconds / len(records), "flops": _count_flops(taught, rows), "teacher_sha256": sha256}
        on_main(folder.write_pseudo_labels, [{**each, **shared} for each in records])
    return _select(folder.pseudo_labels(), run, teacher)


def _find_answers(folder: RunFolder, rows: Sequence[Example], teacher_sha256: str) -> bool:
    """Whether a run's folder has a teacher's answers to these rows, if need be copied from another arm of its seed."""
    if _has_answers(folder, rows, teacher_sha256):
        return True
    _, seed = folder.arm_and_seed or ("", None)
    others = map(RunFolder, sorted(folder.path.parent.glob(f"*-s{seed}")))
    if other := next((each for each in others if _has_answers(each, rows, teacher_sha256)), None):
        folder.write_pseudo_labels(other.pseudo_labels())
        logger.info("labels the teacher's answers are those that %s got", other.name)
        return True
    if folder.pseudo_labels_file.is_file():
        text = "labels %s has answers to other rows, or of another teacher. The teacher is asked again."
        logger.info(text, folder.pseudo_labels_file)
    return False


def _has_answers(folder: RunFolder, rows: Sequence[Example], teacher_sha256: str) -> bool:
    """Whether a folder has the answers of a teacher with these weights to these rows."""
    if not folder.pseudo_labels_file.is_file():
        return False
    given = [(each["source"], each["asked"], each.get("teacher_sha256")) for each in folder.pseudo_labels()]
    return given == [(each.source, each.code, teacher_sha256) for each in rows]


def _ask(teacher: TrainedRun, examples: Sequence[Example], *, progress: bool) -> list[dict[str, Any]]:
    """Return the teacher's answer to the code side of each row, and its likelihood.

    It is the probability of the answer's tokens after the prompt, from 0 to 1; the end token does not count.
    """
    asked = [teacher.context.ask(str(each.code)) for each in examples]
    answers = answer(teacher.jepa, teacher.encoder, asked, teacher.evaluation, progress=progress)
    given = [(ask, [words]) for ask, words in zip(asked, answers, strict=True) if words.strip()]
    values = iter(choice_log_likelihoods(teacher.jepa, teacher.encoder, given))  # nan where no token is left
    return [
        {
            "source": each.source,
            "asked": each.code,
            "answer": words,
            "likelihood": math.exp(value) if words.strip() and math.isfinite(value := next(values)[0]) else 0.0,
        }
        for each, words in zip(examples, answers, strict=True)
    ]


def _count_flops(teacher: TrainedRun, examples: Sequence[Example]) -> float:
    """Return the FLOPs of one answer and its likelihood: the mean over some rows, which are answered again for it."""
    some = [examples[place] for place in range(0, len(examples), max(1, len(examples) // FLOP_ROWS))]
    with counting_flops(next(teacher.jepa.parameters()).device) as counter:
        _ask(teacher, some, progress=False)
    return float(counter.get_total_flops() / len(some))


def _select(records: list[dict[str, Any]], run: RunConfig, teacher: RunFolder) -> PseudoLabels:
    config = run.teacher
    answered = [each for each in records if each["answer"].strip()]
    by_likelihood = sorted(answered, key=lambda each: -each["likelihood"])  # stable: ties stay in the file's order
    kept = by_likelihood[: math.ceil(config.pseudo_label_share * len(answered))]
    least = config.pseudo_label_min_likelihood
    labels = {each["source"]: each["answer"] for each in kept if each["likelihood"] >= least}
    if not labels:
        raise ConfigError(
            "no_rows_left",
            f"None of the {len(records):,} answers of {teacher} is kept: {len(records) - len(answered):,} are "
            "empty. Train the teacher longer, or lower pseudo_label_min_likelihood.",
        )
    reasons = {each["source"]: UNLIKELY if each["answer"].strip() else EMPTY for each in records}
    dropped = {source: reason for source, reason in reasons.items() if source not in labels}
    summary = {
        "teacher": config.teacher,
        "asked": len(records),
        "kept": len(labels),
        **Counter({EMPTY: 0, UNLIKELY: 0} | Counter(dropped.values())),
        "accuracy": _accuracy(labels, records, run),
        "answering_time_s": sum(each["seconds"] for each in records),
        "answering_flops": sum(each["flops"] for each in records),
        **teacher_cost(teacher),
    }
    return PseudoLabels(labels, dropped, Context(**teacher.data()["context"]), summary)


def _accuracy(labels: Mapping[str, str], records: list[dict[str, Any]], run: RunConfig) -> dict[str, Any] | None:
    """Return how many kept answers have a gold label, and which share of these equals it."""
    file = run.teacher.pseudo_label_gold_file
    if file is None:
        return None
    gold = {each.text: each.code for each in read_examples(file, run.data).examples}
    kept = {each["source"]: each["asked"] for each in records if each["source"] in labels}
    judged = [labels[source] == gold[asked] for source, asked in kept.items() if asked in gold]
    return {"exact_match": sum(judged) / len(judged) if judged else None, "num_rows": len(judged)}
