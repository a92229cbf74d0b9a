"""A run's folder tells all of it, is never run twice, goes on after a kill, and gives no secret away."""

from __future__ import annotations

import json
import math
import shutil
import sqlite3
import sys
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from llm_jepa.evaluation.evaluate import evaluate
from llm_jepa.evaluation.kept_embeddings import StoredEmbeddings
from llm_jepa.evaluation.retrieval import retrieval_metrics
from llm_jepa.experiments.experiment import read_experiment
from llm_jepa.runs.build_trainer import build_trainer
from llm_jepa.runs.run import train_run
from llm_jepa.runs.settings import read_run
from llm_jepa.runs.step_flops import count_step_flops
from llm_jepa.runs.trained_run import load_run
from llm_jepa.training.view_embeddings import first_of_each

SECRET = "s3cr3t-value-of-a-token"
SEED = 7
TIMES = {"tokens_per_s", "train_runtime", "train_samples_per_second", "train_steps_per_second", "total_flos"}
RUN_FILES = {"config.yaml", "environment.json", "data.json", "metrics.jsonl", "eval.json", "predictions.jsonl", "DONE"}
RUN_FILES |= {"embeddings.safetensors"}


@pytest.fixture(scope="module")
def settings(tiny_settings):
    """Those of a run beside its files: relative names, a checkpoint every two steps, dropout on."""
    return tiny_settings(
        train_file="train.jsonl", test_file="test.jsonl", max_steps=5, save_steps=2, dropout=0.1, jepa_k=2
    )


@pytest.fixture(scope="module")
def finished(settings, pair_files, tmp_path_factory):
    """The folder of a whole run, made with the command line's arguments and a secret in the environment. Read only."""
    home = tmp_path_factory.mktemp("home")
    for file in pair_files:
        shutil.copy(file, home)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("HF_TOKEN", SECRET)
        patch.setenv("WANDB_API_KEY", SECRET)
        patch.setattr(sys, "argv", ["/somewhere/bin/llm-jepa", "train", "config.yaml"])
        train_run(read_run(settings), SEED, Path("run"))
    return home / "run"


@pytest.fixture
def copied(finished, tmp_path, monkeypatch):
    """A copy of the run and its data, in the current folder."""
    shutil.copytree(finished.parent, tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    return Path("run")


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def without_times(path):
    return [{key: value for key, value in line.items() if key not in TIMES} for line in read_lines(path)]


# ---- what a run leaves ----


@pytest.mark.parametrize(("metric", "missing"), [("choice", "choices"), ("sql", "database")])
def test_rows_without_what_the_metric_reads_are_told_before_training(tiny_settings, tmp_path, metric, missing, raises):
    """A metric of choices on rows that have none, of SQL on rows without a database: no step is taken for nothing."""
    (tmp_path / "databases").mkdir()
    more = {"databases": str(tmp_path / "databases")} if metric == "sql" else {}
    with raises("no_usable_gold", f"scorer {metric}", "test rows", missing):
        train_run(read_run(tiny_settings(metric=metric, validation_generations=0, **more)), SEED, tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_the_databases_that_decide_answers_are_hashed_with_the_other_data(tiny_settings, tmp_path):
    """Another content would judge the same answer otherwise, so runs are not compared over it."""
    databases, rows = tmp_path / "databases", tmp_path / "rows.jsonl"
    databases.mkdir()
    sqlite3.connect(databases / "shop.sqlite").close()
    row = {"text": "one", "code": "SELECT 1", "database": "shop"}
    rows.write_text("".join(json.dumps(row | {"text": f"the number {n}"}) + "\n" for n in range(16)))
    files = {"train_file": str(rows), "test_file": str(rows), "on_leak": "keep", "databases": str(databases)}
    settings = tiny_settings(metric="sql", max_steps=1, validation_generations=0, max_new_tokens=4, **files)
    train_run(read_run(settings), SEED, tmp_path / "run")
    assert str(databases) in json.loads((tmp_path / "run" / "data.json").read_text())["sha256"]


def test_validation_scores_are_those_of_the_model_that_is_kept(tiny_settings, tmp_path):
    """With `load_best_model_at_end`, on a learning rate that does harm: the first look is the best, and is told."""
    settings = tiny_settings(
        load_best_model_at_end=True, learning_rate=1.0, warmup_steps=0, max_steps=3, eval_steps=1, save_steps=1
    )
    report = train_run(read_run(settings), SEED, tmp_path / "run")
    losses = {
        line["step"]: line["eval_ce_loss"]
        for line in read_lines(tmp_path / "run" / "metrics.jsonl")
        if "eval_ce_loss" in line
    }
    best = min(losses, key=losses.get)
    assert best < 3 and report["validation"]["ce_loss"] == losses[best]


def test_a_run_folder_holds_all_of_the_run(finished):
    """The contract: settings, environment, data, log, scores, answers, a model, and DONE."""
    assert {path.name for path in finished.iterdir()} >= RUN_FILES
    folders = {path.name for path in finished.iterdir() if path.is_dir()}
    assert folders == {"model", "checkpoint-2", "checkpoint-4", "checkpoint-5"}


def test_the_settings_are_those_given_and_the_seed(finished, settings):
    assert yaml.safe_load((finished / "config.yaml").read_text()) == settings | {"seed": SEED}


def test_the_log_has_each_step_with_its_terms_and_the_looks(finished):
    """Five lines of training and a look every two steps and at the end, with accuracy on validation rows."""
    lines = read_lines(finished / "metrics.jsonl")
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5]
    assert all({"ce_loss", "jepa_loss", "lambda_eff", "tokens_per_s", "grad_norm"} <= line.keys() for line in steps)
    looks = [line for line in lines if "eval_ce_loss" in line]
    assert [line["step"] for line in looks] == [2, 4, 5]
    assert all({"monitor/gap", "eval_jepa_loss", "eval_exact_match"} <= line.keys() for line in looks)


def test_the_scores_are_those_of_the_answers(finished):
    """eval.json counts what predictions.jsonl shows; twelve rows, in the order of the file."""
    report = json.loads((finished / "eval.json").read_text())
    records = read_lines(finished / "predictions.jsonl")
    assert [record["source"] for record in records] == [f"test.jsonl:{n}" for n in range(1, 13)]
    for name in ("exact_match", "starts_with"):
        assert report[name] == sum(record[name] for record in records) / 12
    assert (report["seed"], report["num_steps"], report["num_rows"]) == (SEED, 5, 12)
    assert report["retrieval"].keys() >= {"recall@1", "recall@10", "mrr", "num_candidates"}
    assert report["validation"]["ce_loss"] > 0
    assert report["cost"]["step_time_s"] > 0 and report["cost"]["flops_per_step"] > 0
    assert report["alarm"]["alarmed"] is False and report["alarm"]["reason"] is None


def test_the_model_is_a_plain_one_and_scores_again_what_it_scored(finished, monkeypatch):
    """Promise 4 through a whole run: transformers loads it; loaded as a run it gives the same answers."""
    monkeypatch.chdir(finished.parent)
    AutoModelForCausalLM.from_pretrained(finished / "model")
    run = load_run(finished)
    run.jepa.cpu()
    metrics, records = evaluate(run.jepa, run.encoder, run.rows("test.jsonl"), run.evaluation)
    report = json.loads((finished / "eval.json").read_text())
    assert records == read_lines(finished / "predictions.jsonl")
    assert metrics["retrieval"] == pytest.approx(report["retrieval"])
    assert metrics["exact_match"] == report["exact_match"]


def test_the_embeddings_that_are_kept_are_those_that_were_scored(finished):
    """Twelve pairs are fewer than are kept at most: retrieval among them is that of eval.json, texts are the rows'."""
    kept, records = (
        StoredEmbeddings.read(finished / "embeddings.safetensors"),
        read_lines(finished / "predictions.jsonl"),
    )
    assert (kept.side, kept.split, kept.file, kept.num_rows) == ("pred", "test", "test.jsonl", 12)
    assert kept.pairs == [{"source": r["source"], "text": r["text"], "code": r["gold"]} for r in records]
    found = retrieval_metrics(kept.text_pred, kept.code_emb[first_of_each(kept.code_groups)], kept.code_groups)
    assert found == pytest.approx(json.loads((finished / "eval.json").read_text())["retrieval"])


def test_the_data_is_known_by_its_hash(finished):
    data = json.loads((finished / "data.json").read_text())
    assert data["sha256"].keys() == {"train.jsonl", "test.jsonl"}
    assert all(len(value) == 64 for value in data["sha256"].values())
    train = data["summary"]["train"]
    assert train["rows_in"] == 60 == train["kept"] + sum(train["dropped"].values())


def test_the_environment_names_versions_and_the_call(finished):
    environment = json.loads((finished / "environment.json").read_text())
    # A build for CUDA says so in one of the two and not in the other.
    assert environment["packages"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert environment["command"] == ["llm-jepa", "train", "config.yaml"]
    assert {"python", "cpu", "threads", "device", "world_size", "commit"} <= environment.keys()


def test_no_file_gives_away_a_secret_or_where_it_was_made(finished, contents):
    """G4: no value of an environment variable and no path of this machine, in any file, checkpoints included."""
    files = contents(finished)
    assert len(files) > 20
    for name, content in files.items():
        for word in (SECRET, str(finished.parent), str(Path.home()) + "/", sys.prefix):
            assert word.encode() not in content, f"{name} holds {word}"


def test_json_files_are_strict_json(finished):
    """nan and infinity are no JSON: they are written as null."""

    def refuse(name):
        raise AssertionError(name)

    for path in (*finished.glob("*.json"), *finished.glob("*.jsonl")):
        for line in [path.read_text()] if path.suffix == ".json" else path.read_text().splitlines():
            json.loads(line, parse_constant=refuse)


# ---- done once, and whole ----


def test_a_finished_run_is_read_and_not_run_again(copied, settings, contents):
    before = contents(copied)
    report = train_run(read_run(settings), SEED, copied)
    assert report == json.loads(before["eval.json"])
    assert contents(copied) == before


@pytest.mark.parametrize(
    ("changes", "seed", "values"),
    [
        ({"learning_rate": 0.5}, SEED, ["learning_rate was 'not set' and is 0.5"]),
        ({"max_steps": 6}, SEED, ["max_steps was 5 and is 6"]),
        ({}, 8, ["seed was 7 and is 8"]),
    ],
)
def test_the_folder_of_another_run_is_refused(changes, seed, values, copied, settings, contents, raises):
    """Finished or not, what it holds stays byte for byte."""
    for _ in range(2):
        before = contents(copied)
        with raises("settings_changed", copied, *values) as error:
            train_run(read_run(settings | changes), seed, copied)
        assert error.value.exit_code == 2 and contents(copied) == before
        (copied / "DONE").unlink(missing_ok=True)


def test_a_folder_with_something_else_in_it_is_refused(settings, tmp_path, raises):
    (tmp_path / "thesis.txt").write_text("years of work")
    with raises("folder_not_empty", tmp_path):
        train_run(read_run(settings), SEED, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("last", [2, 5, None])
def test_a_run_that_was_killed_ends_as_if_it_had_not_been(last, copied, settings, finished, contents):
    """Promise 5 for a whole run: killed amid training, in the final evaluation, or before any checkpoint."""
    for name in ("DONE", "eval.json", "predictions.jsonl"):
        (copied / name).unlink()
    shutil.rmtree(copied / "model")
    for step in (2, 4, 5):
        if last is None or step > last:
            shutil.rmtree(copied / f"checkpoint-{step}")
    with (copied / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "loss": 1.')  # a line that the kill cut short
    train_run(read_run(settings), SEED, copied)
    assert contents(copied / "model") == contents(finished / "model")
    assert without_times(copied / "metrics.jsonl")[:8] == without_times(finished / "metrics.jsonl")[:8]
    assert (copied / "predictions.jsonl").read_bytes() == (finished / "predictions.jsonl").read_bytes()
    assert {path.name for path in copied.iterdir()} >= RUN_FILES


@pytest.mark.parametrize("last", [2, 5])
def test_the_times_of_a_run_that_was_killed_are_those_of_all_its_steps(last, copied, settings, finished):
    """Also where it was killed after its last step: the seconds until the checkpoint are kept in it, and count."""
    (copied / "DONE").unlink()
    for step in (2, 4, 5):
        if step > last:
            shutil.rmtree(copied / f"checkpoint-{step}")
    manifest = copied / f"checkpoint-{last}" / "manifest.json"
    written = json.loads(manifest.read_text())
    assert 0 < written["times"]["training_time_s"] < json.loads((finished / "eval.json").read_text())["training_time_s"]
    written["times"] |= {"training_time_s": 1000.0, "preparation_time_s": 500.0}
    manifest.write_text(json.dumps(written))
    report = train_run(read_run(settings), SEED, copied)
    assert 1000 < report["training_time_s"] < 1100 and 0 < report["evaluation_time_s"] < 100
    assert 1500 < report["training_time_s"] + report["evaluation_time_s"] + 500 < report["total_time_s"] < 1700
    assert report["cost"]["num_steps_timed"] == (3 if last == 2 else 2) and report["cost"]["step_time_s"] > 0
    ours, whole = (json.loads((run / "metrics.jsonl").read_text().splitlines()[-1]) for run in (copied, finished))
    assert ours["train_runtime"] > 1000 and ours["train_loss"] == pytest.approx(whole["train_loss"], abs=1e-4)


def test_a_run_without_test_rows_is_whole_too(tiny_settings, tmp_path):
    """Then there is nothing to answer: no predictions, and the validation rows say how it went."""
    settings = tiny_settings(test_file=None, max_steps=1, validation_generations=0, jepa_lambda=0.0)
    report = train_run(read_run(settings), 1, tmp_path / "run")
    assert "exact_match" not in report and report["validation"]["ce_loss"] > 0 and report["alarm"] is None
    assert (tmp_path / "run" / "DONE").is_file() and not (tmp_path / "run" / "predictions.jsonl").exists()


# ---- arms in pairs ----


@pytest.fixture(scope="module")
def arms(tiny_settings, tmp_path_factory):
    """Trainers of three arms with the same seed, trained, with their first weights and the batches they saw."""
    seen = {}
    _, runs = read_experiment(tiny_settings(max_steps=14, eval_strategy="no"))
    for arm, run in runs.items():
        trainer, _ = build_trainer(run, 3, tmp_path_factory.mktemp(arm))
        first = {name: each.detach().clone() for name, each in trainer.jepa.named_parameters()}
        batches = []
        trainer.jepa.register_forward_pre_hook(lambda module, inputs, batches=batches: batches.append(inputs[0]))
        trainer.train()
        seen[arm] = (first, batches, trainer)
    return seen


def test_arms_of_one_seed_start_from_the_same_weights(arms):
    """Model and [PRED], bit for bit; and they end elsewhere, so they were trained differently."""
    first, _, trainer = arms["ntp"]
    for arm in ("jepa", "jepa_shuffled"):
        assert arms[arm][0].keys() == first.keys()
        assert all(torch.equal(arms[arm][0][name], value) for name, value in first.items())
        ends = zip(arms[arm][2].jepa.model.parameters(), trainer.jepa.model.parameters(), strict=True)
        assert not all(torch.equal(one, two) for one, two in ends)


def test_arms_of_one_seed_see_the_same_rows_in_the_same_order(arms):
    """Fourteen steps, over more than one epoch of 52 rows: sources and labelled tokens are those of the baseline."""
    batches = arms["ntp"][1]
    assert len(batches) == 14 and len({source for batch in batches for source in batch.sources}) == 52
    for arm in ("jepa", "jepa_shuffled"):
        for mine, base in zip(arms[arm][1], batches, strict=True):
            assert mine.sources == base.sources
            assert mine.labels[mine.labels >= 0].tolist() == base.labels[base.labels >= 0].tolist()


def test_the_control_differs_from_its_arm_in_the_target_alone(arms):
    """Promise 8 through a whole run: the rows of the main forward are the same, those of the target are not."""
    for mine, base in zip(arms["jepa_shuffled"][1], arms["jepa"][1], strict=True):
        assert torch.equal(mine.rows.input_ids, base.rows.input_ids) and torch.equal(mine.labels, base.labels)
        own = {tuple(row) for row in base.target_rows.input_ids.tolist()}
        assert own != {tuple(row) for row in mine.target_rows.input_ids.tolist()}


def test_another_seed_gives_other_weights_and_another_order(arms, tiny_settings, tmp_path):
    """The control of the pairing: nothing of the above comes from a constant."""
    trainer, _ = build_trainer(read_run(tiny_settings(eval_strategy="no", max_steps=1)), 4, tmp_path)
    first, batches, _ = arms["jepa"]
    name, value = next(iter(trainer.jepa.named_parameters()))
    assert not torch.equal(value, first[name])
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch.sources != batches[0].sources


def test_the_cost_of_the_views_is_counted(arms):
    """More operations than plain training, by less than a half; both are counted over the same rows."""
    flops = {arm: count_step_flops(trainer) for arm, (_, _, trainer) in arms.items()}
    assert 1.0 < flops["jepa"] / flops["ntp"] < 1.5
    assert math.isclose(flops["jepa"], flops["jepa_shuffled"], rel_tol=0.1)


def test_the_control_with_lambda_zero_is_plain_training_bit_for_bit(tiny_settings, tmp_path):
    """`jepa_lambda0` keeps all of a JEPA arm but the weight, and ends in the bits of `ntp`; `jepa` does not."""
    arms = {"ntp": {}, "jepa_lambda0": {"jepa_k": 3, "jepa_target": "ema", "jepa_distance": "infonce"}, "jepa": {}}
    _, runs = read_experiment(tiny_settings(arms=arms, seeds=[SEED], dropout=0.1, test_file=None))
    weights = {}
    for arm in arms:
        train_run(runs[arm], SEED, tmp_path / arm)
        weights[arm] = (tmp_path / arm / "model" / "model.safetensors").read_bytes()
    assert weights["ntp"] == weights["jepa_lambda0"]
    assert weights["ntp"] != weights["jepa"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has gradients for it")
def test_flex_attention_without_a_gpu_is_refused_before_anything_is_built(tiny_settings, tmp_path, raises):
    with raises("device_not_capable", "attn_implementation=flex_attention", "sdpa"):
        train_run(read_run(tiny_settings(attn_implementation="flex_attention")), SEED, tmp_path / "run")


def test_a_run_on_packed_rows_ends_like_one_on_padded_rows(tiny_settings, tmp_path):
    """The key goes all the way: other rows in the steps, and a run folder that is whole."""
    report = train_run(read_run(tiny_settings(packing=True, max_steps=2)), SEED, tmp_path / "packed")
    assert report["num_steps"] == 2 and (tmp_path / "packed" / "DONE").is_file()
