"""From a file's rows to examples: which columns hold the views, and what is refused.

Row forms, tried in this order: the columns named in the configuration; `messages`; `prompt` and
`completion`; `text` and `code`; `text` alone, which is split by `jepa_split`. A file has one form, that of
its first good row. Any row may have more, whatever its form: views of its own (`text_view`, `code_view`), whether
it has a JEPA term (`use_jepa`), and the rows that it belongs with (`group`). Absent and null mean the same there.
"""

from __future__ import annotations

import logging
from array import array
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any

from llm_jepa.errors import ConfigError, DataError

from .config import LARGE_FILE_BYTES, DataConfig
from .json_lines import RowError, describe_type, parse_line, text_of
from .line_index import MappedLines
from .messages import REASONING, TRAINED, Chat, is_filled, read_chat
from .sources import Content, CsvRow, iter_rows, local_path, looks_local

logger = logging.getLogger(__name__)

TEXT_VIEW, CODE_VIEW, USE_JEPA, GROUP = OWN_COLUMNS = ("text_view", "code_view", "use_jepa", "group")
SCORING_COLUMNS = ("database", "db_id", "choices", "answer", "answers")  # read by scorers alone, docs/scorers.md
FORMS_TEXT = "messages; or prompt and completion; or text and code; or text alone"
_NUM_SHOWN = 3  # dropped rows that are shown in the log; the rest are counted
_MOST_LISTED = 12  # columns that a message lists

# Columns that change what other trainers do, and what a user can do here.
_ADVICE = {
    "chat_template_kwargs": "To set them for all rows, use the key of that name.",
    **dict.fromkeys(("tools", "functions"), "No prompt describes tools."),
    **dict.fromkeys(("image", "images", "video", "videos", "audio", "audios"), "No view holds anything but text."),
    **dict.fromkeys(("system", "history"), "Write them into messages."),
    **dict.fromkeys(("input", "context"), "If it is a part of the question, write both into one column."),
    **dict.fromkeys(TRAINED, "All rows count alike; messages may have it."),
    "label": "If it marks bad answers, take their rows out.",
    **dict.fromkeys(("labels", "input_ids", "completion_mask", "assistant_masks", "loss_mask"), "See loss_on."),
    **dict.fromkeys(REASONING, "Write it into the answer to train on it."),
}
# What a question consists of besides its first column, where a public format says so (Alpaca, Dolly).
_REST_OF_QUESTION = {"instruction": ("input", "context")}


@dataclass(frozen=True)
class Example:
    """One row as text, before any tokenizer.

    Attributes:
        text: The text view.
        code: The code view. None: `text` is one sequence, to be split in two views by `jepa_split`.
        system: The system message of a chat, if it had one.
        messages: The whole chat, answer included, if the row came as one; chat templates render it.
        source: Where the row stands, such as `train.jsonl:17` (lines, and rows of other formats, from 1).
        text_view: What Enc(Text) is to encode where it is not `text`.
        code_view: What Enc(Code) is to encode where it is not `code`.
        use_jepa: Whether the row has a JEPA term; without, it trains cross-entropy alone.
        group: Name of the rows that belong together: no split parts them.
        scoring: What the row has of `SCORING_COLUMNS`, as it stands there.
    """

    text: str
    code: str | None = None
    system: str | None = None
    messages: list[dict[str, Any]] | None = None
    source: str = "example"
    text_view: str | None = None
    code_view: str | None = None
    use_jepa: bool = True
    group: str | None = None
    scoring: dict[str, Any] | None = None


@dataclass(frozen=True)
class RowForm:
    """How a file's rows hold the views: `kind` is messages, pair or text, read from `columns` in order."""

    kind: str
    columns: tuple[str, ...]

    def __str__(self) -> str:
        return " and ".join(self.columns)


@dataclass
class ReadResult:
    """Examples of one file and what became of its other rows: `rows_in == len(examples) + sum(dropped)`.

    Attributes:
        examples: The rows that could be read, in the order of the file; those of a large file stay in it.
        rows_in: Rows that were looked at; blank lines are not rows.
        dropped: Rows left out because of `on_broken: drop`, by reason.
        form: The form of the file's rows.
        notes: Sentences on fields that are not read, or not as a user may expect.
        untrained: The first row with a message before the answer that is not to be trained on (`weight: 0`).
    """

    examples: Sequence[Example]
    rows_in: int
    dropped: dict[str, int] = field(default_factory=dict)
    form: RowForm | None = None
    notes: list[str] = field(default_factory=list)
    untrained: str | None = None


def read_examples(
    path_or_name: str, config: DataConfig, *, limit: int | None = None, part: str = "train"
) -> ReadResult:
    """Read a `.jsonl` or `.parquet` file, a folder of the `datasets` library, or a data set of the hub.

    Args:
        path_or_name: A local path, or `owner/name` on the hub. Of a folder or a data set with several splits,
            `:split` or `:config:split` names one.
        config: Column names and the policy for broken rows.
        limit: Look at this many rows only, from the start.
        part: What the rows are for: `train`, `validation` or `test`, which is also the split that is read where
            none is named.

    Raises:
        DataError: If the file is missing, empty or of another format; if a row cannot be used and
            `on_broken` is `error`; or if no row is left.
    """
    from .lazy_rows import StoredExamples  # it is made of what stands in this module

    reader = ExampleReader(config)
    lines = MappedLines(local_path(path_or_name)) if stays_on_disk(path_or_name, config) else None
    kept: list[Example] = []
    kept_rows = array("q")
    rows_in = 0
    dropped: Counter[str] = Counter()
    for source, content in iter_rows(path_or_name, part) if lines is None else _name_lines(lines, path_or_name):
        if limit is not None and rows_in == limit:
            break
        rows_in += 1
        try:
            example = reader.read(source, content)
            if lines is None:
                kept.append(example)
            else:
                kept_rows.append(rows_in - 1)
        except RowError as err:
            message = f"{source}: {err}"
            if config.on_broken == "error":
                raise DataError(f"{message} Correct the row, or set on_broken=drop to leave such rows out.") from None
            dropped[err.reason] += 1
            if dropped.total() <= _NUM_SHOWN:
                logger.warning("left out: %s", message)
    if not rows_in:
        raise DataError(f"{path_or_name}: found no row at all. Expected rows with {FORMS_TEXT}.")
    examples = kept if lines is None else StoredExamples(lines, kept_rows, path_or_name, config)
    if not len(examples):
        raise DataError(f"{path_or_name}: none of its {rows_in} rows can be used ({_counts(dropped)}).")
    if dropped:
        logger.warning("%s: %d of %d rows left out (%s)", path_or_name, dropped.total(), rows_in, _counts(dropped))
    where = "" if lines is None else ", read from disk when they are needed"
    logger.info("%s: %d rows, views from %s%s", path_or_name, len(examples), reader.form, where)
    notes = reader.all_notes()
    for note in notes:
        logger.warning("%s", note)
    return ReadResult(examples, rows_in, dict(dropped), reader.form, notes, reader.untrained)


def read_training(config: DataConfig) -> ReadResult:
    """Read the rows of `train_file`; those of several files one after the other, as if they were one.

    Raises:
        ConfigError: If they are to stay on disk, which rows of one file can.
        DataError: As `read_examples`; or if the files are of several forms.
    """
    if len(config.train_files) == 1:
        return read_examples(config.train_files[0], config, limit=config.max_train_rows)
    if config.rows_in_memory is False:
        raise ConfigError(
            "rows_in_memory=false reads the rows of one file when they are needed, and train_file is a list. Put the "
            "files together, or leave rows_in_memory out."
        )
    rows = ReadResult([], 0)
    examples: list[Example] = []
    for file in config.train_files:
        limit = None if config.max_train_rows is None else config.max_train_rows - rows.rows_in
        if limit == 0:
            name = PurePath(file).name  # without its folders: notes end in model cards
            rows.notes.append(f"{name} is not read: the files before it have max_train_rows={config.max_train_rows}.")
            logger.warning("%s", rows.notes[-1])
            continue
        read = read_examples(file, replace(config, rows_in_memory=True), limit=limit)
        if rows.form is not None and read.form != rows.form:
            raise DataError(
                f"{file}: found {read.form}, but {config.train_files[0]} has {rows.form}. Expected the same form in "
                "all files of train_file."
            )
        examples += read.examples
        dropped = {reason: rows.dropped.get(reason, 0) + count for reason, count in read.dropped.items()}
        rows = ReadResult(
            examples,
            rows.rows_in + read.rows_in,
            rows.dropped | dropped,
            read.form,
            [*rows.notes, *read.notes],
            rows.untrained or read.untrained,
        )
    return rows


def stays_on_disk(path_or_name: str, config: DataConfig) -> bool:
    """Whether the rows of a file are read when they are needed (`rows_in_memory`).

    Raises:
        DataError: If they are to be, and the file is of a format that cannot.
    """
    path = local_path(path_or_name)
    can = path.is_file() and path.suffix == ".jsonl"
    if (
        config.rows_in_memory is False
        and not can
        and (path.exists() or not looks_local(path_or_name.partition(":")[0]))
    ):
        raise DataError(
            f"{path_or_name}: rows_in_memory=false needs a .jsonl file, whose lines can be found again. Convert it, "
            "or leave rows_in_memory out."
        )
    return can and (
        path.stat().st_size > LARGE_FILE_BYTES if config.rows_in_memory == "auto" else not config.rows_in_memory
    )


def prompt_example(
    text: str, *, system: str | None = None, chat: bool = False, turns: Sequence[dict[str, Any]] = ()
) -> Example:
    """Make an example without an answer, for `PairEncoder.encode_prompt`.

    Args:
        text: What the user asks.
        system: A system message, or None.
        chat: Whether the model was trained on chats, so that its chat template is to be used.
        turns: Turns of a chat that come before the question.
    """
    messages: list[dict[str, Any]] | None = None
    if chat:
        messages = [{"role": "system", "content": system}] if system is not None else []
        messages += [*turns, {"role": "user", "content": text}]
    return Example(text=text, code="", system=system, messages=messages, source="prompt")


class ExampleReader:
    """Turns rows into examples and holds all rows of a file to the form of the first.

    Attributes:
        untrained: The first row with a message before the answer that is not to be trained on.
    """

    def __init__(self, config: DataConfig) -> None:
        self.config = config
        self.form: RowForm | None = None
        self.form_source = ""
        self.untrained: str | None = None
        self._notes: dict[str, str] = {}
        self._unread: dict[str, None] = {}
        self._unread_of_messages: dict[str, None] = {}
        self._num_padded = 0
        self._first_padded = ""

    def read(self, source: str, content: Content) -> Example:
        """Return the example of a row.

        Raises:
            RowError: If it cannot be used.
        """
        if isinstance(content, RowError):
            raise content
        row = content if isinstance(content, dict) else parse_line(content)
        form = detect_form(row, self.config)
        if self.form is not None and form != self.form:
            raise RowError(
                "fields",
                f"found {form}, but {self.form_source} has {self.form} (fields here: {_listed(row)}). "
                "Expected the same form in every row of a file.",
            )
        views = _read_views(row, form)
        own = _own_columns(_typed(row) if isinstance(row, CsvRow) else row, form)
        if isinstance(views, Chat):
            text, code = "\n".join(views.turns), views.answer
            example = Example(text, code, views.system, views.messages, source, **own)
            self._look_at_chat(views, source)
        else:
            example = Example(text=views[0], code=views[1], source=source, **own)
        self._look_at_columns(row, form, source)
        self._look_at_ends(example)
        if self.form is None:  # set last: a broken first row must not decide the form of the good rows after it
            self.form, self.form_source = form, source
        return example

    def all_notes(self) -> list[str]:
        """Return what is to be said about the rows that were read."""
        notes = list(self._notes.values())
        if self._unread:
            notes.append(f"Columns that are not read: {_listed(self._unread)}. The views are from {self.form}.")
        if self._unread_of_messages:
            notes.append(
                f"Fields of messages that are in no view: {_listed(self._unread_of_messages)}. A chat template may "
                "read them in the turns before the answer."
            )
        if self._num_padded:
            rows = "1 row has" if self._num_padded == 1 else f"{self._num_padded} rows have"
            notes.append(
                f"{rows} a view that ends in white space, the first at {self._first_padded}. It is kept, and may be "
                "the view's last token, where Enc is read. Remove it if it has no meaning."
            )
        return notes

    def _look_at_chat(self, chat: Chat, source: str) -> None:
        if chat.has_untrained and self.untrained is None:
            self.untrained = source
        for name, note in chat.notes.items():
            self._notes.setdefault(name, f"{_short(source)}: {note}")
        self._unread_of_messages.update(dict.fromkeys(chat.unread))

    def _look_at_columns(self, row: dict[str, Any], form: RowForm, source: str) -> None:
        read = {*form.columns, *OWN_COLUMNS, *SCORING_COLUMNS}
        for name, value in row.items():
            if name in read or name in self._unread or f"column {name}" in self._notes:
                continue
            if not is_filled(value) and value is not False:
                continue
            if name in _ADVICE:
                self._notes[f"column {name}"] = f"{_short(source)}: the column {name} is not read. {_ADVICE[name]}"
            else:
                self._unread[name] = None

    def _look_at_ends(self, example: Example) -> None:
        views = (example.text, example.code, example.text_view, example.code_view)
        if any(view is not None and view.strip() and view[-1].isspace() for view in views):
            self._num_padded += 1
            self._first_padded = self._first_padded or _short(example.source)


def detect_form(row: Collection[str], config: DataConfig) -> RowForm:
    """Return the form of a row with these columns.

    A column counts as there even where its value is null: a null is then refused by line, and never turns a
    pair into a lone text in silence.

    Raises:
        RowError: With reason `fields`, if no form fits.
    """
    if config.text_column or config.code_column:
        return _mapped_form(row, config)
    if config.messages_column in row:
        return RowForm("messages", (config.messages_column,))
    if config.messages_column != "messages":
        raise RowError("fields", f"found the fields {_listed(row)}; expected {config.messages_column}.")
    for columns in config.PAIR_COLUMNS:
        if all(column in row for column in columns):
            return RowForm("pair", columns)
    if "text" in row:
        return RowForm("text", ("text",))
    raise RowError(
        "fields",
        f"found the fields {_listed(row)}; expected {FORMS_TEXT}. "
        "Where the columns have other names, set text_column and code_column.",
    )


def _mapped_form(row: Collection[str], config: DataConfig) -> RowForm:
    text = config.text_column or next((name for name in ("prompt", "text") if name in row), "prompt or text")
    code = config.code_column or next((name for name in ("completion", "code") if name in row), None)
    if text not in row or (code is not None and code not in row):
        wanted = " and ".join(name for name in (text, code) if name)
        raise RowError(
            "fields",
            f"found the fields {_listed(row)}; expected {wanted} (text_column and code_column say so).",
        )
    return RowForm("text", (text,)) if code is None else RowForm("pair", (text, code))


def _read_views(row: dict[str, Any], form: RowForm) -> Chat | tuple[str, str | None]:
    """Return the text and code of a row, or the chat that it is."""
    values = [row[column] for column in form.columns]
    if form.kind == "messages":
        return read_chat(values[0], form.columns[0])
    if form.kind == "pair" and isinstance(values[0], list) and isinstance(values[1], list):
        return _from_prompt_and_completion(values[0], values[1], form)
    strings = [text_of(value, column) for value, column in zip(values, form.columns, strict=True)]
    for name in _REST_OF_QUESTION.get(form.columns[0], ()):
        if name not in form.columns and isinstance(row.get(name), str) and row[name].strip():
            raise RowError(
                "fields",
                f"{name} is a part of the question that {form.columns[0]} asks, and is in no view. Write both into one "
                "column, and name it with text_column.",
            )
    return strings[0], strings[1] if form.kind == "pair" else None


def _typed(row: CsvRow) -> dict[str, Any]:
    """Return a row of a CSV file with an empty text for null, and `true` for true, in columns that are no views."""
    words = {"": None, "true": True, "false": False}
    return {name: words.get(value.lower(), value) if name == USE_JEPA else value or None for name, value in row.items()}


def _own_columns(row: dict[str, Any], form: RowForm) -> dict[str, Any]:
    """Return what the row's own columns say; a column that was named as a view of the row is that view alone."""
    own = {name: row[name] for name in OWN_COLUMNS if row.get(name) is not None and name not in form.columns}
    for name, value in own.items():
        if name != USE_JEPA:
            text_of(value, name)
        elif not isinstance(value, bool):
            raise RowError("type", f"{name} holds {describe_type(value)}, expected true or false.")
    scoring = {name: row[name] for name in SCORING_COLUMNS if row.get(name) is not None and name not in form.columns}
    return {**own, "scoring": scoring} if scoring else own


def _from_prompt_and_completion(prompt: list[Any], completion: list[Any], form: RowForm) -> Chat:
    if len(completion) != 1:
        raise RowError(
            "messages", f"{form.columns[1]} holds {len(completion)} messages, expected one, of the assistant."
        )
    return read_chat(prompt + completion, str(form))


def _name_lines(lines: MappedLines, name: str) -> Iterator[tuple[str, bytes | None]]:
    return ((f"{name}:{number}", raw) for number, raw in lines)


def _short(source: str) -> str:
    return PurePath(source).name  # notes end in model cards, which show no folder of a machine


def _listed(row: Collection[str]) -> str:
    # A name that begins with a byte-order mark, say, is shown as it is written in Python.
    names = [name if (name := str(column)).isprintable() else repr(name) for column in row]
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return (", ".join(names[:_MOST_LISTED]) or "(none)") + more


def _counts(dropped: Counter[str]) -> str:
    return ", ".join(f"{reason}: {count}" for reason, count in dropped.most_common())
