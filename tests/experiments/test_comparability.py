"""Runs that do not answer the same questions, or did not read the same data, are not compared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from llm_jepa.errors import DataError
from llm_jepa.experiments.compare import open_experiment, run_experiment
from llm_jepa.experiments.equal_cost import Budget
from llm_jepa.experiments.experiment import read_experiment
from llm_jepa.experiments.interim_looks import note_look
from llm_jepa.experiments.sentences import answer_of
from llm_jepa.experiments.summary import summarise
from llm_jepa.report.experiment_report import write_experiment_report
from llm_jepa.runs.folder import ExperimentFolder, RunFolder

ARMS = {"ntp": {}, "jepa": {}}


def edit_json(file: Path, change) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def home(pair_files, tmp_path_factory):
    """A folder with data files of its own. Read only."""
    folder = tmp_path_factory.mktemp("home")
    for file in pair_files:
        shutil.copy(file, folder / file.name)
    return folder


@pytest.fixture(scope="module")
def settings(tiny_settings, home, pair_files):
    files = {key: str(home / file.name) for key, file in zip(("train_file", "test_file"), pair_files, strict=True)}
    return tiny_settings(arms=ARMS, seeds=[1, 2], max_steps=2, validation_generations=0, **files)


@pytest.fixture(scope="module")
def finished(settings, quick_runs, tmp_path_factory):
    """The folder of a whole experiment. Read only."""
    folder = tmp_path_factory.mktemp("comparable") / "out"
    run_experiment(open_experiment(settings, folder))
    return folder


@pytest.fixture
def copied(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "out")
    return tmp_path / "out"


# ---- settings ----


@pytest.mark.parametrize(
    "change", [{"max_test_rows": 3}, {"max_new_tokens": 3}, {"metric": "starts_with"}, {"test_file": "other"}]
)
def test_an_arm_that_answers_other_rows_or_is_scored_otherwise_is_refused(change, settings, tmp_path, raises):
    """Before any run, and by the name of the field."""
    change = {"test_file": settings["train_file"]} if "test_file" in change else change
    arms = {"ntp": {}, "jepa": change}
    [(key, value)] = change.items()
    with raises("settings_conflict", f"{key} is ", " in ntp and ", f"{value!r} in jepa"):
        open_experiment(settings | {"arms": arms}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_cells_of_a_grid_are_chosen_on_the_same_validation_rows(settings, tmp_path, raises):
    """Rows set aside from other training rows are others; those of a file of their own are not."""
    rows = settings | {"choose_by": "ce_loss", "arms": {"ntp": {}, "jepa": {"max_train_rows": [30, 40]}}}
    with raises("settings_conflict", "max_train_rows is 30 in ", "40 in ", "the cells of jepa"):
        open_experiment(rows, tmp_path / "out", dry_run=True)
    sizes = settings | {"choose_by": "ce_loss", "arms": {"ntp": {}, "jepa": {"validation_size": [4, 8]}}}
    with raises("settings_conflict", "validation_size is 4 in ", "8 in "):
        open_experiment(sizes, tmp_path / "out", dry_run=True)
    apart = tmp_path / "validation.jsonl"
    apart.write_text('{"text": "rows of its own", "code": "a|b"}\n')
    open_experiment(rows | {"validation_file": str(apart)}, tmp_path / "out", dry_run=True)


def test_cells_chosen_by_a_loss_have_their_loss_over_the_same_tokens(settings, tmp_path, raises):
    """The mean over answers alone, or over tokens of another tokenizer, has another unit."""
    by_loss = settings | {"choose_by": "ce_loss", "validation_size": 4}
    for key, values in {"loss_on": ["all", "code"], "vocab_size": [259, 270]}.items():
        with raises("settings_conflict", f"{key} is ", "choose_by=ce_loss", "the cells of jepa"):
            open_experiment(by_loss | {"arms": {"ntp": {}, "jepa": {key: values}}}, tmp_path / "out", dry_run=True)


@pytest.mark.parametrize("change", [{"text_column": "code", "code_column": "text"}, {"max_length": 30}])
def test_an_arm_with_other_questions_or_answers_in_the_same_file_is_refused(change, settings, tmp_path, raises):
    """Columns that are exchanged, and rows that only one arm leaves out."""
    short = {"on_overflow": "drop"} if "max_length" in change else {}
    with raises("test_rows_differ", "In arm jepa: Test row "):
        open_experiment(settings | {"arms": {"ntp": {}, "jepa": change | short}}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_rows_of_one_text_are_split_at_the_same_place_in_every_arm(settings, tmp_path, raises):
    """A later split leaves a shorter answer."""
    rows = tmp_path / "lines.jsonl"
    rows.write_text("".join(json.dumps({"text": f"line {n} goes on and on for some words"}) + "\n" for n in range(12)))
    files = {"train_file": str(rows), "test_file": str(rows), "on_leak": "keep"}
    arms = {"ntp": {}, "jepa": {"jepa_split": 0.8}}
    with raises("test_rows_differ", "In arm jepa: Test row 1 "):
        open_experiment(settings | files | {"arms": arms}, tmp_path / "out")


# ---- what finished runs read ----


@pytest.mark.slow
def test_runs_that_read_different_rows_are_not_compared(copied, settings, raises):
    """By the hashes that the runs wrote down, whatever the file is now."""
    name = settings["test_file"]
    edit_json(copied / "jepa-s2" / "data.json", lambda each: each["sha256"].update({name: "0" * 64}))
    with raises("data_differs", name, "jepa-s2", "0" * 12):
        summarise(copied)
    with raises("data_differs", name):
        open_experiment(settings, copied)


def test_a_seed_more_is_refused_once_the_file_has_changed(settings, home, copied, tmp_path, contents, raises):
    """The runs to come would read other rows than those that are done; nothing is written."""
    test = tmp_path / "test.jsonl"
    for folder in copied.glob("*-s*"):
        config = yaml.safe_load((folder / "config.yaml").read_text()) | {"test_file": str(test)}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        edit_json(
            folder / "data.json",
            lambda each: each["sha256"].update({str(test): each["sha256"].pop(settings["test_file"])}),
        )
    moved = settings | {"test_file": str(test)}
    (copied / "experiment.yaml").write_text(yaml.safe_dump(moved))
    shutil.copy(settings["test_file"], test)
    open_experiment(moved | {"seeds": [1, 2, 3]}, copied)
    test.write_text("".join(test.read_text().splitlines(keepends=True)[:-1]))
    before = contents(copied)
    with raises("file_changed", test):
        open_experiment(moved | {"seeds": [1, 2, 3, 4]}, copied)
    assert contents(copied) == before


def test_runs_of_different_versions_are_compared_and_told(copied):
    """A commit, a package, a processor: the table says which runs were made by which."""
    assert not any("made alike" in note for note in summarise(copied).notes)
    file = copied / "ntp-s1" / "environment.json"
    edit_json(file, lambda each: each["packages"].update(torch="1.0"))
    [note] = [note for note in summarise(copied).notes if "made alike" in note]
    assert "3 by llm-jepa" in note and "1 by llm-jepa" in note and "torch 1.0" in note


def test_nothing_is_accepted_of_a_run_that_is_done(copied, settings, contents, raises):
    """`allow_changed` lets a run go on with other settings; one that is done was trained with what it says."""
    before = contents(copied)
    changes = {"learning_rate": 0.5, "allow_changed": ["learning_rate"]}
    with raises("settings_changed", "jepa-s1", "learning_rate was 'not set' and is 0.5"):
        open_experiment(settings | {"arms": {"ntp": {}, "jepa": changes}}, copied)
    assert contents(copied) == before


# ---- grids ----


@pytest.mark.slow
def test_the_control_of_a_chosen_cell_is_the_cell_that_differs_in_nothing_else(quick_runs, settings, tmp_path):
    """Shuffled pairs choose a weight of their own; the arm's control is the one of its weight, chosen or not."""
    weights = {"jepa_lambda": [0.5, 2.0]}
    arms = {"ntp": {}, "jepa": weights, "jepa_shuffled": weights}
    grid = settings | {"arms": arms, "seeds": [1], "choose_by": "ce_loss"}
    results = run_experiment(open_experiment(grid, tmp_path / "out"))
    chosen = {arm: grid.chosen for arm, grid in results.grids.items()}
    weight = chosen["jepa"].removeprefix("jepa.")
    other = next(each for each in ("lambda0.5", "lambda2") if each != weight)
    for shuffled, cell in ((f"jepa_shuffled.{weight}", weight), (f"jepa_shuffled.{other}", other)):
        # Whichever of the two the control's grid chooses.
        for name in (weight, other):
            report = tmp_path / "out" / f"jepa_shuffled.{name}-s1" / "eval.json"
            edit_json(report, lambda each, best=name == cell: each["validation"].update(ce_loss=1.0 if best else 2.0))
        again = summarise(tmp_path / "out")
        assert again.grids["jepa_shuffled"].chosen == shuffled
        assert [(each.arm, each.baseline) for each in again.main.controls] == [
            (chosen["jepa"], f"jepa_shuffled.{weight}")
        ]
        assert list(again.arms) == ["ntp", chosen["jepa"], shuffled]


@pytest.mark.slow
def test_a_baseline_whose_cells_all_fail_is_told_with_its_reason(quick_runs, settings, tmp_path, raises):
    """The error is that of the runs, with the end of their log, not that a baseline is missing."""
    hot = {"learning_rate": [1e30, 1e31], "warmup_steps": 0}
    grid = settings | {"arms": {"ntp": hot, "jepa": {}}, "seeds": [1], "choose_by": "ce_loss", "workers": 1}
    with raises("runs_failed", "2 of 3", "ntp.lr1e30-s1, ntp.lr1e31-s1", "[gradient_not_finite]", exit_code=1):
        run_experiment(open_experiment(grid, tmp_path / "out"))


# ---- looks ----


def test_seeds_that_were_added_after_a_look_are_told(tmp_path):
    """Not those of the first look, and not a second look at the same ones."""
    folder = ExperimentFolder(tmp_path)
    assert note_look(folder, [], "ntp") == []
    assert note_look(folder, [1, 2, 3], "ntp") == [] and note_look(folder, [3, 2, 1], "ntp") == []
    for _ in range(2):
        [note] = note_look(folder, [1, 2, 3, 4, 5, 6], "ntp")
        assert "with 3 of these 6" in note and "promise too much" in note
    [note] = note_look(folder, range(1, 8), "ntp")
    assert "with 3 and 6 of these 7" in note


def test_seeds_that_were_left_out_or_exchanged_after_a_look_are_told(tmp_path):
    """Whoever drops the seeds that went badly has a clean table otherwise."""
    folder = ExperimentFolder(tmp_path)
    note_look(folder, [1, 2, 3, 4], "ntp")
    [note] = note_look(folder, [1, 2], "ntp")
    assert "not among these: 3, 4." in note and "promise too much" in note
    added, gone = note_look(folder, [1, 2, 7], "ntp")
    assert "with 2 of these 3" in added and "not among these: 3, 4." in gone


def test_a_baseline_that_was_exchanged_after_a_look_is_told(tmp_path):
    """Whoever lost against the strong rival may compare with a weak one."""
    folder = ExperimentFolder(tmp_path)
    assert note_look(folder, [1, 2], "self_training") == []
    for _ in range(2):
        [note] = note_look(folder, [1, 2], "ntp")
        assert "another baseline, self_training; these have ntp" in note and "weaker rival" in note


def test_looks_that_were_written_before_baselines_were_recorded_are_read(tmp_path):
    (tmp_path / "looks.json").write_text("[[1, 2]]")
    [note] = note_look(ExperimentFolder(tmp_path), [1, 2, 3], "ntp")
    assert "with 2 of these 3" in note


def test_each_time_that_results_are_made_is_written_down(copied):
    """The look of an experiment is at the seeds that something was compared at, and has its baseline."""
    looks = [{"seeds": [1, 2], "baseline": "ntp"}]
    assert json.loads((copied / "looks.json").read_text()) == looks
    shutil.rmtree(copied / "jepa-s2")
    summarise(copied)
    assert json.loads((copied / "looks.json").read_text()) == [*looks, {"seeds": [1], "baseline": "ntp"}]


# ---- what is told ----


@pytest.mark.slow
@pytest.mark.parametrize("arms", [["ntp", "jepa_shuffled", "jepa"], ["ntp", "jepa_lambda0", "jepa"]])
def test_the_report_opens_with_the_arm_that_has_the_term_and_not_with_a_control(arms, quick_runs, settings, tmp_path):
    """Whatever the order of arms, and whether anything was watched or not."""
    few = settings | {"arms": {arm: {} for arm in arms}, "seeds": [1], "validation_size": 0}
    results = run_experiment(open_experiment(few, tmp_path / "out"))
    assert results.headline == "jepa" and answer_of(results).question == "Is jepa better than ntp?"
    assert not any(arm.alarms for arm in results.arms.values())


def test_the_report_opens_with_the_arm_that_the_question_names(quick_runs, settings, tmp_path, raises):
    """Named beforehand in the file; another question for the same runs is another experiment."""
    few = settings | {"arms": {"ntp": {}, "jepa": {}, "jepa_k2": {"jepa_k": 2}}, "seeds": [1], "question": "jepa_k2"}
    results = run_experiment(open_experiment(few, tmp_path / "out"))
    assert results.headline == "jepa_k2" and answer_of(results).question == "Is jepa_k2 better than ntp?"
    with raises("settings_changed", "question was 'jepa_k2' and is 'jepa'"):
        open_experiment(few | {"question": "jepa"}, tmp_path / "out")


@pytest.mark.parametrize(
    ("question", "code", "values"),
    [
        ("ntp", "settings_conflict", ["question='ntp'"]),
        ("jepa_shufled", "unknown_arm", ["question='jepa_shufled'", "jepa, jepa_shuffled", "'jepa_shuffled'"]),
    ],
)
def test_a_question_names_an_arm_that_is_compared(question, code, values, settings, raises):
    with raises(code, *values):
        read_experiment(settings | {"arms": ["ntp", "jepa", "jepa_shuffled"], "question": question})


@pytest.mark.slow
def test_notes_on_data_that_not_all_arms_share_begin_with_the_arm(quick_runs, tiny_settings, tmp_path):
    """View rows that one arm trains on and another does not are told of each."""
    views = tmp_path / "views.jsonl"
    rows = [{"text": f"a view of number {number}", "paraphrase": f"number {number}, seen"} for number in range(24)]
    views.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arms = {"labelled_only": {"views_ratio": 0, "jepa_lambda": 0.0}, "ntp": {}, "jepa": {}}
    settings = tiny_settings(views_file=str(views), task_views=False, arms=arms, seeds=[1], max_steps=2)
    notes = run_experiment(open_experiment(settings, tmp_path / "out")).settings["data"]["notes"]
    assert sum(note.startswith("labelled_only: ") and "not for training" in note for note in notes) == 1
    assert sum(note.startswith("jepa: ") and "the JEPA term" in note for note in notes) == 1
    assert "The task's training rows are under cross-entropy alone (task_views: false)." in notes


def test_runs_that_answered_other_numbers_of_test_rows_are_not_compared(copied, raises):
    """An arm that leaves out rows which others can encode would be scored on easier ones."""
    file = copied / "jepa-s1" / "eval.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_rows": 1}))
    with raises("row_counts_differ", "ntp-s1", " 12 test rows", "jepa-s1 answered 1,"):
        summarise(copied)


@pytest.fixture
def at_equal_flops(copied):
    """The settings of the experiment in `copied`, which also has runs of equal FLOPs."""
    settings = yaml.safe_load((copied / "experiment.yaml").read_text()) | {"compare_at": ["steps", "flops"]}
    (copied / "experiment.yaml").write_text(yaml.safe_dump(settings))
    costs = [json.loads((copied / f"ntp-s{seed}" / "eval.json").read_text())["cost"] for seed in (1, 2)]
    flops = sum(cost["flops_per_step"] for cost in costs) / 2
    for seed in (1, 2):
        run = copied / f"jepa@flops-s{seed}"
        shutil.copytree(copied / f"jepa-s{seed}", run)
        (run / "budget.json").write_text(json.dumps(Budget("flops", "jepa", "ntp", 1, 2, 2 * flops, flops).record))
    return settings


def test_runs_of_equal_cost_do_not_outlive_another_training_of_their_baseline(copied, at_equal_flops, raises):
    """Its folders were removed, and it was trained for more steps, or with dearer ones."""
    for change in (lambda each: each.update(num_steps=4), lambda each: each["cost"].update(flops_per_step=1.0)):
        summarise(copied)
        for seed in (1, 2):
            file = copied / f"ntp-s{seed}" / "eval.json"
            (file.with_suffix(".before")).write_text(file.read_text())
            edit_json(file, change)
        with raises("baseline_changed", "jepa@flops", str(copied / "jepa@flops-s*")):
            summarise(copied)
        for file in copied.glob("ntp-s*/eval.before"):
            file.rename(file.with_suffix(".json"))


def test_runs_of_equal_cost_that_are_missing_or_no_longer_asked_for_are_named(copied, at_equal_flops):
    """A run that failed is not left out in silence, nor a table that was taken out after its result was seen."""
    (copied / "jepa@flops-s2" / "DONE").unlink()
    again = summarise(copied).at_equal["flops"]
    assert "Runs that are not done: jepa@flops-s2." in again.notes and again.arms["jepa@flops"].values.n == 1
    (copied / "experiment.yaml").write_text(yaml.safe_dump(at_equal_flops | {"compare_at": ["steps"]}))
    assert any("no longer has: jepa@flops, seed 1." in note for note in summarise(copied).notes)


def test_a_gain_at_equal_cost_needs_its_control_too(copied, at_equal_flops):
    """First no control was run; then there is one, which is as good as the arm."""
    for arm, values in {"ntp": (0.1, 0.11), "jepa@flops": (0.5, 0.52)}.items():
        for seed, value in enumerate(values, start=1):
            edit_json(copied / f"{arm}-s{seed}" / "eval.json", lambda each, value=value: each.update(exact_match=value))
    again = summarise(copied).at_equal["flops"]
    assert again.main.comparison_of("jepa@flops").verdict == "better"
    assert any("jepa@flops is better than ntp, but no control of it was run" in note for note in again.notes)
    arms = {**ARMS, "jepa_shuffled": {}}
    (copied / "experiment.yaml").write_text(yaml.safe_dump(at_equal_flops | {"arms": arms}))
    for seed in (1, 2):
        shutil.copytree(copied / f"jepa-s{seed}", copied / f"jepa_shuffled-s{seed}")
        shutil.copytree(copied / f"jepa@flops-s{seed}", copied / f"jepa_shuffled@flops-s{seed}")
        edit_json(
            copied / f"jepa_shuffled@flops-s{seed}" / "budget.json", lambda each: each.update(arm="jepa_shuffled")
        )
    again = summarise(copied).at_equal["flops"]
    [control] = again.main.controls
    assert (control.arm, control.baseline, control.n) == ("jepa@flops", "jepa_shuffled@flops", 2)
    assert any("is not shown to be better than its control jepa_shuffled@flops" in note for note in again.notes)


def test_runs_of_equal_cost_are_held_to_the_same_rules(copied, at_equal_flops, raises):
    """They may have been made months later, with another test file."""
    settings = at_equal_flops
    edit_json(copied / "jepa@flops-s1" / "environment.json", lambda each: each["packages"].update(torch="1.0"))
    assert any("torch 1.0" in note for note in summarise(copied).at_equal["flops"].notes)
    edit_json(copied / "jepa@flops-s1" / "eval.json", lambda each: each.update(num_rows=1))
    with raises("row_counts_differ", "jepa@flops-s1 answered 1,"):
        summarise(copied)
    name = settings["test_file"]
    edit_json(copied / "jepa@flops-s2" / "data.json", lambda each: each["sha256"].update({name: "0" * 64}))
    with raises("data_differs", name, "jepa@flops-s2"):
        summarise(copied)
    with raises("data_differs", name, "jepa@flops-s2"):
        open_experiment(settings, copied)


def test_runs_that_the_configuration_no_longer_has_are_named(copied):
    """An arm or a seed that was taken out after its result was seen."""
    settings = yaml.safe_load((copied / "experiment.yaml").read_text())
    for seed in (1, 2):
        shutil.copytree(copied / f"jepa-s{seed}", copied / f"jepa_shuffled-s{seed}")
    shutil.copytree(copied / "jepa-s1", copied / "jepa-s9")
    (copied / "jepa-s9" / "DONE").unlink()
    RunFolder(copied / "jepa-s9").mark_failed({"reason": "exit code 1"})
    [note] = [note for note in summarise(copied).notes if "no longer has" in note]
    assert "no longer has: jepa, seed 9 (failed); jepa_shuffled, seeds 1, 2." in note
    (copied / "experiment.yaml").write_text(yaml.safe_dump(settings | {"seeds": [1, 2, 9]}))
    assert not any("seed 9" in note for note in summarise(copied).notes)


@pytest.mark.parametrize("file", ["eval.json", "predictions.jsonl", "metrics.jsonl", "data.json", "environment.json"])
@pytest.mark.parametrize("content", [b'{"cut sho\n', b"\xff\xfe\x00\n", b"{}\n", b"[1]\n"])
def test_a_damaged_file_of_a_run_is_named_and_no_traceback(file, content, copied, raises):
    """What is not JSON, not text, or lacks what it should hold: the folder to remove, exit code 2."""
    (copied / "jepa-s1" / file).write_bytes(content)
    if (file, content) in {("metrics.jsonl", b"{}\n"), ("environment.json", b"{}\n")}:
        summarise(copied)  # nothing that is needed
        return
    with raises("run_damaged", copied / "jepa-s1") as error:
        write_experiment_report(summarise(copied), copied)  # what `report` does
    assert isinstance(error.value, DataError)
