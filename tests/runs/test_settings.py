"""From YAML to checked settings: every mistake is an error that names its key, and nothing is ignored."""

from __future__ import annotations

import dataclasses

import pytest

from llm_jepa.errors import ConfigError
from llm_jepa.experiments.experiment import ExperimentConfig, read_experiment
from llm_jepa.runs.build_trainer import notes_on
from llm_jepa.runs.settings import MANAGED, PARTS, describe_fields, naming_settings, parse_override, read_run, read_yaml
from llm_jepa.training.arguments import JEPATrainingArguments
from llm_jepa.yaml_loading import load_yaml


@pytest.fixture
def refused(raises):
    """Read an experiment whose settings must give an error of this code, with these values."""

    def read(settings, code, *values):
        with raises(code, *values) as caught:
            read_experiment(settings)
        assert isinstance(caught.value, ConfigError)

    return read


def test_an_error_of_a_library_is_blamed_on_the_setting_whose_value_it_has_as_a_word(raises):
    """The no of "cannot" is not the no of eval_strategy."""
    run = read_run({"train_file": "a.jsonl", "eval_strategy": "no", "lr_scheduler_type": "polynomial"})
    for text, blamed in (
        ("it cannot be", "A training setting"),
        ("polynomial fails", "lr_scheduler_type='polynomial'"),
    ):
        with raises("setting_refused", f"{blamed} is refused: {text}"), naming_settings(run):
            raise ValueError(text)


# ---- keys ----


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("jepa_lamda", "jepa_lambda"),
        ("lerning_rate", "learning_rate"),
        ("seed_s", "seeds"),
        ("trainfile", "train_file"),
        ("Model", "model"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(key, nearest, refused):
    refused({key: 1}, "key_unknown", repr(key), repr(nearest))


def test_an_unknown_key_of_an_arm_names_the_arm(refused):
    refused({"arms": {"ntp": {}, "mine": {"jepa_kk": 1}}}, "key_unknown", "arm mine", "'jepa_kk'", "'jepa_k'")


def test_a_token_is_no_setting(raises):
    """G4: config.yaml, results.json and the report hold every setting; the text does not repeat it."""
    for settings in ({"hub_token": "hf_s3cr3t"}, {"arms": {"ntp": {}, "jepa": {"hub_token": "hf_s3cr3t"}}}):
        with raises("key_secret", "hub_token", "HF_TOKEN") as error:
            read_experiment({"train_file": "a.jsonl", "test_file": "b.jsonl"} | settings)
        assert "s3cr3t" not in str(error.value)


def test_a_key_like_no_other_gets_no_suggestion(raises):
    with raises("key_unknown", "'zzzzzz'") as error:
        read_run({"zzzzzz": 1})
    assert "Did you mean" not in str(error.value)


@pytest.mark.parametrize("key", sorted(MANAGED))
def test_what_the_experiment_decides_cannot_be_set(key, refused):
    """Set in a file it would be ignored, so it is refused; also within an arm."""
    refused({key: 1}, "key_reserved", key)
    refused({"arms": {"ntp": {}, "mine": {key: 1}}}, "key_reserved", "arm mine", key)


@pytest.mark.parametrize("key", ["seeds", "workers", "baseline", "arms"])
def test_an_arm_cannot_change_what_belongs_to_the_experiment(key, refused):
    refused({"arms": {"ntp": {}, "mine": {key: [1]}}}, "key_misplaced", f"arms.mine.{key}")


# ---- values ----


def test_numbers_that_yaml_takes_for_text_are_numbers(tmp_path):
    """YAML 1.1 reads 1e-5 as text; a learning rate means the number."""
    (tmp_path / "config.yaml").write_text("learning_rate: 1e-5\njepa_lambda: 1\nmax_steps: 2e2\nseeds: [1, 2]\n")
    _, runs = read_experiment(read_yaml(tmp_path / "config.yaml"))
    args = runs["jepa"].training_arguments("out")
    assert (args.learning_rate, args.max_steps) == (1e-5, 200)
    assert runs["jepa"].jepa.jepa_lambda == 1.0 and isinstance(runs["jepa"].jepa.jepa_lambda, float)


@pytest.mark.parametrize(
    ("settings", "code", "values"),
    [
        ({"jepa_k": "two"}, "wrong_type", ["jepa_k='two'", "text", "whole number"]),
        ({"jepa_k": 1.5}, "wrong_type", ["jepa_k=1.5", "number", "whole number"]),
        ({"jepa_k": True}, "wrong_type", ["jepa_k=True", "true or false", "whole number"]),
        ({"learning_rate": "fast"}, "wrong_type", ["learning_rate='fast'", "text", "number"]),
        ({"learning_rate": float("nan")}, "value_not_finite", ["learning_rate=nan"]),
        ({"jepa_lambda": float("inf")}, "value_not_finite", ["jepa_lambda=inf"]),
        ({"jepa_lambda": None}, "wrong_type", ["jepa_lambda=None", "null", "number"]),
        ({"train_file": 3}, "wrong_type", ["train_file=3", "whole number", "text or a list"]),
        ({"packing": "yes"}, "wrong_type", ["packing='yes'", "text", "true or false"]),
        ({"seeds": 82}, "wrong_type", ["seeds=82", "a list, not a whole number. Write seeds: [82]."]),
        ({"seeds": [82, "x"]}, "wrong_type", ["seeds=[82, 'x']"]),
        ({"seeds": [82, 1.5]}, "wrong_type", ["seeds=[82, 1.5]"]),
        ({"seeds": [True]}, "wrong_type", ["seeds=[True]"]),
        ({"seeds": []}, "value_empty", ["seeds=[]"]),
        ({"seeds": [1, 1]}, "value_repeated", ["seeds=[1, 1]"]),
        ({"seeds": [-1]}, "value_out_of_range", ["seeds=[-1]", "between 0 and"]),
        ({"workers": 0}, "value_out_of_range", ["workers=0", "at least 1"]),
        ({"metric": "exact"}, "unknown_scorer", ["metric='exact'", "exact_match, starts_with"]),
        ({"metric": "bleu"}, "unknown_scorer", ["metric='bleu'"]),
        ({"jepa_distance": "euclid"}, "unknown_distance", ["jepa_distance='euclid'"]),
        ({"learning_rate": "None"}, "wrong_type", ["learning_rate='None': expected a number, not text."]),
        (
            {"margin": "None"},
            "wrong_type",
            ["margin='None': expected a number, not text. For no value, write margin: null."],
        ),
        ({"max_steps": 0.5}, "wrong_type", ["max_steps=0.5", "number", "whole number"]),
        ({"lr_scheduler_type": "cosin"}, "setting_refused", ["lr_scheduler_type='cosin'"]),
    ],
)
def test_a_wrong_value_names_its_key(settings, code, values, refused):
    refused(settings, code, *values)


def test_a_value_that_transformers_refuses_is_a_config_error(refused):
    """Its own checks run before any work: here evaluation and saving that do not go together."""
    refused({"load_best_model_at_end": True, "save_strategy": "epoch"}, "setting_refused", "load_best_model_at_end")


def test_none_is_a_value_where_the_field_allows_it():
    run = read_run({"max_new_tokens": None, "model_name_or_path": None, "eval_steps": None, "eval_strategy": "no"})
    assert run.evaluation.max_new_tokens is None


# ---- arms ----


def test_arms_may_be_a_list_of_names_or_names_with_changes():
    """A list takes the built-in meaning; a mapping changes fields on top of it, and shared fields hold for all."""
    experiment, runs = read_experiment({"arms": ["ntp", "jepa", "jepa_shuffled", "jepa_lambda0"], "jepa_k": 2})
    assert list(experiment.arms) == ["ntp", "jepa", "jepa_shuffled", "jepa_lambda0"]
    assert [run.jepa.jepa_lambda for run in runs.values()] == [0.0, 1.0, 1.0, 0.0]
    assert [run.data.shuffle_views for run in runs.values()] == [False, False, True, False]
    assert {run.jepa.jepa_k for run in runs.values()} == {2}

    _, runs = read_experiment({"arms": {"ntp": None, "jepa": {"jepa_k": 4}, "soft": {"jepa_lambda": 0.1}}})
    assert [(run.jepa.jepa_lambda, run.jepa.jepa_k) for run in runs.values()] == [(0.0, 1), (1.0, 4), (0.1, 1)]


def test_without_arms_there_are_the_baseline_the_method_and_its_control():
    experiment, runs = read_experiment({})
    assert list(runs) == ["ntp", "jepa", "jepa_shuffled"]
    assert (experiment.baseline, experiment.seeds) == ("ntp", [82, 23, 37])


def test_the_settings_of_an_arm_are_the_flat_ones_that_were_given():
    """What a run's config.yaml will hold: shared keys, the built-in arm's, the arm's own; no defaults."""
    _, runs = read_experiment({"arms": {"ntp": {}, "jepa_shuffled": {"jepa_k": 3}}, "max_steps": 5, "seeds": [1]})
    assert runs["ntp"].settings == {"max_steps": 5, "jepa_lambda": 0.0}
    shuffled = {"shuffle_views": True, "shuffle_rule": "derangement"}
    assert runs["jepa_shuffled"].settings == {"max_steps": 5, "jepa_k": 3} | shuffled


def test_the_learning_rate_of_a_pretrained_model_is_a_small_one_unless_one_is_set():
    """It stands in the settings, so that config.yaml of the run holds it; an adapter's is larger."""
    arms = {"ntp": {}, "full": {"lora_r": 0}, "own": {"learning_rate": 3e-4}}
    _, runs = read_experiment({"arms": arms, "model_name_or_path": "folder", "lora_r": 8, "baseline": "ntp"})
    rates = {name: (run.training["learning_rate"], run.settings["learning_rate"]) for name, run in runs.items()}
    assert rates == {"ntp": (2e-4, 2e-4), "full": (2e-5, 2e-5), "own": (3e-4, 3e-4)}
    assert "learning_rate" not in read_run({"model": "nano"}).settings


@pytest.mark.parametrize(
    ("settings", "code", "values"),
    [
        ({"arms": ["ntp", "jepa_shufled"]}, "unknown_arm", ["'jepa_shufled'", "'jepa_shuffled'"]),
        ({"arms": {"ntp": {}, "mine": {}}}, "unknown_arm", ["'mine'"]),
        ({"arms": {"ntp": {}, "mine": 3}}, "wrong_type", ["arms.mine is 3"]),
        ({"arms": "ntp"}, "wrong_type", ["arms='ntp'"]),
        ({"arms": []}, "value_empty", ["arms"]),
        ({"arms": {"ntp": {}, "a/b": {"jepa_k": 2}}}, "name_not_allowed", ["arm 'a/b'"]),
        ({"arms": {"ntp": {}, "../x": {"jepa_k": 2}}}, "name_not_allowed", ["arm '../x'"]),
        ({"arms": {"ntp": {}, ".hidden": {"jepa_k": 2}}}, "name_not_allowed", ["arm '.hidden'"]),
        ({"arms": ["jepa"]}, "unknown_arm", ["baseline='ntp'", "jepa"]),
        ({"arms": {"ntp": {}, "mine": {"jepa_k": 99}}}, "value_out_of_range", ["arm mine", "jepa_k=99", "0 to 8"]),
    ],
)
def test_arms_that_cannot_be_run_are_refused(settings, code, values, refused):
    refused(settings, code, *values)


# ---- files and overrides ----


@pytest.mark.parametrize(
    ("text", "code", "values"),
    [
        ("max_steps: 5\njepa_k: [1, 2\n", "not_yaml", ["config.yaml:3"]),
        ("max_steps: 5\n\tjepa_k: 1\n", "not_yaml", ["config.yaml:2"]),
        ("just a sentence\n", "wrong_type", ["config.yaml", "str"]),
        ("- ntp\n- jepa\n", "wrong_type", ["config.yaml", "list"]),
        ("", "file_empty", ["config.yaml"]),
        (b"max_steps: \xff\n", "not_utf8", ["config.yaml"]),
        ("max_steps: !!python/object/apply:os.system ['true']\n", "not_yaml", ["config.yaml:1"]),
    ],
)
def test_a_file_that_is_no_yaml_mapping_is_refused_by_file_and_line(text, code, values, tmp_path, raises):
    path = tmp_path / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with raises(code, *values):
        read_yaml(path)


def test_a_file_that_is_not_there_is_refused_by_its_name(tmp_path, raises):
    with raises("file_missing", "nowhere.yaml"):
        read_yaml(tmp_path / "nowhere.yaml")
    with raises("not_a_file", tmp_path):
        read_yaml(tmp_path)


def test_an_override_is_read_as_yaml(raises):
    """Numbers, lists and mappings; the first `=` is the one that counts."""
    assert parse_override("max_steps=100") == ("max_steps", 100)
    assert parse_override("train_file=a=b.jsonl") == ("train_file", "a=b.jsonl")
    assert parse_override("arms={ntp: {}, jepa: {jepa_k: 2}}") == ("arms", {"ntp": {}, "jepa": {"jepa_k": 2}})
    assert parse_override("max_new_tokens=") == ("max_new_tokens", None)
    for text, code in (("max_steps", "value_malformed"), ("=3", "value_malformed"), ("arms=[1", "not_yaml")):
        with raises(code, f"--set {text!r}"):
            parse_override(text)


# ---- one place per fact ----


@pytest.mark.parametrize("part", [ExperimentConfig, *PARTS.values()], ids=lambda part: part.__name__)
def test_every_field_of_ours_has_a_help_text(part):
    """The command line's help and the docs are made from it."""
    ours = part.__annotations__ if part is JEPATrainingArguments else None
    for each in dataclasses.fields(part):
        if ours is None or each.name in ours:
            text = each.metadata.get("help", "")
            assert text[:1].strip() and text.endswith("."), f"{part.__name__}.{each.name}: {text!r}"


def test_no_two_parts_have_a_field_of_the_same_name():
    """Settings are flat, so a name means one thing."""
    names = [each.name for part in (ExperimentConfig, *PARTS.values()) for each in dataclasses.fields(part)]
    assert len(names) == len(set(names))


def test_the_list_of_keys_has_each_of_our_fields_with_its_default():
    rows = {name: (default, text) for name, default, text in describe_fields([ExperimentConfig, *PARTS.values()])}
    assert rows["jepa_k"][0] == "1" and rows["seeds"][0] == "[82, 23, 37]" and rows["learning_rate"][0] == "0.001"
    assert not MANAGED & rows.keys()
    assert "deepspeed" not in rows  # transformers documents its own


def test_a_key_that_occurs_twice_is_refused_with_its_line(tmp_path, raises):
    """The second would replace the first without a word."""
    (tmp_path / "twice.yaml").write_text("max_steps: 3\nmodel: nano\nmax_steps: 4\n")
    with raises("key_repeated", "twice.yaml:3", "max_steps"):
        read_yaml(tmp_path / "twice.yaml")
    with raises("key_repeated", "--set", "jepa_k"):
        parse_override("arms={jepa: {jepa_k: 1, jepa_k: 2}}")


def test_no_is_a_word_where_a_strategy_is_asked_for():
    """YAML 1.1 would read it as false."""
    run = read_run(load_yaml("{eval_strategy: no, save_strategy: no, train_file: a.jsonl}"))
    assert run.training["eval_strategy"] == run.training["save_strategy"] == "no"


# ---- YAML 1.2 ----


def test_an_arm_may_be_called_off_or_a_number_and_keeps_its_name(tmp_path):
    """YAML 1.1 would call them False, True and 8."""
    path = tmp_path / "config.yaml"
    path.write_text("baseline: off\nseeds: [010]\narms: {off: {jepa_lambda: 0}, on: {jepa_k: 2}, 010: {jepa_k: 3}}\n")
    experiment, runs = read_experiment(read_yaml(path))
    assert list(runs) == ["off", "on", "010"] and experiment.baseline == "off" and experiment.seeds == [10]
    assert parse_override("arms={off: {}, 1: {jepa_k: 2}}")[1] == {"off": {}, "1": {"jepa_k": 2}}


def test_numbers_in_nested_mappings_are_numbers_and_dates_are_text(tmp_path):
    text = "lr_scheduler_kwargs: {min_lr: 1e-5}\nchat_template_kwargs: {date_string: 2024-01-01, at: 1:30}\n"
    (tmp_path / "config.yaml").write_text(text)
    run = read_run(read_yaml(tmp_path / "config.yaml"))
    assert run.training["lr_scheduler_kwargs"] == {"min_lr": 1e-5}
    assert run.data.chat_template_kwargs == {"date_string": "2024-01-01", "at": "1:30"}
    assert parse_override("lr_scheduler_kwargs={min_lr: 1e-5}")[1] == {"min_lr": 1e-5}


@pytest.mark.parametrize(
    ("text", "code", "values"),
    [
        ("packing: yes", "wrong_type", ["packing='yes'", "text", "true or false", "packing: true"]),
        ("packing: 'off'", "wrong_type", ["packing='off'", "true or false", "packing: false"]),
        ("run_name: 010", "wrong_type", ["run_name=10", "whole number", "text", "run_name: '10'"]),
        ("text_column: true", "wrong_type", ["text_column=True", "text_column: 'true'"]),
        ("seeds: [1:30]", "wrong_type", ["seeds=", "'1:30'"]),
        ("chat_template_kwargs: {enable_thinking: off}", "value_ambiguous", ["enable_thinking: false", "'off'"]),
        ("chat_template_kwargs: {a: [{b: on}]}", "value_ambiguous", ["a.b: on", "true", "'on'"]),
        ("lr_scheduler_kwargs: {min_lr: .nan}", "value_not_finite", ["lr_scheduler_kwargs.min_lr=nan"]),
        ("lr_scheduler_kwargs: {min_lr: !!timestamp 2024-01-01}", "wrong_type", ["min_lr=", "date"]),
        ('train_file: "C:\\new.jsonl"', "character_not_allowed", ["train_file=", "C:", "single quotes"]),
        ('model_name_or_path: "C:\\tiny"', "character_not_allowed", ["model_name_or_path=", "C:"]),
        ('train_file: "C:\\data"', "not_yaml", ["config.yaml:1", "single quotes"]),
    ],
)
def test_what_yaml_reads_in_two_ways_is_refused_with_the_form_to_write(text, code, values, tmp_path, raises):
    (tmp_path / "config.yaml").write_text(text + "\n")
    with raises(code, *values):
        read_experiment(read_yaml(tmp_path / "config.yaml"))


def test_a_word_in_quotes_is_text_wherever_it_stands():
    run = read_run(load_yaml("chat_template_kwargs: {thinking: 'off'}\nrun_name: off\n"))
    assert run.data.chat_template_kwargs == {"thinking": "off"} and run.training["run_name"] == "off"


@pytest.mark.parametrize(
    ("changes", "code", "values"),
    [
        ({"lora_r": 16}, "setting_missing", ["lora_r=16", "'nano'"]),
        (
            {"attn_implementation": "flash_attention_2"},
            "value_not_allowed",
            ["attn_implementation='flash_attention_2'"],
        ),
        ({"metric": "sql"}, "setting_missing", ["sql", "databases"]),
    ],
)
def test_what_no_run_could_do_is_refused_with_the_settings(changes, code, values, raises):
    """Before data or a model are read: a dry run says so, too."""
    with raises(code, *values):
        read_run({"train_file": "a.jsonl"} | changes)


@pytest.mark.parametrize(("dtype", "has", "count"), [("bf16", False, 1), ("bf16", True, 0), ("float32", False, 0)])
def test_bf16_weights_on_a_processor_without_bf16_instructions_are_told(monkeypatch, dtype, has, count):
    """The published protocol asks for them; their products are computed in float32 there."""
    monkeypatch.setattr("llm_jepa.runs.build_trainer.has_bf16_instructions", lambda: has)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    run = read_run({"train_file": "a.jsonl", "weights_dtype": dtype})
    assert len([note for note in notes_on(run) if "bf16 instructions" in note]) == count
