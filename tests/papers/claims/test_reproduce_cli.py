"""`llm-jepa reproduce` as its users meet it: exit codes, 80 columns, one JSON object as the last line."""

from __future__ import annotations

import json

import pytest
import yaml

from llm_jepa.cli import main
from llm_jepa.experiments.experiment import read_experiment
from llm_jepa.progress import WIDTH


@pytest.fixture
def call(capsys):
    """Run a command in this process; return exit code, output without its last line, that line, and errors."""

    def call(*argv):
        capsys.readouterr()
        code = main(["reproduce", *map(str, argv)])
        out, err = capsys.readouterr()
        body, _, last = out.rstrip("\n").rpartition("\n")
        return code, body, json.loads(last) if last else None, err

    return call


def test_the_list_shows_every_claim_with_what_it_needs_in_eighty_columns(call):
    """Weights, data, hours, and the experiment that decides it on a small model."""
    code, body, last, _ = call("--list")
    assert code == 0 and last["claims"] == 187 and last["tiny"] >= 40 and len(last["ids"]) == 187
    assert max(map(len, body.splitlines())) <= WIDTH
    (row,) = [line.split() for line in body.splitlines() if line.startswith("llmjepa.t2.synth")]
    assert row == ["llmjepa.t2.synth", "none", "nlrx_synth", row[3], "table2", "yes"] and float(row[3]) > 0
    assert call("--list", "llmjepa.t3.*")[2]["claims"] == 6


def test_an_unknown_claim_is_a_wrong_call_and_the_nearest_is_named(call):
    """So is none at all."""
    code, _, _, err = call("llmjepa.t2.synht", "--scale", "tiny")
    assert code == 2 and "'llmjepa.t2.synth'" in err and "[unknown_claim]" in err
    code, _, _, err = call()
    assert code == 2 and "--list" in err and "[setting_missing]" in err


def test_a_dry_run_prints_the_configuration_that_compare_takes_and_what_is_missing(call, tmp_path):
    """Of Table 2 at the papers' size, without data; nothing is written."""
    code, body, last, _ = call("llmjepa.t2.synth", "--dry-run", "--data", tmp_path, "--out", tmp_path / "out")
    assert code == 0 and last["runs"] == 20 and last["experiments"] == ["full.table2"] and len(last["missing"]) == 1
    text = body.partition("missing  ")[0]
    config, runs = read_experiment(yaml.safe_load(text))
    assert config.seeds == [82, 23, 37, 84, 4] and list(runs) == ["ntp", "jepa_lambda0", "jepa", "jepa_shuffled"]
    assert "--data" in body.partition("missing  ")[2] and not (tmp_path / "out").exists()


def test_missing_data_is_a_wrong_call_that_says_what_to_get(call, tmp_path):
    """Nothing is started."""
    code, _, last, err = call("llmjepa.t3.cosine", "--scale", "tiny", "--data", tmp_path, "--out", tmp_path / "out")
    assert (
        code == 2 and last is None and "--data" in err and "[file_missing]" in err and not (tmp_path / "out").exists()
    )


def test_a_claim_that_no_small_experiment_decides_says_what_does(call):
    """Another model, and a row that states nothing."""
    code, _, _, err = call("llmjepa.t5.qwen3", "--scale", "tiny")
    assert code == 2 and "--scale full" in " ".join(err.split()) and "[claim_not_runnable]" in err
    code, _, _, err = call("audit.null22")
    assert code == 2 and "audit.null22" in err and "[claim_not_runnable]" in err


def test_runs_of_another_experiment_are_refused(call, tmp_path, small_data):
    """--from a folder without them."""
    code, _, _, err = call("llmjepa.t2.synth", "--scale", "tiny", "--from", tmp_path, "--out", tmp_path / "out")
    assert code == 2 and "table2" in err and str(tmp_path) in err and "[run_not_finished]" in err
