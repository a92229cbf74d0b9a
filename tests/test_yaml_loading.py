"""Values are read by YAML 1.2's core schema, and what is written is read back as it was by either version."""

from __future__ import annotations

import math

import pytest
import yaml

from llm_jepa.yaml_loading import RepeatedKeyError, UniqueKeyLoader, dump_yaml, load_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((word, word) for word in ("yes", "No", "on", "OFF", "y", "1:30", "1_000", "2024-01-01", "0b1", "=", "1e")),
        *((word, True) for word in ("true", "True", "TRUE")),
        *((word, None) for word in ("~", "null", "Null", "")),
        *(("010", 10), ("-7", -7), ("+7", 7), ("0o10", 8), ("0x1F", 31)),
        *(("1e-5", 1e-5), ("1E5", 1e5), (".5", 0.5), ("5.", 5.0), ("-1.e3", -1000.0), ("-.inf", -math.inf)),
        *(("'off'", "off"), ("'010'", "010"), ('"1e-5"', "1e-5")),
    ],
)
def test_a_plain_value_is_what_the_core_schema_says(text, value):
    read = load_yaml(f"key: {text}")["key"]
    assert read == value and isinstance(read, type(value))


def test_keys_are_text_as_written():
    assert load_yaml("{off: 1, 010: 2, true: 3, ~: 4, 2024-01-01: 5, 1e3: 6}") == {
        "off": 1,
        "010": 2,
        "true": 3,
        "~": 4,
        "2024-01-01": 5,
        "1e3": 6,
    }
    assert load_yaml("base: &b {1: x}\nown: {<<: *b, 2: y}")["own"] == {"1": "x", "2": "y"}


@pytest.mark.parametrize("text", ["1: a\n'1': b", "a: 1\na: 2", "off: 1\n'off': 2"])
def test_a_key_that_occurs_twice_is_refused_however_it_is_written(text):
    with pytest.raises(RepeatedKeyError):
        load_yaml(text)
    with pytest.raises(RepeatedKeyError):  # whole numbers as keys: pages of notes
        yaml.load("1: a\n01: b", Loader=UniqueKeyLoader)


@pytest.mark.parametrize("text", ["!!bool maybe", "!!int x", "!!float x", "!!timestamp x", "!!python/name:os.system"])
def test_a_value_that_is_not_what_its_tag_says_is_a_yaml_error(text):
    with pytest.raises(yaml.YAMLError):
        load_yaml(f"key: {text}")


AMBIGUOUS = [
    "089",
    "010",
    "1e-5",
    "0o7",
    "off",
    "On",
    "y",
    "2024-01-01",
    "1:30",
    "~",
    "",
    ".5",
    "=",
    "<<",
    "0b1",
    "1_0",
]


@pytest.mark.parametrize("text", AMBIGUOUS)
def test_text_that_looks_like_something_else_is_written_in_quotes(text):
    """Under either version of YAML: a run's folder is read by earlier versions of this package, and by other tools."""
    written = dump_yaml({"key": text, text: 1})
    assert load_yaml(written) == yaml.safe_load(written) == {"key": text, text: 1}


def test_a_plain_word_is_written_as_the_text_it_is():
    assert load_yaml(dump_yaml(load_yaml("key: off"))) == {"key": "off"}
    assert type(load_yaml(dump_yaml(load_yaml("key: off")))["key"]) is str
