"""The transfer experiment, tiny: labelled rows in one phrasing, view pairs of two, test rows in the other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from llm_jepa.cli import main
from llm_jepa.data.digest import digest_rows
from llm_jepa.evaluation.kept_embeddings import StoredEmbeddings
from llm_jepa.experiments.compare import open_experiment, run_experiment
from llm_jepa.files import read_json_lines
from llm_jepa.report.experiment_report import write_experiment_report
from llm_jepa.runs.build_trainer import build_trainer
from llm_jepa.runs.run import train_run
from llm_jepa.runs.settings import read_run, read_yaml
from llm_jepa.training.resume import digest_tokenizer

ROOT = Path(__file__).parents[2]
SHARED_DATA = ROOT.parent / "shared" / "data"
ARMS = {"labelled_only": {"views_ratio": 0, "jepa_lambda": 0.0}, "ntp": {}, "jepa": {}, "jepa_shuffled": {}}
RIVALS = ("labelled_only", "ntp", "self_training", "rewrite_first")
TINY = {
    "vocab_size": 300,
    "max_steps": 3,
    "per_device_train_batch_size": 4,
    "logging_steps": 1,
    "eval_steps": 1,
    "monitor_pairs": 8,
    "max_new_tokens": 4,
    "max_test_rows": 4,
    "use_cpu": True,
}


@pytest.fixture(scope="module")
def transfer(tmp_path_factory):
    """The settings of configs/transfer_generated.yaml with the arms that have no teacher, made tiny."""
    settings = (
        read_yaml(ROOT / "configs" / "transfer_generated.yaml")
        | TINY
        | {"arms": ARMS, "baseline": "ntp", "question": "jepa"}
    )
    settings |= {
        "generate_train": 24,
        "generate_views": 40,
        "generate_test": 6,
        "seeds": [3],
        "views_validation_size": 8,
    }
    experiment = open_experiment(settings, tmp_path_factory.mktemp("transfer"), dry_run=True)
    return settings, experiment.runs


@pytest.fixture(scope="module")
def arms(transfer, tmp_path_factory):
    """Trainers of the four arms with one seed, trained, with their first weights and the batches they saw."""
    seen = {}
    for arm, run in transfer[1].items():
        trainer, data = build_trainer(run, 3, tmp_path_factory.mktemp(arm))
        first = {name: each.detach().clone() for name, each in trainer.jepa.named_parameters()}
        batches = []
        trainer.jepa.register_forward_pre_hook(
            lambda module, inputs, batches=batches: batches.append(inputs[0]) if module.training else None
        )
        trainer.train()
        seen[arm] = (first, batches, trainer, data)
    return seen


def test_both_configurations_have_the_same_arms():
    """Both configurations, which differ in where the rows come from and in nothing else."""
    published, generated = (read_yaml(ROOT / "configs" / f"{name}.yaml") for name in ("transfer", "transfer_generated"))
    assert set(RIVALS) < set(published["arms"]) and published["baseline"] in RIVALS and len(published["seeds"]) == 10
    for arms in (published["arms"], generated["arms"]):
        for arm in arms.values():
            arm.pop("pseudo_label_gold_file", None)
    own = (
        "train_file",
        "test_files",
        "max_train_rows",
        "max_test_rows",
        "views_text_column",
        "views_code_column",
        "question",
    )
    shared = [
        {key: value for key, value in each.items() if key not in own and key != "views_file" and "generate" not in key}
        for each in (published, generated)
    ]
    assert shared[0] == shared[1]


def test_arms_share_tokenizer_weights_and_task_rows(arms):
    """Bit for bit, also with the arm that trains on no view row; and they end elsewhere."""
    first, batches, _, data = arms["ntp"]
    task = [[source for source in batch.sources if "-train" in source] for batch in batches]
    assert [len(each) for each in task] == [4, 4, 4]
    for arm in ARMS:
        mine, its_batches, _, its_data = arms[arm]
        assert digest_tokenizer(its_data.tokenizer) == digest_tokenizer(data.tokenizer)
        assert mine.keys() == first.keys() and all(torch.equal(mine[name], first[name]) for name in first)
        assert [[each for each in batch.sources if "-train" in each] for batch in its_batches] == task
    ends = {arm: next(iter(arms[arm][2].jepa.model.parameters())).detach() for arm in ARMS}
    assert not any(torch.equal(ends[one], ends[two]) for one in ARMS for two in ARMS if one < two)


def test_arms_with_view_rows_see_the_same_ones_under_the_same_labels(arms):
    """The plain arm reads what the JEPA arms read; the labelled-only arm reads none of it."""
    batches = arms["ntp"][1]
    assert all(len(batch.sources) == 8 for batch in batches)
    for arm in ("jepa", "jepa_shuffled"):
        for mine, base in zip(arms[arm][1], batches, strict=True):
            assert mine.sources == base.sources
            assert mine.labels[mine.labels >= 0].tolist() == base.labels[base.labels >= 0].tolist()
    assert all(len(batch.sources) == 4 for batch in arms["labelled_only"][1])


def test_the_term_is_between_the_phrasings_alone_and_the_control_breaks_their_match(arms):
    """Four pairs of eight rows have it; the control's code views are those of other view rows, and no row changes."""
    views = {arm: list(arms[arm][2].view_pairs) for arm in ("jepa", "jepa_shuffled")}
    assert all(batch.num_pairs == 4 for arm in views for batch in arms[arm][1])
    pairs = zip(views["jepa"], views["jepa_shuffled"], strict=True)
    assert all(one.code_view != two.code_view and one.code_ids == two.code_ids for one, two in pairs)
    codes = {tuple(pair.code_view) for pair in views["jepa"]}
    assert {tuple(pair.code_view) for pair in views["jepa_shuffled"]} <= codes
    train = [digest_rows(arms[arm][2].train_dataset) for arm in ARMS]
    assert len(set(train)) == 1


def test_the_monitors_look_at_held_out_view_pairs_in_every_arm(arms):
    """The baseline too: what it retrieves there is what a JEPA arm has to beat."""
    for arm in ARMS:
        _, _, trainer, data = arms[arm]
        assert [pair.source for pair in trainer.monitor_pairs] == [pair.source for pair in data.views_validation.pairs]
        assert len(trainer.monitor_pairs) == 8 and not trainer.eval_pairs


def test_where_the_task_rows_have_the_term_too_the_control_exchanges_among_them_as_well(transfer, tmp_path):
    """Each file's codes stay in their file, and the monitors look at the task's held-out rows, as ever."""
    run = read_run(transfer[1]["jepa_shuffled"].settings | {"task_views": True, "validation_size": 4})
    trainer, data = build_trainer(run, 3, tmp_path)
    for shuffled, own in ((trainer.train_dataset, data.train.pairs), (trainer.view_pairs, data.views.pairs)):
        codes = {tuple(pair.code_view) for pair in own}
        assert all(tuple(pair.code_view) in codes for pair in shuffled)
        assert all(one.code_view != two.code_view for one, two in zip(shuffled, own, strict=True))
    assert [pair.source for pair in trainer.monitor_pairs] == [pair.source for pair in data.validation.pairs]


@pytest.mark.slow
def test_an_experiment_is_run_and_each_run_tells_of_its_view_rows(transfer, quick_runs, tmp_path):
    """From `compare` to the folder of a run: counts, hash of the file, retrieval between the phrasings, the alarm."""
    settings, _ = transfer
    results = run_experiment(open_experiment(settings, tmp_path / "out"), render=write_experiment_report).to_json()
    assert set(results["arms"]) == set(ARMS)
    assert {each["arm"] for each in results["comparisons"]} == {"labelled_only", "jepa", "jepa_shuffled"}
    for arm in ARMS:
        folder = tmp_path / "out" / f"{arm}-s3"
        data, report = (json.loads((folder / name).read_text()) for name in ("data.json", "eval.json"))
        counts = data["summary"]
        assert (counts["views"]["kept"], counts["views_validation"]["kept"]) == (32, 8)
        assert (counts["train"]["jepa"], counts["views"]["jepa"], counts["views"]["cross_entropy"]) == (0, 32, 32)
        assert counts["views_ratio"] == (0 if arm == "labelled_only" else 1.0)
        assert any(name.endswith("-views.jsonl") for name in data["sha256"])
        assert report["views_retrieval"]["num_queries"] == 8 and "monitor/gap" in report["validation"]
        assert (report["alarm"] is None) == (arm in ("labelled_only", "ntp"))
        kept = StoredEmbeddings.read(
            folder / "embeddings.safetensors"
        )  # of the pairs that the term is on, not of the task's
        assert (kept.split, len(kept.pairs)) == ("held-out view", 8)
    assert "Of 8 held-out view pairs of" in (tmp_path / "out" / "report.html").read_text()


def test_a_run_goes_on_with_the_same_view_rows_alone(transfer, tmp_path, raises):
    """Another file of views, or another ratio, is another run."""
    run = transfer[1]["jepa"]
    views = Path(run.data.views_file)
    copy = tmp_path / "views.jsonl"
    copy.write_bytes(views.read_bytes())
    settings = run.settings | {"views_file": str(copy), "save_steps": 2, "max_steps": 4}
    train_run(read_run(settings), 3, tmp_path / "run")
    for name in ("DONE", "eval.json"):
        (tmp_path / "run" / name).unlink()
    with raises("settings_changed", "views_ratio was 1.0 and is 0.5"):
        train_run(read_run(settings | {"views_ratio": 0.5}), 3, tmp_path / "run")
    rows = copy.read_text().splitlines()
    copy.write_text("\n".join(reversed(rows)))  # one row moved might be one that is set aside
    with raises("settings_changed", "view_rows", "32 rows"):
        train_run(read_run(settings), 3, tmp_path / "run")


@pytest.mark.slow
def test_the_configuration_on_published_rows_trains(tmp_path, monkeypatch):
    """A few steps of the JEPA arm as it stands but for its size, and answers to a few test rows."""
    if not (SHARED_DATA / "nlrx_paraphrase_pairs.jsonl").exists():
        pytest.skip("the NL-RX files are not beside the project (../shared/data)")
    monkeypatch.chdir(ROOT)
    small = {"max_steps": 2, "max_test_rows": 3, "max_new_tokens": 4, "per_device_train_batch_size": 4, "use_cpu": True}
    changes = [word for key, value in small.items() for word in ("--set", f"{key}={value}")]
    assert main(["train", "configs/transfer.yaml", "--arm", "jepa", "--out", str(tmp_path / "run"), *changes]) == 0
    assert len(read_json_lines(tmp_path / "run" / "predictions.jsonl")) == 3
    counts = json.loads((tmp_path / "run" / "data.json").read_text())["summary"]
    asked = {row["text"].strip() for row in read_json_lines(tmp_path / "run" / "predictions.jsonl")}
    views = read_json_lines(SHARED_DATA / "nlrx_paraphrase_pairs.jsonl")
    leaks = sum(bool(asked & {row["text"].strip(), row["paraphrase"].strip()}) for row in views)
    assert (counts["train"]["kept"], counts["views"]["dropped"]) == (1000, {"leak": leaks, "to_validation": 200})
