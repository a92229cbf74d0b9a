"""A comparison that needs no training: a plain run rewrites the question, then answers its own text.

    a test row   people's phrasing ──▶ the labels' phrasing ──▶ the answer

The teacher was trained on the rows of `views_file` with cross-entropy. So after the bridge of these rows it writes the
other phrasing, and after the task's bridge it writes an answer. For retrieval, it reads the test row without rewriting.
"""

from __future__ import annotations

import time
from dataclasses import replace

from llm_jepa.data.context import Context
from llm_jepa.data.encode import PairEncoder
from llm_jepa.data.encoded_pairs import EncodedPairs
from llm_jepa.data.views_file import read_views
from llm_jepa.errors import ConfigError
from llm_jepa.evaluation.evaluate import answer, evaluate
from llm_jepa.processes import on_main

from .folder import RunFolder, add_scores
from .settings import RunConfig
from .teacher import teacher_cost, teacher_run
from .trained_run import load_run

ROOM = 16
"""A rewritten text may be this many tokens longer than the longest of views_file: so one without an end is noticed."""


def check_can_rewrite(context: Context) -> None:
    """Raise ConfigError if the training rows are chats, because a chat template asks only for answers."""
    if context.is_chat:
        raise ConfigError(
            "setting_not_supported",
            "rewrite_first needs rows of two strings. Rows of messages have the same bridge before every answer, so it "
            "cannot ask for the other phrasing.",
        )


def answer_rewritten(run: RunConfig, seed: int, folder: RunFolder, *, progress: bool = False) -> None:
    """Write the files of a run whose teacher rewrites each test row first.

    The folder has no `model/`, because the model is the teacher's. Each line of predictions.jsonl has `rewritten`. A
    teacher that is not finished, or was trained on chats, is a ConfigError.
    """
    assert run.teacher.teacher is not None
    started_s = time.perf_counter()
    source = teacher_run(run.teacher.teacher, seed, folder)
    teacher = load_run(source.path)
    check_can_rewrite(teacher.context)
    views_encoder = PairEncoder(teacher.encoder.tokenizer, run.data, bridge=run.data.views_bridge)
    longest = max(len(views_encoder.encode_words(str(each.code))) for each in read_views(run.data).examples)
    limit = replace(teacher.evaluation, max_new_tokens=longest + ROOM)
    before = source.evaluation()
    shared = {key: before[key] for key in ("num_parameters", "num_trained_parameters")}
    report = {"seed": seed, "num_steps": 0, **shared, "training_time_s": 0.0, "alarm": None}
    settings = replace(run.evaluation, max_new_tokens=teacher.evaluation.max_new_tokens)
    for place, (name, file) in enumerate(run.data.tests.items()):
        test = teacher.rows(file, limit=run.data.max_test_rows)
        rewritten = answer(teacher.jepa, views_encoder, test.examples, limit, progress=progress)
        asked = [
            replace(example, text=words if words.strip() else example.text)
            for example, words in zip(test.examples, rewritten, strict=True)
        ]
        rows = EncodedPairs(test.pairs, asked)
        metrics, records = evaluate(teacher.jepa, teacher.encoder, rows, settings, progress=progress)
        for record, example, words in zip(records, test.examples, rewritten, strict=True):
            record |= {"text": example.text, "rewritten": words}
        test_set = None if place == 0 else name
        add_scores(report, metrics, test_set)
        on_main(folder.write_predictions, records, test_set)
    report["evaluation_time_s"] = report["total_time_s"] = time.perf_counter() - started_s
    report["cost"] = {"training_flops": 0.0, "teacher": teacher_cost(source)}
    data = source.data()
    data["notes"].append(
        f"No training: the run of {run.teacher.teacher} rewrites each test text into the other phrasing, then answers "
        "that. So an answer takes two generations."
    )
    on_main(folder.write_data, data)
    on_main(folder.write_metrics, [])
    on_main(folder.write_evaluation, report)
    on_main(folder.mark_done)
