"""From a claim to a verdict, end to end on two steps of a small model."""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil

import pytest
import torch

from llm_jepa.papers.claims import wording
from llm_jepa.papers.claims.measures import finished_runs, read_values
from llm_jepa.papers.claims.plan import SEEDS
from llm_jepa.papers.claims.plans import read_plans
from llm_jepa.papers.claims.records import (
    command_of,
    judge_record,
    make_record,
    merge_records,
    read_record,
    read_records,
)
from llm_jepa.papers.claims.reproduce import Call, _rows, missing_files, reproduce, second_half, select
from llm_jepa.papers.claims.verdicts import WORDS
from llm_jepa.runs.folder import RunFolder

SMOKE = {"max_steps": 2, "max_test_rows": 8, "max_new_tokens": 4, "use_cpu": True, "logging_steps": 1}


@pytest.fixture(scope="module")
def reproduced(small_data, quick_runs, tmp_path_factory):
    """A call for one claim of two arms, what it returned, and a second one for a claim that needs one arm more."""
    out = tmp_path_factory.mktemp("claims") / "out"
    call = Call(["llmjepa.t10.ratioinf"], scale="tiny", out=out, data=small_data, seeds=[1, 2], changes=SMOKE)
    ((record, judged),) = reproduce(call)
    assert sorted(quick_runs) == ["jepa_lambda0-s1", "jepa_lambda0-s2", "ntp-s1", "ntp-s2"]
    quick_runs.clear()
    ((grown, more),) = reproduce(dataclasses.replace(call, patterns=["llmjepa.t10.ratio0"]))
    return call, (record, judged), (grown, more), list(quick_runs)


@pytest.mark.slow
def test_a_claim_runs_its_own_arms_and_gets_a_verdict(reproduced):
    """Two arms of thirty, two seeds; the accuracy is that of the published recipe."""
    _, (record, judged), _, _ = reproduced
    assert list(judged) == ["llmjepa.t10.ratioinf"]
    assert all(each.word in WORDS and each.word != "not run" for each in judged.values())
    assert set(record["values"]["accuracy"]) == {"ntp", "jepa_lambda0"}
    assert record["values"]["accuracy"] == record["values"]["starts_with"]
    assert "jepa_lambda0 against ntp, accuracy: " in wording.sentence(judged["llmjepa.t10.ratioinf"])


@pytest.mark.slow
def test_what_was_run_for_one_claim_is_not_run_again_for_another(reproduced):
    """The second claim adds one arm to the same folder, and itself to the same record."""
    call, (record, _), (grown, more), started = reproduced
    assert sorted(started) == ["gamma0-s1", "gamma0-s2"] and list(more) == ["llmjepa.t10.ratio0"]
    assert grown["claims"] == ["llmjepa.t10.ratio0", "llmjepa.t10.ratioinf"]
    assert record["values"]["accuracy"].items() <= grown["values"]["accuracy"].items()
    assert read_records(call.out / "results") == [grown]


@pytest.mark.slow
def test_a_record_names_no_place_of_the_machine_and_says_what_was_changed(reproduced):
    """It is committed, and made into a page."""
    call, (record, _), _, _ = reproduced
    text = json.dumps(record)
    assert str(call.out) not in text and str(call.data) not in text and "/" not in record["command"]
    assert record["changed"]["max_steps"] == 2 and set(record["data_sha256"]) == {
        "nlrx_synth_train.second_half.jsonl",
        "nlrx_synth_test.jsonl",
    }


@pytest.mark.slow
def test_runs_start_from_a_base_that_has_not_seen_their_rows(reproduced):
    """It was trained on the first half of the rows, which the runs do not read; all runs start from it."""
    call = reproduced[0]
    base = json.loads((call.out / "base" / "data.json").read_text())
    assert base["summary"]["train"]["kept"] <= 30
    rows = (call.data / "nlrx_synth_train.jsonl").read_text().splitlines()
    assert (call.out / "data" / "nlrx_synth_train.second_half.jsonl").read_text().splitlines() == rows[30:]
    run = json.loads((call.out / "finetune" / "ntp-s1" / "data.json").read_text())
    assert run["tokenizer_sha256"] == base["tokenizer_sha256"]


@pytest.mark.slow
def test_a_run_that_is_trained_again_is_measured_again(reproduced, tmp_path):
    """What was measured of the model before belongs to that one."""
    folder = tmp_path / "finetune"
    shutil.copytree(reproduced[0].out / "finetune", folder)
    first = read_values(folder, "stp_loss", ["ntp"])["ntp"]
    shutil.rmtree(folder / "ntp-s1")
    shutil.copytree(folder / "gamma0-s1", folder / "ntp-s1")
    again = read_values(folder, "stp_loss", ["ntp"])["ntp"]
    assert again[1] != first[1] and again[2] == first[2]


def test_the_halves_share_no_row_whatever_the_lines_hold(tmp_path):
    """Blank lines are no rows, and a line separator within a text ends none."""
    rows = [json.dumps({"text": f"a\u2028b{place}", "code": str(place)}, ensure_ascii=False) for place in range(8)]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n\n".join(rows) + "\n", encoding="utf-8", newline="\n")
    second = second_half(file, tmp_path / "data").read_text(encoding="utf-8").split("\n")
    assert second == [*rows[4:], ""] and _rows(file) == [row.encode() for row in rows]


@pytest.mark.slow
def test_results_can_be_taken_from_a_folder_of_compare(reproduced, quick_runs, tmp_path):
    """--from reads an experiment's folder, or the folder of several, and runs nothing."""
    call, (record, judged), _, _ = reproduced
    quick_runs.clear()
    ((from_out, _),) = reproduce(dataclasses.replace(call, source=call.out, out=tmp_path / "other"))
    ((read, verdicts),) = reproduce(dataclasses.replace(call, source=call.out / "finetune", out=tmp_path))
    assert quick_runs == [] and read_record(tmp_path / "results" / "finetune.json") == read
    assert from_out["values"] == read["values"]
    assert read["values"]["accuracy"]["ntp"] == record["values"]["accuracy"]["ntp"]
    assert {claim: each.word for claim, each in verdicts.items()} == {
        claim: each.word for claim, each in judged.items()
    }


@pytest.mark.slow
def test_runs_of_other_settings_are_refused_by_name(reproduced, tmp_path, raises):
    """The protocol's runs have 150 steps; those of the smoke test have two."""
    call = reproduced[0]
    plan = read_plans("tiny")["finetune"]
    with raises("settings_changed", "finetune", "max_steps was 2 and is 150"):
        make_record(plan, call.out / "finetune", ["llmjepa.t3.cosine"])
    with raises("run_not_finished", tmp_path, "finetune"):
        make_record(plan, tmp_path, ["llmjepa.t3.cosine"])


@pytest.mark.slow
def test_geometry_and_the_loss_of_a_tube_are_measured_once_and_kept(reproduced):
    """On a model that trained neither; the second reading is from the file."""
    folder = reproduced[0].out / "finetune"
    for measure, name in (("stp_loss", "stp_loss"), ("sv100", "published")):
        first = read_values(folder, measure, ["ntp"])
        kept = folder / "measured" / f"ntp-s1.{name}.json"
        written = kept.stat().st_mtime_ns
        assert first == read_values(folder, measure, ["ntp"]) and 0 < first["ntp"][1] < 100
        assert kept.stat().st_mtime_ns == written
        kept.unlink()
        torch.seed()  # as another process would have it
        assert first == read_values(folder, measure, ["ntp"])


@pytest.mark.slow
def test_a_record_names_the_call_that_makes_it_again(reproduced):
    """For all its claims and seeds, whatever the last call asked for: families by their pattern, or the experiment."""
    _, (record, _), (grown, _), _ = reproduced
    assert record["command"] == "llm-jepa reproduce llmjepa.t10.ratioinf --scale tiny --seeds 1,2"
    assert grown["command"] == "llm-jepa reproduce llmjepa.t10.ratio0 llmjepa.t10.ratioinf --scale tiny --seeds 1,2"
    for scale, recipe in (("tiny", "as_published"), ("tiny", "fixed"), ("full", "as_published")):
        for plan in read_plans(scale, recipe).values():
            for claims in ([*plan.checks][:1], [*plan.checks][::2], [*plan.checks]):
                words = shlex.split(command_of(plan, claims, SEEDS))
                again = select(Call([word for word in words[2 : words.index("--scale")]], scale=scale, recipe=recipe))
                found = dict((other.name, own) for other, own in again.plans)
                assert set(found[plan.name]) == set(claims), (plan.name, words)


def without(record, arm):
    """A record as of a folder in which an arm was not run."""
    values = {measure: {a: s for a, s in arms.items() if a != arm} for measure, arms in record["values"].items()}
    return record | {"values": values}


@pytest.mark.slow
def test_a_record_keeps_runs_whose_folders_are_gone(reproduced, tmp_path):
    """A later call in an empty folder runs what it needs, checks that against the record, and adds to it."""
    call, (record, _), (grown, _), _ = reproduced
    folder = tmp_path / "finetune"
    shutil.copytree(call.out / "finetune", folder)
    for run in (*folder.glob("gamma0-*"), *folder.glob("measured/gamma0-*")):
        shutil.rmtree(run) if run.is_dir() else run.unlink()
    again = dataclasses.replace(call, patterns=["llmjepa.t10.ratioinf"], source=folder, results=call.out / "results")
    ((read, judged),) = reproduce(again)
    assert read["values"] == grown["values"] and read["claims"] == grown["claims"]
    assert read["command"] == grown["command"] and list(judged) == ["llmjepa.t10.ratioinf"]
    assert judge_record(read)["llmjepa.t10.ratio0"].word == judge_record(grown)["llmjepa.t10.ratio0"].word != "not run"
    assert merge_records(grown, record) == grown  # it has all that the earlier one has


@pytest.mark.slow
def test_values_that_do_not_agree_are_not_put_into_one_record(reproduced, raises):
    """Of two machines, two versions, or two sets of rows."""
    grown = reproduced[2][0]
    fewer = without(grown, "gamma0")
    other = json.loads(json.dumps(fewer))
    other["values"]["recall"]["ntp"]["2"] += 0.125
    values = (each["values"]["recall"]["ntp"]["2"] for each in (grown, other))
    with raises("values_differ", "recall of ntp, seed 2", *values):
        merge_records(other, grown)
    with raises("data_differs", "data_sha256", "nlrx_synth_test.jsonl was", "and is 'x'"):
        merge_records(fewer | {"data_sha256": grown["data_sha256"] | {"nlrx_synth_test.jsonl": "x"}}, grown)
    with raises("settings_changed", "changed: max_steps was 2 and is 3"):
        merge_records(fewer | {"changed": grown["changed"] | {"max_steps": 3}}, grown)
    alone = without(without(grown, "ntp"), "jepa_lambda0")
    with raises("no_common_run", "finetune"):
        merge_records(alone, without(grown, "gamma0"))


@pytest.mark.slow
def test_runs_on_other_data_are_no_runs_of_the_claims(reproduced, tmp_path, raises):
    """A folder of `compare` whose settings fit, on another file."""
    call = reproduced[0]
    shutil.copytree(call.out / "finetune", tmp_path / "finetune")
    config = tmp_path / "finetune" / "ntp-s2" / "config.yaml"
    config.write_text(config.read_text().replace("nlrx_synth_test", "nlrx_turk_test"))
    with raises("data_differs", "ntp-s2", "test_file", "nlrx_turk_test.jsonl", "nlrx_synth"):
        reproduce(dataclasses.replace(call, source=tmp_path / "finetune", out=tmp_path))


@pytest.mark.slow
def test_a_verdict_on_a_handful_of_test_rows_is_none(reproduced):
    """Seeds do not vary the rows: ten of them say nothing of others of their kind."""
    claim = "stp.t1.dotstar2.vs_ntp"
    values = {
        "stp": {"82": 0.6, "23": 0.61, "37": 0.59, "84": 0.6, "4": 0.605},
        **{arm: {"82": 0.3, "23": 0.29, "37": 0.31, "84": 0.305, "4": 0.3} for arm in ("ntp", "jepa_lambda0")},
    }
    record = reproduced[1][0] | {"claims": [claim], "values": {"accuracy_dotstar2": values}}
    for count, expected in ((10, "inconclusive"), (300, "reproduced"), (None, "reproduced")):
        judged = judge_record(record | {"num_rows": {} if count is None else {"accuracy_dotstar2": count}})[claim]
        assert judged.word == expected
        assert ("only 10 test rows" in judged.outcomes[0].reason) == (count == 10)


def test_measures_of_answers_are_counts_of_rows(tmp_path):
    """Two of four golds end with ".*"; one of them is answered; one other answer is wrong by its suffix alone."""
    run = tmp_path / "jepa-s1"
    run.mkdir()
    rows = [("a.*", "a.*"), ("b.*", "b"), ("c", "x"), ("d", "d")]
    text = "".join(json.dumps({"gold": g, "output": o, "exact_match": g == o}) + "\n" for g, o in rows)
    (run / "predictions.jsonl").write_text(text)
    (run / "config.yaml").write_text("metric: exact_match\n")
    (run / "DONE").touch()
    looks = [{"step": step, "eval_exact_match": step / 100} for step in (10, 20, 30, 40, 50, 60)]
    losses = [{"step": step, "ce_loss": float(step)} for step in range(1, 21)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*losses, *looks]))

    def read(measure: str) -> float:
        return read_values(tmp_path, measure, ["jepa"])["jepa"][1]

    assert read("accuracy_dotstar") == 0.5 and read("suffix_errors") == 0.25
    assert read("accuracy@1") == 0.1 and read("accuracy@6") == 0.6 and read("accuracy_stages") == pytest.approx(0.35)
    assert read("ce_loss") == 19.5
    assert read_values(tmp_path, "accuracy_dotstar2", ["jepa"]) == {}
    assert finished_runs(tmp_path, "jepa") == {1: RunFolder(run)} and finished_runs(tmp_path, "je") == {}


# ---- what cannot be run ----


def test_claims_without_an_experiment_at_a_scale_are_left_out_and_reported(small_data, raises):
    """Of a pattern the others are run; alone it is an error that says why."""
    selection = select(Call(["llmjepa.t6.s1.*"], scale="tiny", data=small_data))
    ((plan, claims),) = selection.plans
    assert plan.name == "loss_dropout" and len(claims) == 5 and list(selection.left_out) == ["llmjepa.t6.s1.ld0_l1"]
    with raises("claim_not_runnable", "llmjepa.t5.qwen3", "scale tiny", "--scale full"):
        select(Call(["llmjepa.t5.qwen3"], scale="tiny"))


def test_an_experiment_by_name_stands_for_all_that_it_decides():
    """`llm-jepa reproduce lora --scale tiny`."""
    ((plan, claims),) = select(Call(["lora"], scale="tiny")).plans
    assert plan.name == "lora" and set(claims) == set(plan.checks)


def test_missing_data_and_weights_are_named_with_how_to_get_them(tmp_path, monkeypatch, raises):
    """Nothing is asked of the hub."""
    monkeypatch.setattr("llm_jepa.papers.claims.reproduce._is_cached", lambda name: False)
    call = Call(["llmjepa.t12.gemma2b"], data=tmp_path)
    ((plan, _),) = select(call).plans
    data, weights = missing_files(call, plan)
    assert "nlrx_synth_train.jsonl" in data and "--data" in data and "deep-regex" in data
    assert "google/gemma-2-2b-it" in weights and "accept its licence" in weights and "hf download" in weights
    with raises("file_missing", "nlrx_synth_train.jsonl", "google/gemma-2-2b-it"):
        reproduce(call)
    for name in ("nlrx_synth_train.jsonl", "nlrx_synth_test.jsonl"):
        (tmp_path / name).write_text('{"text": "a", "code": "b"}\n')
    with raises("not_downloaded", "google/gemma-2-2b-it", "hf download"):
        reproduce(call)
    monkeypatch.setattr("llm_jepa.papers.claims.reproduce._is_cached", lambda name: True)
    assert missing_files(call, plan) == []


def test_a_full_size_claim_needs_no_weights_where_the_papers_start_from_none(small_data):
    """Table 2 and its rows."""
    call = Call(["llmjepa.t2.synth"], data=small_data)
    ((plan, _),) = select(call).plans
    assert missing_files(call, plan) == [] and plan.name == "full.table2"
