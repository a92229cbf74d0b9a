"""From a flat YAML file to the checked settings of one run.

A run's settings are the fields of these dataclasses, together in one flat mapping: data (`DataConfig`), model
(`ModelConfig`), adapter (`AdapterConfig`), objective (`JEPAConfig`), training (`JEPATrainingArguments`, with every
field of transformers' TrainingArguments), evaluation (`EvaluationConfig`), teacher (`TeacherConfig`), plugins
(`PluginConfig`), and the recipe (`RecipeConfig`), which changes the defaults of the others. Each field has one help
text, which the command line and the docs show. `experiments/experiment.py` adds the settings of an experiment of many
runs.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import types
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union

import yaml
from transformers.integrations import unset_hf_deepspeed_config

from llm_jepa.data.config import SHUFFLE_RULE, DataConfig
from llm_jepa.errors import ConfigError, LLMJEPAError, nearest
from llm_jepa.evaluation.evaluate import EvaluationConfig
from llm_jepa.fields import setting
from llm_jepa.files import expanded, nearest_file
from llm_jepa.objective import JEPAConfig
from llm_jepa.objective.distances import declare_distance
from llm_jepa.training.adapters import AdapterConfig
from llm_jepa.training.arguments import JEPATrainingArguments
from llm_jepa.training.models import ModelConfig, check_adapter
from llm_jepa.yaml_loading import Word, code_of, load_yaml

from .plugins import PluginConfig
from .setting_hints import hint_of
from .teacher import TeacherConfig

Settings = dict[str, Any]

# Fields of TrainingArguments that the experiment decides: a YAML file that set them would be ignored.
MANAGED = frozenset(
    {
        *("output_dir", "resume_from_checkpoint", "seed", "disable_tqdm", "label_names"),
        *("do_train", "do_eval", "do_predict", "include_num_input_tokens_seen"),
    }
)

TRUE_WORDS, FALSE_WORDS = ("true", "yes", "on", "y"), ("false", "no", "off", "n")
"""What people write for true and false. YAML 1.2 accepts only the first of each."""

TYPES: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "a mapping of names to values",
}
"""Types of values in plain words; `bool` is before `int`, whose subclass it is."""

SECRET = frozenset({"hub_token"})
"""Fields of TrainingArguments whose value must not be in any file."""

RECIPES: dict[str, Settings] = {
    "fixed": {},
    # What the published training script (arXiv 2509.14252) does, if our defaults differ or may change.
    "as_published": {
        "loss_on": "all",  # the stock collator overwrites the masked labels
        "train_end_token": False,  # it treats the end token as padding
        "sum_micro_batches": True,  # the loss of its JEPA trainer; for its baseline, see OTHER_TRAINER
        "gradient_accumulation_steps": 4,
        "weights_dtype": "bf16",
        "validation_size": 0,
        "jepa_target": "shared",
        "jepa_pred_tokens": "distinct",
        "train_sampling_strategy": "random",
        "lr_scheduler_type": "linear",
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "metric": "starts_with",  # a model that never stops has no exact match
    },
}
# The published baseline uses the stock trainer, which averages over the whole step. `jepa_lambda0` is a control that
# is missing in the publication: the same model and objective with the JEPA trainer.
OTHER_TRAINER: dict[str, dict[str, Settings]] = {"as_published": {"ntp": {"sum_micro_batches": False}}}

# learning_rate of a pretrained model if none is set: that of the published script, and a usual one for adapters.
PRETRAINED_RATE = 2e-5
LORA_RATE = 2e-4


@dataclass
class RecipeConfig:
    """Which set of defaults a run starts from."""

    recipe: str = setting(
        "fixed",
        "fixed, or as_published: the published training script's values for the settings listed under "
        "Recipes. A key that is set explicitly wins. With as_published, the arm ntp has sum_micro_batches false.",
    )

    def __post_init__(self) -> None:
        if self.recipe not in RECIPES:
            text = f"recipe={self.recipe!r} is not one of: {', '.join(RECIPES)}.{nearest(self.recipe, RECIPES)}"
            raise ConfigError("value_not_allowed", text)


@dataclass
class RunConfig:
    """The checked settings of one run."""

    recipe: RecipeConfig
    data: DataConfig
    model: ModelConfig
    adapter: AdapterConfig
    jepa: JEPAConfig
    evaluation: EvaluationConfig
    teacher: TeacherConfig
    plugins: PluginConfig
    training: Settings
    settings: Settings  # flat, as given, and those of the recipe, without other defaults: what `config.yaml` has

    def training_arguments(self, output_dir: str | Path, **changes: Any) -> JEPATrainingArguments:
        """Return transformers' arguments for a run in `output_dir`."""
        paths = {key: str(expanded(value)) for key, value in self.training.items() if str(value).startswith("~")}
        return JEPATrainingArguments(**self.training | paths | {"output_dir": str(output_dir)} | changes)


PARTS: dict[str, Any] = {
    **{name: kind for name, kind in typing.get_type_hints(RunConfig).items() if dataclasses.is_dataclass(kind)},
    "training": JEPATrainingArguments,
}
"""The dataclass of each part of a run's settings."""


def read_yaml(path: str | Path) -> Settings:
    """Return the mapping of a YAML file; ConfigError, with file and line, if it is missing or is not a mapping."""
    path = expanded(path)
    if not path.is_file():
        code = "not_a_file" if path.is_dir() else "file_missing"
        found = "is a folder." if path.is_dir() else f"does not exist.{nearest_file(path)}"
        raise ConfigError(code, f"{path} {found} Expected a YAML file of settings, such as configs/demo.yaml.")
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError("not_utf8", f"{path}: not valid YAML: it is not UTF-8 text. Save it as UTF-8.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        text = f"{where}: not valid YAML: {_yaml_problem(error)} Expected lines of `key: value`."
        raise ConfigError(code_of(error), text) from error
    if content is None:
        raise ConfigError("file_empty", f"{path} is empty. Expected lines of `key: value`.")
    if not isinstance(content, dict):
        found = type(content).__name__
        raise ConfigError("wrong_type", f"{path}: expected lines of `key: value`, found {found}.")
    return content


def parse_override(text: str) -> tuple[str, Any]:
    """Return key and value of a `--set key=value`; the value is read as YAML."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError("value_malformed", f"--set {text!r}: expected key=value, such as --set max_steps=100.")
    try:
        return key.strip(), load_yaml(value)
    except yaml.YAMLError as error:
        problem = f"--set {text!r}: the value is not valid YAML: {_yaml_problem(error)}"
        raise ConfigError(code_of(error), problem) from error


def _yaml_problem(error: yaml.YAMLError) -> str:
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    if "escape" in problem:
        problem += ". In double quotes a backslash starts an escape. Use single quotes, or '/' in a path"
    return f"{problem}."


@functools.cache
def field_types() -> dict[str, Any]:
    return {name: hint for part in PARTS.values() for name, hint in typing.get_type_hints(part).items()}


def with_recipe(settings: Settings, arm: str | None = None) -> Settings:
    """Add the defaults that depend on other settings: the recipe's, a shuffled control's, a pretrained model's.

    The given settings win. Without an arm, the run uses the JEPA trainer, whatever its `jepa_lambda`.
    """
    recipe = build(RecipeConfig, own_settings(RecipeConfig, settings)).recipe
    defaults = RECIPES[recipe] | OTHER_TRAINER.get(recipe, {}).get(arm or "", {})
    if settings.get("shuffle_views"):
        defaults["shuffle_rule"] = SHUFFLE_RULE
    if settings.get("model_name_or_path"):
        defaults["learning_rate"] = LORA_RATE if settings.get("lora_r") else PRETRAINED_RATE
    return defaults | settings


def read_run(settings: Settings, *, trains: bool = True) -> RunConfig:
    """Check flat settings as those of one run, and add those of its recipe.

    Args:
        trains: Whether this machine will train the run. If not, it need not be able to.

    Raises:
        ConfigError: If a key is unknown or a value is wrong; the text names the key.
    """
    check_keys(settings)
    settings = with_recipe(settings)
    plugins = build(PluginConfig, own_settings(PluginConfig, settings))
    if trains:
        plugins.load()  # they may register a distance
    elif plugins.plugins:  # if nothing trains, none of their code is run, and any name is accepted
        declare_distance(settings.get("jepa_distance", JEPAConfig.jepa_distance))
    parts: dict[str, Any] = {name: own_settings(part, settings) for name, part in PARTS.items()}
    training = coerced(JEPATrainingArguments, parts.pop("training"))
    built = {name: build(PARTS[name], own) for name, own in parts.items()}
    run = RunConfig(**built, training=training, settings=settings)
    if run.data.shuffle_views and run.jepa.uses_tube:
        raise ConfigError(
            "setting_without_effect",
            f"shuffle_views=true has no effect with jepa_term={run.jepa.jepa_term}, which reads no view. Remove it "
            "(and the arm jepa_shuffled), or set jepa_term=views.",
        )
    check_adapter(run.model, run.adapter)
    if trains:
        with naming_settings(run):  # transformers checks its own settings
            run.training_arguments("unused")
    _check_teacher(run)
    _check_precision(run)
    return run


def _check_teacher(run: RunConfig) -> None:
    """Refuse a teacher whose answers would train nothing."""
    data = run.data
    has_rows = (data.views_file is not None or data.generate_views) and data.views_ratio > 0
    if run.teacher.teacher and not (has_rows and data.views_cross_entropy):
        raise ConfigError(
            "setting_missing",
            f"teacher={run.teacher.teacher} needs rows of views_file under cross-entropy. Set views_file (or "
            "generate_views), views_ratio above 0, and views_cross_entropy to true.",
        )


def _check_precision(run: RunConfig) -> None:
    """Refuse settings that make no sense with weights in bf16."""
    if run.model.weights_dtype == "float32":
        return
    if run.training.get("precision") == "float32" or run.training.get("fp16"):
        asked = "fp16: true" if run.training.get("fp16") else "precision: float32"
        text = f"{asked} contradicts weights_dtype={run.model.weights_dtype}. Remove one of them."
        raise ConfigError("settings_conflict", text)
    if run.jepa.jepa_target == "ema" and run.jepa.uses_views:
        raise ConfigError(
            "settings_conflict",
            f"weights_dtype={run.model.weights_dtype} is too coarse for the small steps of the slow copy "
            "(jepa_target=ema). Set jepa_target to shared or stop_grad, or weights_dtype to float32.",
        )


@contextmanager
def naming_settings(run: RunConfig, *suspects: str) -> Iterator[None]:
    """Turn an error that a library raises because of a training setting into a ConfigError that names the setting.

    If the error's text names neither a key nor a value, the `suspects` that are set are named.
    """
    try:
        yield
    except (ImportError, ValueError, RuntimeError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, LLMJEPAError):
            raise
        unset_hf_deepspeed_config()  # transformers keeps it for all models of the process, also where it was refused
        text = " ".join((str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)).split())
        code = "package_missing" if isinstance(error, ImportError) or "pip install" in text else "setting_refused"
        if code == "package_missing":
            text += " Install what is missing, or remove the setting."
        if any(re.search(rf"\b{key}\b", text) for key in run.settings):
            raise ConfigError(code, text) from error
        given = {key: value for key, value in run.training.items() if value not in (None, False)}
        by_value = [key for key, value in given.items() if isinstance(value, str) and _is_named(value, text)]
        named = [f"{key}={given[key]!r}" for key in by_value or [key for key in suspects if key in given]]
        raise ConfigError(code, f"{' or '.join(named) or 'A training setting'} is refused: {text}") from error


def _is_named(value: str, text: str) -> bool:
    """Whether a text has a setting's value as a word; a common word, such as no, may have another meaning there."""
    common = value.lower() in ("no", "none", "auto", "steps", "epoch")
    return not common and re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text, re.IGNORECASE) is not None


def check_keys(settings: Mapping[str, Any], extra: Collection[str] = ()) -> None:
    """Raise ConfigError for the first key that is not a field; the text has the nearest field."""
    known = {name for part in PARTS.values() for name in _field_names(part)} | set(extra)
    for key in settings:
        if key in MANAGED:
            text = f"{key} is set by llm-jepa itself. Remove it; use --out for the output folder."
            raise ConfigError("key_reserved", text)
        if key in SECRET:
            raise ConfigError(
                "key_secret",
                f"{key} would be written into the folder of every run, and into reports. Remove it, and log in with "
                "`hf auth login` or set HF_TOKEN.",
            )
        if key not in known:
            raise ConfigError("key_unknown", f"Unknown key {key!r}.{hint_of(key) or nearest(key, known)}")


def _field_names(part: type) -> list[str]:
    names = [each.name for each in dataclasses.fields(part) if each.init]
    return [name for name in names if part is not JEPATrainingArguments or name not in MANAGED | SECRET]


def own_settings(part: type, settings: Settings) -> Settings:
    """Return those settings that are fields of a part."""
    return {key: settings[key] for key in _field_names(part) if key in settings}


def build(part: type, settings: Settings) -> Any:
    """Build a dataclass of settings; what it raises is a ConfigError."""
    try:
        return part(**coerced(part, settings))
    except LLMJEPAError:
        raise
    except (ValueError, TypeError) as error:
        raise ConfigError("setting_refused", str(error)) from error


def coerced(part: type, settings: Settings) -> Settings:
    """Check the types of the settings, and return them with numbers that YAML reads as text ("1e-5") as numbers."""
    hints = typing.get_type_hints(part)
    return {key: coerce(key, value, hints[key]) for key, value in settings.items()}


def coerce(key: str, value: Any, hint: Any) -> Any:
    """Check one value against the annotation of its field, and return it in the type of the field."""
    allowed = plain_types(hint)
    if value is None and type(None) in allowed:
        return None
    if isinstance(value, str) and str not in allowed and {int, float} & allowed:
        with suppress(ValueError):
            value = float(value)
    if isinstance(value, float) and value.is_integer() and float not in allowed and int in allowed:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and float in allowed and int not in allowed:
        value = float(value)
    simple = allowed & {int, float, str, bool, list, dict}
    fits = isinstance(value, tuple(simple)) and not (isinstance(value, bool) and bool not in allowed)
    if simple == allowed - {type(None)} and not fits:
        names = " or ".join(words for kind, words in TYPES.items() if kind in simple)
        other = "null" if value is None else type(value).__name__
        found = next((words for kind, words in TYPES.items() if isinstance(value, kind)), other)
        text = f"{key}={value!r}: expected {names}, not {found}.{_how_to_write(key, value, allowed)}"
        raise ConfigError("wrong_type", text)
    if isinstance(value, str) and key.endswith(("_file", "_path")) and any(char < " " for char in value):
        raise ConfigError(
            "character_not_allowed",
            f"{key}={value!r} has a control character. In double quotes a backslash starts an escape. Use single "
            "quotes, or '/' in a path.",
        )
    if key not in ("arms", "grid"):  # the fields in these are checked under their own names
        _check_nested(key, value)
    return value


def _how_to_write(key: str, value: Any, allowed: set[type]) -> str:
    """Return the end of an error's sentence: how a scalar of the wrong type is written in YAML 1.2."""
    if bool in allowed and isinstance(value, str) and value.lower() in (*TRUE_WORDS, *FALSE_WORDS):
        return f" Write {key}: {'true' if value.lower() in TRUE_WORDS else 'false'}."
    if value == "None" and type(None) in allowed:
        return f" For no value, write {key}: null."
    if str in allowed and isinstance(value, bool | int | float):
        shown = str(value).lower() if isinstance(value, bool) else value
        return f" If it is text, write it in quotes, such as {key}: '{shown}'."
    if list in allowed and isinstance(value, int | float | str) and not isinstance(value, bool):
        return f" Write {key}: [{value}]."
    return ""


def _check_nested(key: str, value: Any, *, in_mapping: bool = False) -> None:
    """Refuse values that no field allows, at any depth: an ambiguous word, a number that is not finite, or a date."""
    if isinstance(value, dict):
        for name, each in value.items():
            _check_nested(f"{key}.{name}", each, in_mapping=True)
    elif isinstance(value, list):
        for each in value:
            _check_nested(key, each, in_mapping=in_mapping)
    elif isinstance(value, Word) and in_mapping:
        raise ConfigError(
            "value_ambiguous",
            f"{key}: {value} may mean {value.truth} or the text {str(value)!r}. Write {key.rpartition('.')[2]}: "
            f"{value.truth}, or put the word in quotes.",
        )
    elif isinstance(value, float) and not math.isfinite(value):
        raise ConfigError("value_not_finite", f"{key}={value} must be a finite number.")
    elif not isinstance(value, str | bool | int | float | None):
        text = f"{key}={value!r} is of type {type(value).__name__}. Write it in quotes, as text."
        raise ConfigError("wrong_type", text)


def plain_types(hint: Any) -> set[type]:
    """Return the types that an annotation allows: `int | None` gives {int, NoneType}."""
    if typing.get_origin(hint) in (Union, types.UnionType):
        return {each for part in typing.get_args(hint) for each in plain_types(part)}
    return {typing.get_origin(hint) or hint}


def describe_setting(key: str, rows: Sequence[tuple[str, str, str]]) -> tuple[str, str, str]:
    """Return (name, default, help) of one key: one of `rows`, or any other field of TrainingArguments."""
    own = next((row for row in rows if row[0] == key), None)
    if own is not None:
        return own
    check_keys({key: None}, extra={name for name, _, _ in rows})
    field = JEPATrainingArguments.__dataclass_fields__[key]
    text = " ".join(str(field.metadata.get("help", "")).split())
    return key, _default_of(field), f"{text} (A field of transformers.TrainingArguments.)".strip()


def describe_fields(parts: Sequence[type]) -> list[tuple[str, str, str]]:
    """Return (name, default, help) of every field of ours, for `--help` and the docs.

    Fields of TrainingArguments are left out, unless `JEPATrainingArguments` declares them again.
    """
    rows = []
    for part in parts:
        for each in dataclasses.fields(part):
            if each.name in MANAGED or (part is JEPATrainingArguments and each.name not in part.__annotations__):
                continue
            rows.append((each.name, _default_of(each), each.metadata["help"]))
    return rows


def _default_of(field: dataclasses.Field) -> str:
    return str(field.default_factory() if callable(field.default_factory) else field.default)
