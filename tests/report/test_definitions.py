"""A report says what each arm is in one line, and what each of its words and signs means."""

from __future__ import annotations

from dataclasses import replace

from llm_jepa.experiments.results import Results
from llm_jepa.report.definitions import arm_lines, words_of
from llm_jepa.report.page import write_report

ARMS = {
    "ntp": {},
    "jepa": {"jepa_distance": "infonce", "jepa_target": "shared", "jepa_lambda": 0.1},
    "shuffled": {"jepa_distance": "infonce", "jepa_target": "shared", "jepa_lambda": 0.1, "shuffle_views": True},
    "taught": {"teacher": "ntp", "jepa_lambda": 0.0},
    "slow": {"jepa_k": 0, "learning_rate": 1e-4},
}


def with_arms(results: Results) -> Results:
    settings = {"train_file": "a.jsonl", "test_file": "b.jsonl", "views_file": "c.jsonl", "arms": ARMS}
    return replace(results, settings=settings)


def test_each_arm_is_one_line_of_what_it_trains_on(make_experiment, tmp_path):
    """The term in words; a control by its arm; any other setting that differs from the baseline's by name."""
    assert arm_lines(with_arms(make_experiment(tmp_path, list(ARMS)))) == {
        "ntp": "Next-token prediction alone; the baseline.",
        "jepa": "Next-token prediction and 0.1 times the JEPA term: InfoNCE, in which a view must find its partner in "
        "the batch; gradients through both views; 1 [PRED] token.",
        "shuffled": "As jepa, but each text has the code of another pair: a control.",
        "taught": "Next-token prediction alone; trained on the answers of ntp too.",
        "slow": "Next-token prediction and 1 times the JEPA term: cosine distance; gradient through the prediction "
        "only; no [PRED] tokens; learning_rate 0.0001.",
    }


def test_a_setting_that_only_the_baseline_changes_is_in_the_line_of_every_other_arm(make_experiment, tmp_path):
    """A baseline with a learning rate of its own would otherwise look like the same training without the term."""
    results = with_arms(make_experiment(tmp_path, list(ARMS)))
    arms = ARMS | {"ntp": {"learning_rate": 1e-4}}
    lines = arm_lines(replace(results, settings={**results.settings, "arms": arms}))
    assert lines["jepa"].endswith("1 [PRED] token; learning_rate default.") and "learning_rate" not in lines["slow"]


def test_the_page_has_a_line_for_each_arm_and_each_word_once(make_experiment, read_page, tmp_path):
    results = with_arms(make_experiment(tmp_path, list(ARMS)))
    words = read_page(write_report(results, tmp_path).read_text(encoding="utf-8")).words
    assert "shuffled As jepa, but each text has the code of another pair: a control." in words
    for word, meaning in words_of(results).items():
        assert words.count(f"{word} {' '.join(meaning.split())}") == 1


def test_settings_that_cannot_be_read_give_no_lines(make_experiment, tmp_path):
    """Those of a later version, say: a line that guesses would be worse than none."""
    results = make_experiment(tmp_path)
    assert arm_lines(replace(results, settings={"a_key_of_tomorrow": 1})) == {}
