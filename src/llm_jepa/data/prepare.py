"""From the configured files to encoded splits: all data of a run is loaded here.

    read -> leave out leaked rows -> duplicates -> set validation aside -> tokenizer -> encode

The order matters. Leaked rows are left out first, so that validation has none either. The tokenizer is trained after
the split, on training rows only. View pairs (`views_file`) follow the same steps once the held-out rows are known.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from transformers import PreTrainedTokenizerBase

from llm_jepa.errors import ConfigError, DataError
from llm_jepa.objective.config import JEPAConfig

from .chat import remove_template_system
from .checks import apply_duplicate_policy, apply_leak_policy, find_conflicts, find_leaks
from .config import MAIN_TEST, DataConfig
from .encode import PairEncoder
from .encoded_pairs import EncodedPairs, check_labels, check_system_messages, encode_examples, list_counts
from .example import Example
from .lazy_rows import Joined
from .row_notes import is_chat, notes_on_rows
from .rows import ReadResult, read_examples, read_training
from .splits import split_validation
from .tokenizer import load_tokenizer, train_tokenizer
from .views_file import apply_views_leak_policy, find_views, read_views

logger = logging.getLogger(__name__)

# At most one row in five is set aside for validation: a small file must keep rows to learn from.
MOST_ASIDE = 5
_REPORTED = ("leak", "duplicate", "to_validation")  # reasons that have notes of their own

LabelViews = Callable[[Sequence[Example]], tuple[list[Example], dict[str, int]]]
"""Takes rows; returns those that are kept, with labels for the task, and the number of the others by reason."""


@dataclass
class LoadedData:
    """Everything that training and evaluation need from the data; a split without a file is empty.

    Attributes:
        encoder: The encoder of the run; generation starts from `encoder.encode_prompt(example)`.
        tests: The rows of each test set by its name, the main one first.
        views: Pairs of `views_file`, also if `views_ratio` is 0 and no step uses them.
        views_validation: Pairs of `views_file` that are set aside, for the monitors.
        summary: Counts of rows, plain values for JSON. For each split `rows_in == kept + sum(dropped)`, where the rows
            set aside for validation count as `dropped` from training under `to_validation`. `chat_template` says
            whether training rows are rendered with the tokenizer's chat template.
        notes: Sentences for the user about every choice that the program made, and every row left out.
    """

    tokenizer: PreTrainedTokenizerBase
    encoder: PairEncoder
    train: EncodedPairs
    validation: EncodedPairs
    tests: dict[str, EncodedPairs] = field(default_factory=dict)
    views: EncodedPairs = field(default_factory=EncodedPairs)
    views_validation: EncodedPairs = field(default_factory=EncodedPairs)
    summary: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def test(self) -> EncodedPairs:
        """The rows of the main test set; none if there is no test file."""
        return next(iter(self.tests.values()), EncodedPairs())


def load_data(
    config: DataConfig,
    jepa: JEPAConfig,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    label_views: LabelViews | None = None,
) -> LoadedData:
    """Read, clean, split and encode the configured files.

    Args:
        config: Files, columns, sizes and policies.
        jepa: `jepa_split` says where rows of one text are split; `jepa_views` says what the views are.
        tokenizer: The tokenizer of a pretrained model. It is used instead of `tokenizer_name_or_path`. Without either,
            one is trained on the training rows.
        label_views: Gives training rows of `views_file` a label, after the tokenizer was trained on them without it.

    Raises:
        ConfigError: If no training file is named, or the tokenizer cannot be used.
        DataError: If a file or a row is wrong and its policy is `error`, or if a split has no row left.
    """
    if config.train_file is None:
        text = "train_file is not set. Set it to a file of training rows, such as train.jsonl or train.csv."
        raise ConfigError("setting_missing", text)
    notes: list[str] = []  # the notes of reading the files were logged already
    splits, counts = _read_splits(config, notes)
    train, views = splits["train"], splits.get("views", ReadResult())
    if tokenizer is None:
        tokenizer = _make_tokenizer(config, Joined(train.examples, views.examples))
    if not config.template_system:
        remove_template_system(tokenizer, config.chat_template_kwargs)
    encoder = PairEncoder(tokenizer, config, jepa.jepa_split, jepa.jepa_views)
    of_task = (split.examples for name, split in splits.items() if not name.startswith("views"))
    if system_note := check_system_messages(chain.from_iterable(of_task), encoder):
        notes.append(system_note)
    views_encoder = _views_encoder(encoder, views) if "views" in splits else encoder
    encoders = {"views": views_encoder, "views_validation": views_encoder}
    if label_views is not None:
        views.examples, dropped = label_views(views.examples)
        views.dropped.update(dropped)
        encoders["views"] = encoder
    marks = {"train": {"use_jepa": config.task_views}, "views": {"use_ce": config.views_cross_entropy}}
    encoded = {
        name: encode_examples(split.examples, encoders.get(name, encoder), **marks.get(name, {}))
        for name, split in splits.items()
    }
    _check_encoded(splits, encoded, encoder, jepa, notes)
    for note in notes:
        logger.info(note)
    of_files = dict.fromkeys(note for split in splits.values() for note in split.notes)
    return LoadedData(
        tokenizer=tokenizer,
        encoder=encoder,
        **{name: rows for name, rows in encoded.items() if not name.startswith(MAIN_TEST)},
        tests={name: encoded[key_of_test(name, config)] for name in config.tests},
        summary=_summarise(splits, encoded, counts, encoder),
        notes=[*of_files, *notes],
    )


def key_of_test(test_set: str, config: DataConfig) -> str:
    """Return the name of a test set in `LoadedData.summary`: `test` for the main one, `test_NAME` for another."""
    return MAIN_TEST if test_set == next(iter(config.tests)) else f"{MAIN_TEST}_{test_set}"


def load_rows(file: str, encoder: PairEncoder, *, limit: int | None = None) -> EncodedPairs:
    """Read and encode one more file (or its test split) for a run that exists, such as a test file of `evaluate`.

    Rows that `on_broken` leaves out are counted in `rows_in` and `dropped` of the result.
    """
    result = read_examples(file, encoder.config, limit=limit, part="test")
    encoded = encode_examples(result.examples, encoder)
    encoded.rows_in = result.rows_in
    encoded.dropped = result.dropped + encoded.dropped
    return encoded


def _read_splits(config: DataConfig, notes: list[str]) -> tuple[dict[str, ReadResult], dict[str, int]]:
    """Read and clean all splits; return them by their name in `LoadedData`, and counts of leaks and duplicates."""
    train, validation = read_training(config), ReadResult()
    if config.validation_file is not None:
        validation = read_examples(config.validation_file, config, part="validation")
    tests = {
        key_of_test(name, config): read_examples(file, config, limit=config.max_test_rows, part="test")
        for name, file in config.tests.items()
    } or {MAIN_TEST: ReadResult()}
    tested = Joined(*(test.examples for test in tests.values()))
    counts = _handle_leaks(train, validation, tested, config.on_leak, notes)
    counts["duplicate_rows"] = _handle_duplicates("train", train, config.on_duplicate, notes)
    if config.validation_file is None:
        validation = _set_validation_aside("train", train, config.validation_size, notes)
    splits = {"train": train, "validation": validation, **tests}
    if config.views_file is not None:
        views, views_validation, leaked = _read_views(config, Joined(validation.examples, tested), notes)
        splits |= {"views": views, "views_validation": views_validation}
        counts |= leaked
    return splits, counts


def _called(split: str) -> str:
    """Return what messages call the rows of a split: "training", "NAME test", "view validation" and so on."""
    if split.startswith(f"{MAIN_TEST}_"):
        return f"{split.removeprefix(f'{MAIN_TEST}_')} {MAIN_TEST}"
    return {"train": "training", "views": "view", "views_validation": "view validation"}.get(split, split)


def _check_encoded(
    splits: dict[str, ReadResult],
    encoded: dict[str, EncodedPairs],
    encoder: PairEncoder,
    jepa: JEPAConfig,
    notes: list[str],
) -> None:
    """Raise an error if the encoded rows cannot train what was requested, and note what a user may not expect."""
    for name, split in splits.items():
        split.dropped += encoded[name].dropped
        if split.rows_in and not len(encoded[name]):
            text = f"The {_called(name)} rows are all left out ({list_counts(split.dropped)}); expected at least one."
            raise DataError("no_rows_left", text)
        if split.untrained and not name.startswith(MAIN_TEST) and jepa.loss_on == "all":
            raise ConfigError(
                "untrained_message",
                f"{split.untrained}: a message before the answer must not be trained on (weight 0), but loss_on=all "
                "trains every token of a row. Set loss_on=code, or remove the field.",
            )
        check_labels(encoded[name], encoder, jepa)
        lost = {reason: count for reason, count in split.dropped.items() if reason not in _REPORTED}
        if lost:
            number = f"{sum(lost.values())} of {split.rows_in} {_called(name)} rows"
            notes.append(f"{number} are left out: {list_counts(lost)}.")
        if truncated := encoded[name].truncated:
            length = encoder.config.max_length
            notes.append(f"{truncated} {_called(name)} rows are cut to max_length={length} tokens.")
    _check_terms(encoded["train"], encoded.get("views"), encoder.config, jepa)
    notes += notes_on_rows(encoded["train"], encoded.get("views"), encoder, jepa)


def _check_terms(train: EncodedPairs, views: EncodedPairs | None, config: DataConfig, jepa: JEPAConfig) -> None:
    """Raise an error if a JEPA term with weight has no rows, or if a view row in the steps trains nothing."""
    in_steps = views if views is not None and config.trains_view_rows else EncodedPairs()
    num_jepa = train.facts.num_jepa + in_steps.facts.num_jepa
    if jepa.has_term and len(train) and not num_jepa:
        if not config.task_views:
            raise ConfigError(
                "settings_conflict",
                f"task_views=false and views_ratio={config.views_ratio} leave no row with a JEPA term, but "
                f"jepa_lambda is {jepa.jepa_lambda}. Set views_ratio above 0, task_views to true, or jepa_lambda to 0.",
            )
        raise DataError(
            "no_jepa_rows",
            f"None of the {len(train)} training rows has a JEPA term (use_jepa is false in all of them), but "
            f"jepa_lambda is {jepa.jepa_lambda}. Set use_jepa to true where the views match, or jepa_lambda to 0.",
        )
    num_idle = len(in_steps) - (in_steps.facts.num_jepa if jepa.has_term else 0)
    if num_idle and not config.views_cross_entropy:
        raise ConfigError(
            "rows_train_nothing",
            f"views_cross_entropy=false leaves {num_idle} of the {len(in_steps)} view rows nothing to train: they "
            "have no JEPA term (jepa_lambda is 0, or the row's use_jepa is false). Set views_cross_entropy to "
            "true, or views_ratio to 0 in this arm.",
        )


def _summarise(
    splits: dict[str, ReadResult], encoded: dict[str, EncodedPairs], counts: dict[str, int], encoder: PairEncoder
) -> dict[str, Any]:
    summary: dict[str, Any] = {
        name: {
            "rows_in": split.rows_in,
            "kept": len(encoded[name]),
            "dropped": dict(split.dropped),
            "truncated": encoded[name].truncated,
        }
        for name, split in splits.items()
    }
    summary |= counts
    summary["vocab_size"] = len(encoder.tokenizer)
    summary["chat_template"] = encoder.chat is not None and is_chat(encoded["train"].examples)
    if "views" in splits:
        summary["views_ratio"] = encoder.config.views_ratio
        for name in ("train", "views"):
            summary[name] |= {"jepa": encoded[name].facts.num_jepa, "cross_entropy": encoded[name].facts.num_ce}
    return summary


def _handle_leaks(
    train: ReadResult, validation: ReadResult, tested: Sequence[Example], policy: str, notes: list[str]
) -> dict[str, int]:
    """Apply `on_leak` to training (against validation and test) and to a validation file (against test)."""
    found = find_leaks(train.examples, tested)
    if (near := found.num_normalised - len(found.held_out_rows)) > 0:
        notes.append(f"{near} test rows have a pair that is in the training rows up to case and space; kept.")
    if asked := find_conflicts(tested, train.examples):
        notes.append(f"{len(asked)} test rows have the question of a training row, but another answer; kept.")
    kept, num_train = apply_leak_policy(train.examples, Joined(validation.examples, tested), policy)
    train.keep(kept, "leak")
    kept, num_validation = apply_leak_policy(validation.examples, tested, policy)
    validation.keep(kept, "leak")
    for name, count, others in (("training", num_train, "validation or test"), ("validation", num_validation, "test")):
        if count:
            fate = "left out" if policy == "drop" else "kept: do not trust scores on them"
            notes.append(f"{count} {name} rows have a pair that is in the {others} rows too; {fate}.")
    return {
        "leaked_pairs": len(found.held_out_rows),
        "leaked_codes": found.num_codes,
        "leaked_train_rows": num_train,
        "leaked_validation_rows": num_validation,
    }


def _handle_duplicates(name: str, split: ReadResult, policy: str, notes: list[str]) -> int:
    kept, num_found = apply_duplicate_policy(split.examples, policy)
    split.keep(kept, "duplicate")
    if num_found:
        fate = "left out" if policy == "drop" else "kept"
        notes.append(f"{num_found} {_called(name)} rows repeat an earlier one; {fate}.")
    return num_found


def _set_validation_aside(name: str, split: ReadResult, size: int, notes: list[str]) -> ReadResult:
    """Return the rows of a split that are set aside, and keep the others in it."""
    most = len(split.examples) // MOST_ASIDE
    kept, chosen = split_validation(split.examples, min(size, most))
    why = " Rows of one group stay together." if len(chosen) < min(size, most) else ""
    key = "validation_size" if name == "train" else f"{name}_validation_size"
    if size > most:
        whole = f"{len(split.examples)} {_called(name)} rows"
        notes.append(f"{key}={size} is more than a fifth of the {whole}; {len(chosen)} are set aside.{why}")
    elif why:
        notes.append(f"{len(chosen)} {_called(name)} rows are set aside instead of {key}={size}.{why}")
    split.keep(kept, "to_validation")
    return ReadResult(chosen, len(chosen))


def _read_views(
    config: DataConfig, held_out: Sequence[Example], notes: list[str]
) -> tuple[ReadResult, ReadResult, dict[str, int]]:
    """Read and clean the view pairs; return those to train on, those set aside, and counts of leaks."""
    views = read_views(config)
    kept, num_texts = apply_views_leak_policy(views.examples, held_out, config.on_leak)
    views.keep(kept, "leak")
    if num_texts:
        fate = "left out" if config.on_leak == "drop" else "kept"
        notes.append(f"{num_texts} view rows have the text of a validation or test row for a view; {fate}.")
    near = len(find_views(views.examples, (row.text for row in held_out), normalised=True))
    near -= 0 if config.on_leak == "drop" else num_texts
    if near:
        notes.append(f"{near} view rows have the text of a validation or test row up to case and space; kept.")
    num_codes = len(find_views(views.examples, (row.code for row in held_out if row.code is not None)))
    if num_codes:
        notes.append(f"{num_codes} view rows have the code of a validation or test row for a view; kept.")
    _handle_duplicates("views", views, config.on_duplicate, notes)
    validation = _set_validation_aside("views", views, config.views_validation_size, notes)
    return views, validation, {"leaked_view_rows": num_texts, "leaked_view_codes": num_codes}


def _views_encoder(encoder: PairEncoder, views: ReadResult) -> PairEncoder:
    """Return the encoder of view rows. Its bridge shows the model that another view follows, not an answer."""
    config, bridge = encoder.config, encoder.config.views_bridge
    if encoder.chat is not None and is_chat(views.examples):
        if bridge != DataConfig.views_bridge:
            raise ConfigError(
                "setting_without_effect",
                f"views_bridge={bridge!r} has no effect on rows of messages, which the chat template "
                "renders. Remove it, or give view rows as two strings.",
            )
        return encoder
    views_encoder = PairEncoder(encoder.tokenizer, config, encoder.jepa_split, encoder.jepa_views, bridge)
    if views_encoder.bridge_ids == encoder.bridge_ids:
        raise ConfigError(
            "bridges_equal",
            f"views_bridge={bridge!r} is also the bridge of the task's rows: a text before it would ask "
            "for an answer and for another view at once. Set another one.",
        )
    return views_encoder


def _make_tokenizer(config: DataConfig, train: Sequence[Example]) -> PreTrainedTokenizerBase:
    if config.tokenizer_name_or_path:
        return load_tokenizer(config.tokenizer_name_or_path)

    def texts() -> Iterator[str]:
        for row in train:
            if config.include_system and row.system:
                yield row.system
            yield from row.views

    return train_tokenizer(texts(), config.vocab_size)
