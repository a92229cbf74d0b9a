"""Results: the file contract, and tables that a person can read."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from llm_jepa.experiments.build_results import build_results, write_results
from llm_jepa.experiments.equal_cost import Budget
from llm_jepa.experiments.results import (
    Alarm,
    Cost,
    Results,
    RunResult,
)
from llm_jepa.experiments.sentences import about_undecided, answer_of, arm_sentences, shown_by_itself
from llm_jepa.experiments.statistics import holm
from llm_jepa.report.markdown import format_markdown, only_bars
from llm_jepa.report.terminal import format_answer, format_table

SEEDS = (82, 23, 37, 84, 4, 7)
QUIET = Alarm(alarmed=False)
ALARM = Alarm(alarmed=True, first_step=40, reason="From step 40 to step 80 the views have collapsed.")
VALUES = {
    "ntp": (0.73, 0.75, 0.73, 0.74, 0.74, 0.76),
    "jepa": (0.71, 0.74, 0.70, 0.73, 0.72, 0.75),
    "control": (0.74, 0.74, 0.75, 0.73, 0.75, 0.75),
}


def runs_of(values=VALUES, **alarms) -> list[RunResult]:
    return [
        RunResult(arm, seed, {"exact_match": value, "retrieval/recall@1": 0.1, "eval_ce_loss": 0.5}, alarms.get(arm))
        for arm, by_seed in values.items()
        for seed, value in zip(SEEDS, by_seed, strict=False)
    ]


COST = {"ntp": Cost(1.0, 1.0), "jepa": Cost(1.18, 1.171)}


# ---- several test sets ----


def runs_on_two_sets(on_other: dict[str, tuple[float, ...]]) -> list[RunResult]:
    return [
        replace(run, metrics={**run.metrics, "tests/own/exact_match": on_other[run.arm][place % len(SEEDS)]})
        for place, run in enumerate(runs_of())
    ]


def test_each_test_set_has_its_comparisons_and_all_of_them_are_corrected_together():
    """Holm's correction is for arms x sets; results.json holds every set, and reads back as it was."""
    swapped = VALUES | {"jepa": tuple(value + 0.03 for value in VALUES["ntp"]), "ntp": VALUES["ntp"]}
    swapped["jepa"] = tuple(value - 0.001 * place for place, value in enumerate(swapped["jepa"]))
    results = build_results(runs_on_two_sets(swapped), cost=COST, tests=("people", "own"))
    assert list(results.tests) == ["people", "own"]
    each = [(one.arm, one.p_value, one.p_holm) for found in results.tests.values() for one in found.comparisons]
    corrected = holm({str(place): p for place, (_, p, _) in enumerate(each)})
    assert [p for _, _, p in each] == list(corrected.values()) and len(each) == 4
    assert results.verdicts["jepa"] == "worse"
    assert results.tests["own"].comparison_of("jepa").verdict == "better"
    assert results.tests["own"].arms["jepa"].cost == COST["jepa"]
    record = results.to_json()
    assert record["comparisons"] == record["tests"]["people"]["comparisons"]
    assert Results.from_json(record).to_json() == record


def test_the_headline_names_a_trade_off():
    """Worse on one set and better on the other is one answer, with both differences."""
    swapped = VALUES | {"jepa": tuple(value + 0.03 - 0.001 * n for n, value in enumerate(VALUES["ntp"]))}
    results = build_results(runs_on_two_sets(swapped), tests=("people", "own"))
    answer = answer_of(results)
    assert answer.short == "A trade-off: better on own, worse on people. No control was run."
    assert "On people, over 6 paired seeds" in answer.sentence and "On own: +2.8 points" in answer.sentence
    text = format_table(results)
    assert "Test set people" in text and "Test set own" in text and max(map(len, text.splitlines())) <= 80
    assert "Test set own:" in format_markdown(results)


def test_a_trade_off_without_a_control_says_so_but_not_yes():
    """Better on the main set: whether the match of the views is the reason is open."""
    higher = tuple(value + 0.03 - 0.001 * place for place, value in enumerate(VALUES["ntp"]))
    on_own = {"ntp": higher, "jepa": VALUES["ntp"]}
    runs = [
        replace(run, metrics={**run.metrics, "tests/own/exact_match": on_own[run.arm][place % len(SEEDS)]})
        for place, run in enumerate(runs_of({"ntp": VALUES["ntp"], "jepa": higher}))
    ]
    answer = answer_of(build_results(runs, tests=("people", "own")))
    assert answer.short == "A trade-off: better on people, worse on own. No control was run."


@pytest.mark.parametrize(
    ("on_main", "on_own", "short"),
    [
        (0.03, 0.03, "Yes."),
        (0.0, 0.03, "Yes, at equal steps. At equal FLOPs: no difference shown."),
        (0.0, -0.03, "Yes, at equal steps. At equal FLOPs: no difference shown. Worse on own."),
        (0.03, -0.03, "Yes, at equal steps. At equal FLOPs: a trade-off: better on people, worse on own."),
        (-0.03, -0.03, "Yes, at equal steps. At equal FLOPs: no, it is worse."),
    ],
)
def test_a_gain_at_equal_steps_is_no_yes_if_equal_cost_takes_it(on_main, on_own, short):
    """The first lines have the differences at equal cost on each test set, and name what is lost there."""

    def compared(arm, *gains):
        noise = [0.001 * (-1) ** place for place in range(len(SEEDS))]
        ours = [tuple(map(sum, zip(VALUES["ntp"], noise, [gain] * len(SEEDS), strict=True))) for gain in gains]
        main, own = ({arm: values, "ntp": VALUES["ntp"], "control": VALUES["ntp"]} for values in ours)
        runs = [
            replace(run, metrics={**run.metrics, "tests/own/exact_match": own[run.arm][SEEDS.index(run.seed)]})
            for run in runs_of(main)
        ]
        return build_results(runs, tests=("people", "own"), controls={arm: ["control"]})

    budget = Budget("flops", "jepa", "ntp", 1330, 2000, 1.5, 1.0)
    again = replace(compared("jepa@flops", on_main, on_own), budgets={budget.name: budget})
    answer = answer_of(replace(compared("jepa", 0.03, 0.0), at_equal={"flops": again}))
    assert answer.short == short
    assert answer.sentence.index("At equal FLOPs, on people: ") < answer.sentence.index("At equal FLOPs, on own: ")
    missing = answer_of(replace(compared("jepa", 0.03, 0.0), at_equal={"flops": compared("other", 0.0, 0.0)}))
    assert missing.short == "Yes, at equal steps. At equal FLOPs: not compared."
    lost = answer_of(compared("jepa", 0.0, -0.03))
    assert lost.short == "No difference shown. Worse on own."


@pytest.mark.parametrize(
    ("at_steps", "at_flops", "short"),
    [
        (0.0, 0.0, "No difference shown."),
        (0.0, -0.03, "No difference shown. At equal FLOPs: no, it is worse."),
        (-0.03, 0.0, "No, it is worse. At equal FLOPs: no difference shown."),
        (-0.03, 0.03, "No, it is worse. At equal FLOPs: yes; no control was run."),
    ],
)
def test_the_answer_has_equal_cost_wherever_it_differs(at_steps, at_flops, short):
    """Also where no gain is shown at equal steps."""

    def compared(arm, gain):
        noise = [0.001 * (-1) ** place for place in range(len(SEEDS))]
        ours = tuple(map(sum, zip(VALUES["ntp"], noise, [gain] * len(SEEDS), strict=True)))
        return build_results(runs_of({"ntp": VALUES["ntp"], arm: ours}))

    budget = Budget("flops", "jepa", "ntp", 1330, 2000, 1.5, 1.0)
    again = replace(compared("jepa@flops", at_flops), budgets={budget.name: budget})
    assert answer_of(replace(compared("jepa", at_steps), at_equal={"flops": again})).short == short


def test_a_trade_off_says_where_its_gain_is_not_more_than_the_controls():
    """On whichever set the gain is: here the control gains as much on the second."""
    higher = tuple(value + 0.03 - 0.001 * place for place, value in enumerate(VALUES["ntp"]))
    own = {"ntp": VALUES["ntp"], "jepa": higher, "control": higher[::-1]}
    lower = tuple(value - 0.03 + 0.001 * place for place, value in enumerate(VALUES["ntp"]))
    runs = [
        replace(run, metrics={**run.metrics, "tests/own/exact_match": own[run.arm][SEEDS.index(run.seed)]})
        for run in runs_of({"ntp": VALUES["ntp"], "jepa": lower, "control": VALUES["ntp"]})
    ]
    answer = answer_of(build_results(runs, tests=("people", "own"), controls={"jepa": ["control"]}))
    assert answer.short == "A trade-off: better on own, worse on people. On own not shown beyond its control."


@pytest.mark.parametrize("margin", [None, 0.03])
def test_an_interval_without_0_that_is_not_shown_is_explained(margin):
    """With a margin too, and on every set: p counts all comparisons."""
    gain = (0.005, 0.042, 0.013, 0.036, 0.008, 0.04)
    ours = tuple(map(sum, zip(VALUES["ntp"], gain, strict=True)))
    values = {"ntp": VALUES["ntp"], "jepa": ours} | {f"other{n}": VALUES["ntp"][::-1] for n in range(8)}
    runs = [
        replace(run, metrics={**run.metrics, "tests/own/exact_match": values[run.arm][SEEDS.index(run.seed)]})
        for run in runs_of(values)
    ]
    answer = answer_of(build_results(runs, tests=("people", "own"), margin=margin))
    assert answer.short.startswith("No difference shown") and ("not worse by more than 3.0" in answer.short) == bool(
        margin
    )
    assert answer.sentence.count("The interval leaves out 0, but it is for one comparison only.") == 2


def test_the_opening_has_a_plain_sentence_for_each_arm_with_its_collapse():
    """The baseline comes first; retrieval and collapse are said where they were measured."""
    results = replace(build_results(runs_of(jepa=ALARM, control=QUIET), cost=COST), headline="control")
    assert arm_sentences(results) == [
        "ntp: 74.2% exact match, the baseline; it finds the code of a text in 10.0% of cases.",
        "jepa: 72.5% exact match, -1.7 points: worse; it finds the code of a text in 10.0% of cases; its views "
        "collapsed in 6 of 6 runs, of which none recovered.",
        "control: 74.3% exact match, +0.2 points: no difference shown; it finds the code of a text in 10.0% of cases.",
    ]
    text = format_answer(results)
    assert text.startswith("Is control better than ntp? No difference shown. Over 6 paired seeds, control")
    assert all(each in " ".join(text.split()) for each in arm_sentences(results))
    assert max(map(len, text.splitlines())) <= 80


def test_the_headline_says_why_an_interval_without_0_shows_nothing():
    """p below 0.05 by itself, above it among three comparisons."""
    ahead = tuple(value + step for value, step in zip(VALUES["ntp"], (0.05, 0.01, 0.06, 0.0, 0.05, 0.01), strict=True))
    others = {f"other{n}": VALUES["ntp"][::-1] for n in range(3)}
    results = build_results(runs_of({"ntp": VALUES["ntp"], "jepa": ahead, **others}), headline="jepa")
    (comparison, *_) = results.main.comparisons
    assert comparison.p_value < 0.05 < comparison.p_holm and comparison.ci[0] > 0
    assert "The interval leaves out 0, but it is for one comparison only" in answer_of(results).sentence
    alone = build_results(runs_of({"ntp": VALUES["ntp"], "jepa": ahead}), headline="jepa")
    assert "leaves out 0" not in answer_of(alone).sentence
    same = build_results(runs_of({"ntp": (0.5, 0.6), "jepa": (0.6, 0.7)})).main.comparisons[0]
    assert same.p_value == same.p_holm == 0.5 and same.ci[0] > 0 and not shown_by_itself(same)


# ---- build_results ----


def test_the_schema_is_that_of_the_design():
    """Outside checks read these keys by these names."""
    results = build_results(runs_of(), cost=COST).to_json()
    assert results["metric"] == "exact_match"
    assert results["arms"]["jepa"] == {
        "seeds": {"4": 0.72, "7": 0.75, "23": 0.74, "37": 0.70, "82": 0.71, "84": 0.73},
        "mean": pytest.approx(0.725),
        "std": pytest.approx(np.std(VALUES["jepa"], ddof=1)),
        "n": 6,
    }
    first = results["comparisons"][0]
    assert {"arm", "baseline", "delta", "ci95", "p_value", "p_holm", "verdict"} <= first.keys()
    assert (first["arm"], first["baseline"], first["verdict"]) == ("jepa", "ntp", "worse")
    assert first["ci95"][0] < first["delta"] < first["ci95"][1] < 0
    assert results["cost"]["jepa"] == {"step_time_ratio": 1.18, "flops_ratio": 1.171, "run_flops_ratio": None}
    assert set(results["cost"]["control"].values()) == {None}


def test_p_values_are_corrected_over_all_comparisons():
    """Holm over the arms of the experiment, not arm by arm."""
    comparisons = build_results(runs_of()).main.comparisons
    assert {c.arm: c.p_holm for c in comparisons} == holm({c.arm: c.p_value for c in comparisons})


def test_results_go_through_json_unchanged():
    """Everything is a plain JSON value, keys are strings already, and the same results are read from it."""
    results = replace(build_results(runs_of(jepa=ALARM), cost=COST), settings={"max_steps": 10})
    record = results.to_json()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    again = Results.from_json(record)
    assert again.to_json() == record and again.arms == results.arms and again.verdicts == results.verdicts


def test_a_margin_is_in_every_form_of_the_results():
    """results.json, terminal, Markdown, CSV and the report's answer; a file of before loads without the keys."""
    results = build_results(runs_of(), margin=0.03)
    record = results.to_json()
    jepa, control = record["comparisons"]
    assert (jepa["verdict"], jepa["margin_points"], jepa["not_worse_shown"]) == ("worse", 3.0, True)
    assert control["verdict"] == "not worse by more than 3.0 points, shown"
    assert 0 < control["p_margin"] <= control["p_margin_holm"] < 0.05
    assert Results.from_json(json.loads(json.dumps(record))).to_json() == record
    table = format_table(results)
    assert max(map(len, table.splitlines())) <= 80
    assert "worse, at most 3.0" in table and "at most 3.0 worse" in table
    assert "worse, but not by more than 3.0 points, both shown" in format_markdown(results)
    assert answer_of(results).short == "No, it is worse, but not by more than 3.0 points."
    kept = answer_of(replace(results, headline="control")).short
    assert kept == "No difference shown; not worse by more than 3.0 points."
    for each in record["comparisons"]:
        for key in ("margin_points", "p_margin", "p_margin_holm", "not_worse_shown"):
            del each[key]
    assert Results.from_json(record).verdicts == {"jepa": "worse", "control": "no difference shown"}


def test_several_test_sets_stand_beside_each_other_and_the_top_level_is_the_first():
    """`tests` holds the arms and comparisons of each; cost and alarms are of the runs."""
    people = build_results(runs_of(jepa=ALARM), cost=COST)
    own = build_results(runs_of({"ntp": VALUES["jepa"], "jepa": VALUES["ntp"]}, jepa=ALARM), cost=COST)
    both = replace(people, tests={"people": people.main, "own": own.main})
    record = both.to_json()
    assert "tests" not in people.to_json()
    assert list(record["tests"]) == ["people", "own"] and record["arms"] == record["tests"]["people"]["arms"]
    assert [each["verdict"] for each in record["tests"]["own"]["comparisons"]] == ["better"]
    again = Results.from_json(json.loads(json.dumps(record)))
    assert again.to_json() == record and again.arms == people.arms
    assert again.tests["own"].arms["jepa"].cost == COST["jepa"] and len(again.tests["own"].arms["jepa"].raised) == 6


def test_arms_keep_their_order_and_the_baseline_leads():
    """A table reads the same however the runs came in."""
    shuffled = sorted(runs_of(), key=lambda run: (run.arm != "jepa", run.seed))
    assert list(build_results(shuffled).arms) == ["ntp", "jepa", "control"]
    assert build_results(shuffled).main.comparisons[0] == build_results(runs_of()).main.comparisons[0]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_failed_value_is_refused_by_arm_and_seed(bad: float, raises):
    """A nan in one run must not turn the whole table into nan."""
    with raises("value_not_finite", "'jepa', seed 37", bad):
        build_results([*runs_of({"ntp": VALUES["ntp"]}), RunResult("jepa", 37, {"exact_match": bad})])


def test_percent_in_place_of_shares_is_refused(raises):
    """71.2 would be printed as 7120%."""
    with raises("value_out_of_range", "'ntp', seed 82", "exact_match", "71.2"):
        build_results([RunResult("ntp", 82, {"exact_match": 71.2})])


def test_a_run_without_the_metric_or_given_twice_is_named(raises):
    """The text says which arm and seed, and what there is."""
    with raises("metric_missing", "'ntp', seed 4", "'exact_match'", "f1"):
        build_results([RunResult("ntp", 4, {"f1": 0.5})])
    with raises("run_repeated", "'ntp', seed 4"):
        build_results([RunResult("ntp", 4, {"exact_match": 0.5})] * 2)


def test_a_missing_baseline_is_a_configuration_error(raises):
    """With the arms that there are."""
    with raises("run_missing", "'plain'", "'ntp', 'jepa', 'control'"):
        build_results(runs_of(), baseline="plain")
    with raises("run_missing"):
        build_results([])


def test_an_experiment_with_gaps_still_has_results():
    """Failed runs are left out and named; one seed gives None in place of deviation, interval and p."""
    values = {"ntp": VALUES["ntp"], "jepa": VALUES["jepa"][:1]}
    results = build_results(runs_of(values))
    comparison = results.main.comparisons[0]
    assert results.arms["jepa"].values.std is None
    assert (comparison.ci, comparison.p_value, comparison.p_holm) == (None, None, None)
    assert comparison.missing == {"jepa": [4, 7, 23, 37, 84]}
    assert comparison.verdict == "no difference shown"
    assert "-" in format_table(results)


def test_the_baseline_alone_is_an_experiment_without_comparisons():
    """`train` with one arm writes the same files."""
    results = build_results(runs_of({"ntp": VALUES["ntp"]}))
    assert results.main.comparisons == ()
    assert "baseline" in format_table(results)
    assert "baseline" in format_markdown(results)


def test_values_that_were_not_measured_are_null():
    """The JEPA distance of a run without JEPA is nan in training logs, and null here."""
    results = build_results([RunResult("ntp", 4, {"exact_match": 0.5, "eval_jepa_loss": math.nan})]).to_json()
    assert results["runs"] == [{"arm": "ntp", "seed": 4, "metrics": {"exact_match": 0.5, "eval_jepa_loss": None}}]


def test_eval_records_become_runs():
    """Nested numbers get a path, retrieval is found under it, text and truth values are no metrics."""
    record = {"exact_match": 0.5, "retrieval": {"recall@1": 0.25, "mrr": 0.5}, "scorer": "exact", "ok": True}
    run = RunResult.from_eval("ntp", 4, {**record, "alarm": {"alarmed": False, "first_step": None, "reason": None}})
    assert run.metrics == {"exact_match": 0.5, "retrieval/recall@1": 0.25, "retrieval/mrr": 0.5}
    assert run.alarm == QUIET
    results = build_results([run])
    assert results.to_json()["retrieval"]["ntp"]["recall@1"] == {
        "seeds": {"4": 0.25},
        "mean": 0.25,
        "std": None,
        "n": 1,
    }
    assert "recall@10" not in results.arms["ntp"].retrieval


def test_retrieval_among_held_out_views_has_a_column_of_its_own_where_there_is_any():
    """Rows of views_file find their other view; that says nothing of the task's codes."""
    record = {"exact_match": 0.5, "retrieval": {"recall@1": 0.25}, "views_retrieval": {"recall@1": 0.75}}
    results = build_results([RunResult.from_eval("ntp", 4, record)])
    assert results.arms["ntp"].retrieval["recall@1"].mean == 0.25
    assert results.arms["ntp"].views_retrieval["recall@1"].mean == 0.75
    assert "of views %" in format_table(results) and "| 75.0 |" in format_markdown(results)
    assert "of views %" not in format_table(build_results(runs_of()))


def test_retrieval_among_views_is_never_taken_for_that_of_the_task():
    """Test rows without views of their own have no retrieval; that of views_file stays in its column."""
    record = {"exact_match": 0.5, "retrieval": {"recall@1": None}, "views_retrieval": {"recall@1": 0.42}}
    run = RunResult.from_eval("ntp", 4, record)
    assert run.metric("recall@1") is None and run.metric("views_retrieval/recall@1") == 0.42
    assert build_results([run]).arms["ntp"].retrieval == {}


def test_answers_that_the_metric_could_not_judge_are_told_by_arm():
    """They count as not right; two arms with different numbers of them are not compared in silence."""
    counts = {"ntp": (0, 0), "jepa": (3, 1)}
    runs = [
        RunResult.from_eval(arm, seed, {"regex": 0.5, "num_unknown": {"regex": one}, "num_gold_errors": {"regex": two}})
        for arm, (one, two) in counts.items()
        for seed in (1, 2)
    ]
    [note] = about_undecided(build_results(runs, metric="regex"))
    assert "that regex could not decide" in note and note.endswith("ntp 0, jepa 8.")
    assert about_undecided(build_results(runs_of())) == []
    elsewhere = [replace(run, metrics={**run.metrics, "tests/own/num_unknown/exact_match": 2.0}) for run in runs_of()]
    on_two = [replace(run, metrics={**run.metrics, "tests/own/exact_match": 0.5}) for run in elsewhere]
    [note] = about_undecided(build_results(on_two, tests=("people", "own")))
    assert "over all seeds and test sets" in note and note.endswith("ntp 12, jepa 12, control 12.")


# ---- write_results ----


def test_files_hold_every_run_and_every_scalar(tmp_path):
    """results.json is `to_json`; results.csv has a row an arm and seed, and blanks for what was not measured."""
    runs = [*runs_of(jepa=ALARM), RunResult("extra", 82, {"exact_match": 0.5, "f1": math.nan}, QUIET)]
    results = build_results(runs, cost=COST)
    json_path, csv_path = write_results(results, tmp_path / "out")
    assert json.loads(json_path.read_text()) == results.to_json()
    rows = list(csv.DictReader(csv_path.read_text().splitlines()))
    assert len(rows) == 19
    assert list(rows[0]) == ["arm", "seed", "exact_match", "eval_ce_loss", "f1", "retrieval/recall@1", "collapse_alarm"]
    assert rows[0] == {
        "arm": "ntp",
        "seed": "4",
        "exact_match": "0.74",
        "eval_ce_loss": "0.5",
        "f1": "",
        "retrieval/recall@1": "0.1",
        "collapse_alarm": "",
    }
    assert {row["collapse_alarm"] for row in rows if row["arm"] == "jepa"} == {"1"}
    assert rows[-1]["collapse_alarm"] == "0"


def test_a_failed_write_leaves_the_old_file_and_no_scrap(tmp_path):
    """Files are renamed into place whole; a value that JSON cannot hold is refused before that."""
    results = build_results(runs_of())
    write_results(results, tmp_path)
    before = (tmp_path / "results.json").read_bytes()
    with pytest.raises(ValueError):
        write_results(replace(results, settings={"bad": math.nan}), tmp_path)
    assert (tmp_path / "results.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.csv", "results.json"]


# ---- tables ----


def test_the_table_says_what_was_found():
    """Percent and points, the verdict, the cost, the alarm, and the sentences."""
    table = format_table(build_results(runs_of(jepa=ALARM, ntp=QUIET), cost=COST))
    line = next(line for line in table.splitlines() if line.startswith("jepa"))
    assert " ".join(line.split()) == "jepa 6 72.5 ± 1.9 -1.7 [-2.5, -0.8] 0.008 worse"
    assert "jepa 10.0 ± 0.0 1.18x 1.17x 6 of 6 runs" in " ".join(table.split())
    assert "0 of 6 runs" in table and "not watched" in table
    assert "Collapse alarm in jepa, seeds 4, 7, 23, 37, 82, 84 (6 of 6 runs)." in table
    assert "None of 6 had recovered at the last check. Seed 4: From step 40" in " ".join(table.split())
    assert "jepa: 72.5% against 74.2% (ntp), -1.7 points" in table


def test_the_table_fits_a_terminal_whatever_the_names_and_numbers():
    """Long names are cut in the middle; no line is longer than 80 columns."""
    long = {
        "ntp": (0.0, 1.0, 0.0, 1.0, 0.0, 1.0),
        "jepa-infonce-shared-lambda-0.1-k-4-layer-12-temperature-0.05": (1.0, 0.0, 1.0, 0.0, 1.0, 0.0),
        "jepa-infonce-shared-lambda-0.1-k-4-layer-12-temperature-0.10": (0.5, 0.5, 0.5, 0.5, 0.5, 0.5),
    }
    reason = replace(ALARM, reason="A long reason. " * 30)
    runs = [RunResult(run.arm, run.seed, run.metrics, reason) for run in runs_of(long)]
    lines = format_table(build_results(runs, cost=COST)).splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith("jep") and ".05 " in line for line in lines) == 2  # the ends of names stay


def test_markdown_is_one_table_with_as_many_cells_in_each_row():
    """For docs: a bar in a name does not break the table."""
    values = {"ntp": VALUES["ntp"], "a|b": VALUES["jepa"]}
    lines = format_markdown(build_results(runs_of(values)), only_bars).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 4
    assert {line.replace(r"\|", "").count("|") for line in table} == {11}
    assert r"| a\|b |" in table[3]
    assert lines[-1].startswith(r"- a\|b: 72.5% against 74.2% (ntp)")
