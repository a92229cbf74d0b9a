"""The settings of the data: where rows come from, and what happens to rows that do not fit."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

from llm_jepa.errors import ConfigError
from llm_jepa.fields import setting, setting_made_by

LARGE_FILE_BYTES = 256 * 2**20
"""With `rows_in_memory: auto`, larger files stay on disk. Our choice: rows in memory take about 14 times the size
of their file (benchmarks/large_file.py): 4 GiB for one of this size, which a machine for training has."""

POLICIES = ("error", "drop", "truncate")
PHRASINGS = ("plain", "colloquial")
BOTH = "both"
GENERATED_TESTS = ["colloquial", "plain"]
"""Names of the test sets that are generated with `generate_test_phrasing: both`."""
MAIN_TEST = "test"
"""Name of the test set of a run that has only one."""
SHUFFLE_RULE = "derangement"


@dataclass
class DataConfig:
    """Where the pairs come from, how a row becomes a pair, and what happens to rows that do not fit.

    Raises:
        ConfigError: If a value is not allowed, or two settings contradict each other.
    """

    PAIR_COLUMNS: ClassVar[tuple[tuple[str, str], ...]] = (("prompt", "completion"), ("text", "code"))

    train_file: str | list[str] | None = setting(
        None,
        "Training rows: a file, a pattern such as train-*.jsonl, a folder, folder:split, owner/name on the hub, or a "
        "list of these (docs/data.md).",
    )
    test_file: str | None = setting(None, "Test rows, read once, after training.")
    test_files: dict[str, str] | None = setting(
        None,
        "Several test sets instead of test_file, by name: {people: a.jsonl, own: b.jsonl}. The first is the main one.",
    )
    validation_file: str | None = setting(None, "Validation rows. Default: validation_size of the training rows.")
    validation_size: int = setting(
        200, "Training rows set aside for validation, at most a fifth of them. They are the same for every seed."
    )
    max_train_rows: int | None = setting(None, "Use the first rows of the training file only.")
    max_test_rows: int | None = setting(None, "Use the first rows of each test file only.")
    text_column: str | None = setting(None, "Column of the text view, if it is not called prompt, text or messages.")
    code_column: str | None = setting(None, "Column of the code view, if it is not called completion or code.")
    generate_train: int | None = setting(None, "Generate this many NL-RX pairs to train on, if train_file is not set.")
    generate_test: int = setting(500, "Generated test pairs, with generate_train.")
    generate_validation: int = setting(
        0,
        "With generate_train: generated validation pairs, phrased like the test pairs, with other regexes. 0: "
        "validation_size of the training rows.",
    )
    generate_seed: int = setting(0, "Seed of the generated pairs, the same for every run.")
    generate_views: int | None = setting(
        None,
        "With generate_train: also generate this many view pairs (a plain and a colloquial phrasing), with other "
        "regexes.",
    )
    generate_test_phrasing: str = setting(
        "plain",
        "With generate_train: phrasing of the test rows: plain, colloquial, or both (two test sets of the same "
        "regexes, colloquial the main one).",
    )
    generate_colloquial_share: float = setting(
        1.0, "How much of a colloquial description is colloquial, above 0 and at most 1; the rest is plain."
    )
    shuffle_views: bool = setting(False, "Control: the JEPA term gets the code view of another pair (docs/data.md).")
    shuffle_rule: str = setting(
        SHUFFLE_RULE,
        "How shuffle_views exchanges code views: derangement, a random permutation in which no row keeps its own "
        "code. Runs with an earlier rule cannot be continued.",
    )
    views_file: str | None = setting(
        None,
        "Rows of two views without a label, such as paraphrases. They feed the JEPA term in addition to the task's "
        "rows (docs/data.md).",
    )
    views_text_column: str | None = setting(
        None, "Column of the text view in views_file, if its rows have none of the known forms (docs/data.md)."
    )
    views_code_column: str | None = setting(None, "Column of the code view in views_file.")
    views_bridge: str = setting(
        " ~ ",
        "Text between the two views of a row of views_file. It must differ from the task's bridge. Rows of messages "
        "use the chat template instead.",
    )
    views_ratio: float = setting(
        1.0, "Rows of views_file for each task row of a step. 0: train on none; tokenizer and model stay the same."
    )
    views_cross_entropy: bool = setting(
        True, "Whether rows of views_file are also under cross-entropy, as loss_on says."
    )
    task_views: bool = setting(
        True,
        "Whether the task's own training rows feed the JEPA term. If false, the monitors measure held-out rows of "
        "views_file.",
    )
    views_validation_size: int = setting(
        200, "Rows of views_file set aside for the monitors, at most a fifth of them. They are the same for every seed."
    )
    messages_column: str = setting("messages", "Column of a chat: a list of role and content.")
    include_system: bool = setting(
        False,
        "Without a chat template: put the system message before the text view. If false, it is left out, and system "
        "messages that differ between rows are an error.",
    )
    template_system: bool = setting(
        True,
        "Keep the system message that a chat template adds to a chat without one. If false, the template is changed so "
        "that it adds none.",
    )
    chat_template_kwargs: dict[str, Any] = setting_made_by(
        dict, "Values for the tokenizer's chat template, such as {enable_thinking: false, date_string: 01 Jan 2025}."
    )
    tokenizer_name_or_path: str | None = setting(
        None,
        "A tokenizer: a folder, or a name on the hub. Default: the model's; for a preset, a byte-level BPE trained "
        "on the training rows.",
    )
    vocab_size: int = setting(512, "Size of the byte-level BPE, special tokens included.")
    max_length: int = setting(512, "Longest row in tokens (text, bridge, code, end token; [PRED] not counted).")
    rows_in_memory: bool | str = setting(
        "auto",
        "Whether rows are kept in memory: auto (yes, except .jsonl files over 256 MiB), true, or false (read from the "
        "file when needed; the results are the same).",
    )
    on_overflow: str = setting(
        "error", "Rows longer than max_length: error, drop, or truncate (the longer view is cut; the end token stays)."
    )
    on_empty: str = setting("error", "Rows with an empty or blank view: error or drop.")
    on_broken: str = setting(
        "error", "Rows that are not valid JSON, lack a field, or have a field that is not a string: error or drop."
    )
    on_duplicate: str = setting("keep", "Training rows that repeat an earlier row: keep, drop or error.")
    on_leak: str = setting(
        "drop",
        "Training rows whose pair is in the test or validation file, and view rows with a text from there: drop, keep "
        "or error.",
    )

    def __post_init__(self) -> None:
        allowed = {
            "on_overflow": POLICIES,
            "on_empty": ("error", "drop"),
            "on_broken": ("error", "drop"),
            "on_duplicate": ("keep", "drop", "error"),
            "on_leak": ("drop", "keep", "error"),
            "generate_test_phrasing": (*PHRASINGS, BOTH),
            "shuffle_rule": (SHUFFLE_RULE,),
            "rows_in_memory": ("auto", True, False),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                text = f"{name}={getattr(self, name)!r} is not one of: {', '.join(map(str, values)).lower()}."
                raise ConfigError("value_not_allowed", text)
        if self.generate_validation and self.validation_file is not None:
            raise ConfigError(
                "settings_conflict",
                f"generate_validation={self.generate_validation} and validation_file={self.validation_file!r} both set "
                "the validation rows. Remove one of them.",
            )
        if not 0 < self.generate_colloquial_share <= 1:
            raise ConfigError(
                "value_out_of_range",
                f"generate_colloquial_share={self.generate_colloquial_share} must be above 0 and at most 1.",
            )
        least_values = {"vocab_size": 259, "max_length": 4}
        least_values |= dict.fromkeys(("validation_size", "views_validation_size", "generate_validation"), 0)
        for name, least in least_values.items():
            if getattr(self, name) < least:
                raise ConfigError("value_out_of_range", f"{name}={getattr(self, name)} must be at least {least}.")
        without = {"max_train_rows": "all rows", "max_test_rows": "all rows", "generate_views": "no view pairs"}
        for name, meaning in without.items():
            if (number := getattr(self, name)) is not None and number < 1:
                text = f"{name}={number} must be at least 1. For {meaning}, remove it."
                raise ConfigError("value_out_of_range", text)
        if self.messages_column != "messages" and (self.text_column or self.code_column):
            raise ConfigError(
                "settings_conflict",
                f"messages_column={self.messages_column!r} contradicts text_column and code_column: a row is a chat, "
                "or it has two columns. Remove messages_column, or the other two.",
            )
        self._check_train_files()
        self._check_test_files()
        self._check_views()

    @property
    def train_files(self) -> list[str]:
        """The names of `train_file`, in order; none if it is not set."""
        if self.train_file is None:
            return []
        return self.train_file if isinstance(self.train_file, list) else [self.train_file]

    def _check_train_files(self) -> None:
        names = self.train_files
        if self.train_file == [] or not all(isinstance(name, str) and name for name in names):
            text = f"train_file={self.train_file!r} must be a name, or a list of names."
            raise ConfigError("value_not_allowed", text)
        if len(set(names)) < len(names):
            raise ConfigError("file_repeated", f"train_file={names} names a file twice. Remove one.")

    @property
    def tests(self) -> dict[str, str]:
        """The file of each test set by its name, the main one first. A single test set is called `test`."""
        return self.test_files or ({} if self.test_file is None else {MAIN_TEST: self.test_file})

    @property
    def test_sets(self) -> list[str]:
        """Names of the test sets, the main one first, also if their files are yet to be generated."""
        generated = GENERATED_TESTS if self.generate_test_phrasing == BOTH else [MAIN_TEST]
        return list(self.tests) or generated

    def _check_test_files(self) -> None:
        """Check that names of test sets can be part of a file name, and set `test_file` to the main one."""
        if self.test_files is None:
            return
        for place, (name, file) in enumerate(self.test_files.items()):
            if not isinstance(name, str) or not re.fullmatch(r"\w[\w-]*", name) or (place and name == MAIN_TEST):
                text = f"test_files has the name {name!r}. Use letters, digits, '_' and '-' only, and {MAIN_TEST} only "
                text += "for the first, which is the main one."
                raise ConfigError("name_not_allowed", text)
            if not isinstance(file, str) or not file:
                raise ConfigError("value_not_allowed", f"test_files.{name}={file!r} must be the name of a file.")
        if not self.test_files:
            raise ConfigError("value_empty", "test_files is empty. Name at least one test set, or use test_file.")
        main = next(iter(self.test_files.values()))
        if self.test_file not in (None, main):
            raise ConfigError(
                "settings_conflict",
                f"test_file={self.test_file!r} and test_files both set the test rows. Remove test_file, or give it a "
                "name in test_files.",
            )
        self.test_file = main

    def _check_views(self) -> None:
        """Check that no setting of view pairs or generated rows is without effect."""
        if not 0 <= self.views_ratio < float("inf"):
            text = f"views_ratio={self.views_ratio} must be a finite number, 0 or more."
            raise ConfigError("value_out_of_range", text)
        if self.views_file is not None and self.generate_views is not None:
            raise ConfigError(
                "settings_conflict",
                f"views_file={self.views_file!r} and generate_views={self.generate_views} both set the view pairs. "
                "Remove one of them.",
            )
        if self.generate_train is None:
            self._refuse("generate_train", "generate_views", "generate_test_phrasing", "generate_validation")
            self._refuse("generate_train", "generate_colloquial_share")
        says_all_plainly = self.generate_views is None and self.generate_test_phrasing == "plain"
        if self.generate_colloquial_share != 1 and says_all_plainly:
            raise ConfigError(
                "setting_without_effect",
                f"generate_colloquial_share={self.generate_colloquial_share} needs colloquial rows. Set generate_views "
                "or generate_test_phrasing=colloquial, or remove generate_colloquial_share.",
            )
        if self.views_file is None and self.generate_views is None:
            self._refuse("views_file", "task_views", *(name for name in vars(self) if name.startswith("views_")))
        if not self.views_bridge:
            raise ConfigError("value_empty", "views_bridge is empty. Set it to a text between the views, or remove it.")

    def _refuse(self, missing: str, *names: str) -> None:
        """Refuse settings that need the missing one, if they are not at their defaults."""
        for name in names:
            if (value := getattr(self, name)) != getattr(DataConfig, name):
                text = f"{name}={value!r} needs {missing}. Set {missing}, or remove {name}."
                raise ConfigError("setting_without_effect", text)

    @property
    def trains_view_rows(self) -> bool:
        """Whether steps have rows of `views_file`."""
        return self.views_file is not None and self.views_ratio > 0

    def of_views_file(self) -> ViewsFileConfig:
        """Return the settings for reading `views_file`: its own columns, all others as for the other files."""
        columns = {"text_column": self.views_text_column, "code_column": self.views_code_column}
        messages = {"messages_column": "messages"} if any(columns.values()) else {}
        return ViewsFileConfig(**vars(self) | messages | columns)


@dataclass
class ViewsFileConfig(DataConfig):
    """Settings for reading a file of view pairs, which may have one more form of row."""

    PAIR_COLUMNS: ClassVar[tuple[tuple[str, str], ...]] = (*DataConfig.PAIR_COLUMNS, ("text", "paraphrase"))
