"""YAML as this package reads and writes it: plain values follow YAML 1.2's core schema, and no key may be repeated.

PyYAML follows YAML 1.1, in which `off` is false, `010` is 8, `1:30` is 90, a date is an object, and `1e-5` is text.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

import yaml

_TAG = "tag:yaml.org,2002:"
_CORE = {  # YAML 1.2.2, section 10.3.2; whole numbers are first, because the pattern of other numbers matches them too
    "null": (r"~|null|Null|NULL|", "~nN\0"),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "merge": (r"<<", "<"),  # not in YAML 1.2, but widely used
}


class Word(str):
    """A plain `yes`, `no`, `on` or `off`: text in YAML 1.2, but true or false in 1.1. A caller can refuse it."""

    __slots__ = ()

    @property
    def truth(self) -> str:
        """The meaning of the word in YAML 1.1, as YAML 1.2 writes it."""
        return "true" if self.lower() in ("yes", "on") else "false"


class RepeatedKeyError(yaml.constructor.ConstructorError):
    """A mapping has the same key twice."""


def code_of(error: yaml.YAMLError) -> str:
    """Return the code of the error that a user gets of an unreadable YAML text."""
    return "key_repeated" if isinstance(error, RepeatedKeyError) else "not_yaml"


class UniqueKeyLoader(yaml.SafeLoader):
    """YAML 1.2 in which a repeated key is an error, because its second value would silently replace the first."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]
    text_keys: ClassVar[bool] = False
    """Whether every key is read as text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Check that the keys of a node differ, and build its mapping."""
        if isinstance(node, yaml.MappingNode):
            self._check_keys(node)
            self.flatten_mapping(node)
            if self.text_keys:
                node.value = [(_as_text(key), value) for key, value in node.value]
        return super().construct_mapping(node, deep)

    def _check_keys(self, node: yaml.MappingNode) -> None:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                name = key.value if self.text_keys or key.tag == f"{_TAG}merge" else self.construct_object(key)
                if name in seen:
                    raise RepeatedKeyError(None, None, f"the key {key.value[:40]} occurs twice", key.start_mark)
                seen.add(name)


class SettingsLoader(UniqueKeyLoader):
    """YAML of settings, whose keys are names, so that an arm may be called `off` or `010`."""

    text_keys: ClassVar[bool] = True


class _Dumper(yaml.SafeDumper):
    """Puts text in quotes if one of the two versions of YAML would not read it as text."""


for _name, (_pattern, _first) in _CORE.items():
    _plain = re.compile(rf"(?:{_pattern})\Z")
    for _class in (UniqueKeyLoader, _Dumper):
        _class.add_implicit_resolver(_TAG + _name, _plain, ["" if char == "\0" else char for char in _first])


def load_yaml(text: str) -> Any:
    """Return the value of a YAML text of settings.

    Raises:
        yaml.YAMLError: If it is not YAML, or has a repeated key or a tag that is not plain.
    """
    try:
        return yaml.load(text, Loader=SettingsLoader)
    except (KeyError, AttributeError, TypeError, ValueError, RecursionError) as error:  # such as `!!bool maybe`
        raise yaml.YAMLError("a value does not fit its tag, or is nested too deeply") from error


def dump_yaml(value: Any, **options: Any) -> str:
    """Return YAML that both `load_yaml` and a reader of YAML 1.1 read as the same value."""
    return yaml.dump(value, Dumper=_Dumper, **options)


def _as_text(key: yaml.Node) -> yaml.Node:
    if not isinstance(key, yaml.ScalarNode):
        return key
    return yaml.ScalarNode(f"{_TAG}str", key.value, key.start_mark, key.end_mark, style="'")


def _construct_str(loader: UniqueKeyLoader, node: yaml.ScalarNode) -> str:
    text = loader.construct_scalar(node)
    return Word(text) if node.style is None and text.lower() in ("yes", "no", "on", "off") else text


def _construct_number(loader: UniqueKeyLoader, node: yaml.ScalarNode) -> int | float:
    text = loader.construct_scalar(node).lower()
    try:
        if node.tag == f"{_TAG}int":
            return int(text, 0) if text.startswith(("0o", "0x")) else int(text)
        return float(text.replace(".inf", "inf").replace(".nan", "nan"))
    except ValueError as error:
        raise yaml.constructor.ConstructorError(
            None, None, f"{text[:40]} cannot be read as a number", node.start_mark
        ) from error


UniqueKeyLoader.add_constructor(f"{_TAG}str", _construct_str)
UniqueKeyLoader.add_constructor(f"{_TAG}int", _construct_number)
UniqueKeyLoader.add_constructor(f"{_TAG}float", _construct_number)
_Dumper.add_representer(Word, yaml.SafeDumper.represent_str)
