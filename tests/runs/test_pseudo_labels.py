"""Self-training: the answers of a teacher become the labels of unlabelled pairs."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from llm_jepa.data.context import Context
from llm_jepa.data.encode import PairEncoder
from llm_jepa.data.example import Example
from llm_jepa.evaluation.evaluate import answer
from llm_jepa.files import read_json_lines
from llm_jepa.runs.build_trainer import build_trainer
from llm_jepa.runs.cost import run_flops
from llm_jepa.runs.folder import RunFolder
from llm_jepa.runs.pseudo_labels import PseudoLabels, _select, pseudo_labels
from llm_jepa.runs.run import train_run
from llm_jepa.runs.settings import read_run
from llm_jepa.runs.teacher import TeacherConfig
from llm_jepa.runs.trained_run import load_run

PLAIN = [f"lines with the number {number}" for number in range(10, 50)]
ASKED = [f"give me every line that has {number} in it" for number in range(10, 50)]


def write(file: Path, rows: list[dict[str, str]]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("self_training")


@pytest.fixture(scope="module")
def settings(home):
    """16 labelled rows in plain words, 24 pairs of plain words and people's, 4 test rows in people's words."""
    rows = [{"text": text, "code": f".*{number}.*"} for number, text in enumerate(PLAIN, 10)]
    pairs = [{"text": asked, "code": plain} for asked, plain in zip(ASKED, PLAIN, strict=True)]
    return {
        "train_file": write(home / "train.jsonl", rows[:16]),
        "views_file": write(home / "views.jsonl", pairs[16:36]),
        "test_file": write(home / "test.jsonl", [{**row, "text": ASKED[36 + n]} for n, row in enumerate(rows[36:])]),
        "pseudo_label_gold_file": None,
        "views_validation_size": 4,
        "validation_size": 0,
        "vocab_size": 300,
        "max_steps": 4,
        "per_device_train_batch_size": 8,
        "max_new_tokens": 4,
        "learning_rate": 1e-2,
        "use_cpu": True,
        "jepa_distance": "infonce",
        "task_views": False,
    }


@pytest.fixture(scope="module")
def teacher(settings, home) -> Path:
    """The folder of the teacher's run."""
    train_run(read_run(settings | {"views_ratio": 0, "jepa_lambda": 0.0}), 1, home / "labelled_only-s1")
    return home / "labelled_only-s1"


def test_the_teachers_answers_become_labels_and_the_views_stay_the_two_phrasings(settings, teacher, home):
    """A view row reads people's words, bridge of the task, the teacher's answer; its views are both phrasings."""
    gold = [{"text": text, "code": f".*{number}.*"} for number, text in enumerate(PLAIN, 10)]
    own = {"teacher": "labelled_only", "pseudo_label_gold_file": write(home / "gold.jsonl", gold)}
    run = read_run(settings | own)
    folder = home / "self_training-s1"
    report = train_run(run, 1, folder)
    records = list(read_json_lines(folder / "pseudo_labels.jsonl"))
    assert [each["asked"] for each in records] == PLAIN[16:36]
    assert all(0 <= each["likelihood"] <= 1 for each in records)
    summary = json.loads((folder / "data.json").read_text())["summary"]["pseudo_labels"]
    assert summary["asked"] == 20 and summary["kept"] + summary["empty_answer"] + summary["unlikely_answer"] == 20
    assert summary["accuracy"]["num_rows"] == summary["kept"]
    cost, taught = report["cost"]["teacher"], RunFolder(teacher).evaluation()
    assert cost["training_flops"] == 4 * taught["cost"]["flops_per_step"]
    assert cost["training_steps_time_s"] == 4 * taught["cost"]["step_time_s"] < cost["training_time_s"]
    assert cost["answering_time_s"] > 0 and 0 < cost["answering_flops"] < cost["training_flops"]
    assert (
        run_flops(run, report)
        == 4 * report["cost"]["flops_per_step"] + cost["training_flops"] + cost["answering_flops"]
    )
    _, data = build_trainer(run, 1, folder, labels=pseudo_labels(run, 1, RunFolder(folder)))
    answers = {each["source"]: each["answer"] for each in records}
    for example, pair in zip(data.views.examples, data.views.pairs, strict=True):
        assert pair.bridge_ids == data.train.pairs[0].bridge_ids and pair.use_ce and pair.use_jepa
        assert data.encoder.decode_code(pair.code_ids) == answers[example.source]
        assert data.tokenizer.decode(pair.code_view) == example.code_view in PLAIN
        assert data.tokenizer.decode(pair.text_view) == example.text in ASKED
    assert len(data.views_validation) == 4


def test_the_training_of_a_teacher_counts_every_batch_and_the_steps_that_loss_dropout_makes_cheap(settings, tmp_path):
    """Two batches a step, of which half have no JEPA term: between plain training and a term in every step."""
    changes = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4, "jepa_loss_dropout": 0.5}
    train_run(read_run(settings | changes), 1, tmp_path / "teacher-s1")
    cost = RunFolder(tmp_path / "teacher-s1").evaluation()["cost"]
    assert cost["flops_per_dropped_step"] < cost["flops_per_step"]
    each = (cost["flops_per_step"] + cost["flops_per_dropped_step"]) / 2
    assert cost["training_flops"] == pytest.approx(4 * 2 * each)


def test_an_arm_with_a_teacher_has_the_tokenizer_and_the_first_weights_of_the_others(settings, teacher, tmp_path):
    """What the teacher answers changes labels, and nothing that arms share."""
    plain, plain_data = build_trainer(read_run(settings), 1, tmp_path / "jepa")
    run = read_run(settings | {"teacher": "labelled_only"})
    folder = teacher.parent / "again-s1"
    folder.mkdir()
    labelled, data = build_trainer(run, 1, folder, labels=pseudo_labels(run, 1, RunFolder(folder)))
    assert data.tokenizer.get_vocab() == plain_data.tokenizer.get_vocab()
    assert [each.source for each in data.views_validation.examples] == [
        each.source for each in plain_data.views_validation.examples
    ]
    weights = zip(plain.jepa.parameters(), labelled.jepa.parameters(), strict=True)
    assert all(one.equal(other) for one, other in weights)


def test_answers_that_are_there_are_not_asked_again(settings, teacher, home, monkeypatch):
    """A run that was killed goes on with the labels that it began with."""
    run = read_run(settings | {"teacher": "labelled_only"})
    folder = home / "killed-s1"
    folder.mkdir()
    first = pseudo_labels(run, 1, RunFolder(folder))
    monkeypatch.setattr("llm_jepa.runs.pseudo_labels.load_run", None)
    assert pseudo_labels(run, 1, RunFolder(folder)) == first


def test_arms_of_a_seed_ask_their_teacher_once(settings, teacher, home, monkeypatch):
    """The second gets the answers of the first, and their cost; another seed does not."""
    run = read_run(settings | {"teacher": "labelled_only"})
    for name in ("one-s1", "two-s1"):
        (home / name).mkdir()
    first = pseudo_labels(run, 1, RunFolder(home / "one-s1"))
    monkeypatch.setattr("llm_jepa.runs.pseudo_labels.load_run", None)
    assert pseudo_labels(run, 1, RunFolder(home / "two-s1")) == first
    assert first.summary["answering_time_s"] > 0
    shutil.copytree(teacher, home / "labelled_only-s2")
    (home / "two-s2").mkdir()
    with pytest.raises(TypeError, match="not callable"):
        pseudo_labels(run, 2, RunFolder(home / "two-s2"))


@pytest.mark.parametrize("changed", ["asked", "source", "teacher", "no teacher", "fewer"])
def test_answers_to_other_rows_or_of_another_teacher_are_asked_again(changed, settings, teacher, tmp_path, caplog):
    """Answers are found by file and line, which stay the same when the file changes: the wrong label would be used."""
    shutil.copytree(teacher, tmp_path / teacher.name)
    run = read_run(settings | {"teacher": "labelled_only"})
    folder = RunFolder(tmp_path / "killed-s1")
    folder.path.mkdir()
    first = pseudo_labels(run, 1, folder)
    wrong = [{**each, "answer": "wrong"} for each in folder.pseudo_labels()]
    if changed in ("asked", "source"):
        wrong[3][changed] += "?"
    elif changed == "teacher":
        file = tmp_path / teacher.name / "model" / "jepa.safetensors"  # [PRED], which gives no answer
        save_file({name: each + 1 for name, each in load_file(file).items()}, file)
    wrong = [{k: v for k, v in each.items() if changed != "no teacher" or k != "teacher_sha256"} for each in wrong]
    folder.write_pseudo_labels(wrong[: -1 if changed == "fewer" else None])
    with caplog.at_level(logging.INFO):
        again = pseudo_labels(run, 1, folder)
    assert again.labels == first.labels and "The teacher is asked again" in caplog.text
    assert "wrong" not in {each["answer"] for each in folder.pseudo_labels()}


def test_a_labelled_row_has_what_the_training_rows_have_around_a_question():
    """A system message, first turns, a chat's last answer: the row is rendered as those of the task."""
    turns = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "1"}]
    context = Context(is_chat=True, takes_system=True, system="Count.", turns=turns)
    labels = PseudoLabels({"v:1": "3"}, {"v:2": "empty_answer"}, context, {})
    rows = [Example("drei", "three", source="v:1", group="g"), Example("vier", "four", source="v:2")]
    (row,), dropped = labels(rows)
    assert dropped == {"empty_answer": 1}
    question = [{"role": "user", "content": "drei"}, {"role": "assistant", "content": "3"}]
    assert row.messages == [{"role": "system", "content": "Count."}, *turns, *question]
    assert (row.text, row.code, row.text_view, row.code_view) == ("drei", "3", "drei", "three")
    assert (row.source, row.group, row.use_jepa) == ("v:1", "g", True)


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        ({}, ["a", "b", "d"]),
        ({"pseudo_label_share": 0.5}, ["a", "d"]),
        ({"pseudo_label_min_likelihood": 0.3}, ["a", "d"]),
        ({"pseudo_label_min_likelihood": 0.6}, ["d"]),
    ],
)
def test_empty_and_unlikely_answers_are_left_out_and_counted(config, kept, settings, teacher):
    """The likeliest share is kept, and of it what is likely enough; empty answers never."""
    values = {"a": ("x", 0.5), "b": ("y", 0.2), "c": (" ", 0.0), "d": ("z", 0.9)}
    records = [
        {"source": name, "asked": name, "answer": words, "likelihood": value, "seconds": 0.1, "flops": 5.0}
        for name, (words, value) in values.items()
    ]
    run = replace(read_run(settings), teacher=TeacherConfig(teacher="labelled_only", **config))
    found = _select(records, run, RunFolder(teacher))
    assert sorted(found.labels) == kept and isinstance(found, PseudoLabels)
    assert found.summary["empty_answer"] == 1 and found.summary["unlikely_answer"] == 3 - len(kept)


@pytest.mark.parametrize(
    ("changes", "code", "values"),
    [
        ({"teacher": "nobody"}, "run_not_finished", ["teacher=nobody", "nobody-s1"]),
        ({"teacher": "labelled_only", "views_ratio": 0}, "setting_missing", ["teacher=labelled_only", "views_ratio"]),
        (
            {"teacher": "labelled_only", "views_cross_entropy": False},
            "setting_missing",
            ["teacher=labelled_only", "views_cross_entropy"],
        ),
        ({"pseudo_label_share": 0.5}, "setting_missing", ["pseudo_label_share", "teacher"]),
        (
            {"teacher": "labelled_only", "pseudo_label_share": 0.0},
            "value_out_of_range",
            ["pseudo_label_share=0.0"],
        ),
    ],
)
def test_what_cannot_teach_is_refused(changes, code, values, settings, home, raises):
    with raises(code, *values):
        train_run(read_run(settings | changes), 1, home / "refused-s1")


def test_a_plain_run_rewrites_the_question_and_answers_what_it_wrote(settings, home):
    """The teacher writes after the bridge of view rows, then answers; nothing is trained."""
    train_run(read_run(settings | {"jepa_lambda": 0.0}), 1, home / "ntp-s1")
    folder = home / "rewrite_first-s1"
    report = train_run(read_run(settings | {"teacher": "ntp", "rewrite_first": True}), 1, folder)
    teacher = load_run(home / "ntp-s1")
    records = list(read_json_lines(folder / "predictions.jsonl"))
    assert [each["text"] for each in records] == ASKED[36:] and (folder / "DONE").is_file()
    assert not (folder / "model").exists() and report["training_time_s"] == 0
    encoder = PairEncoder(teacher.encoder.tokenizer, teacher.data, bridge=teacher.data.views_bridge)
    longest = max(len(encoder.encode_words(plain)) for plain in PLAIN[16:36])  # not the limit of the task's answers
    limit = replace(teacher.evaluation, max_new_tokens=longest + 16)
    assert limit.max_new_tokens > teacher.evaluation.max_new_tokens
    for record in records:
        asked = Context().ask(record["text"])
        (rewritten,) = answer(teacher.jepa, encoder, [asked], limit)
        assert rewritten == record["rewritten"]
        assert teacher.generate(rewritten if rewritten.strip() else record["text"]) == record["output"]
