"""From a file's rows to examples: which columns hold the views, and what is refused.

Row forms, tried in this order: the columns named in the configuration; `messages`; `prompt` and
`completion`; `text` and `code`; `text` alone, which is split by `jepa_split`. A file has one form, that of
its first good row. Any row may have more, whatever its form: views of its own (`text_view`, `code_view`), whether
it has a JEPA term (`use_jepa`), and the rows that it belongs with (`group`). Absent and null mean the same there.
"""

from __future__ import annotations

import difflib
import logging
from array import array
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llm_jepa.data.config import LARGE_FILE_BYTES, DataConfig
from llm_jepa.data.jsonl import RowError, describe_type, iter_lines, parse_line
from llm_jepa.data.mapped import MappedLines
from llm_jepa.errors import DataError

logger = logging.getLogger(__name__)

TEXT_VIEW, CODE_VIEW, USE_JEPA, GROUP = OWN_COLUMNS = ("text_view", "code_view", "use_jepa", "group")
SCORING_COLUMNS = ("database", "db_id", "choices", "answer", "answers")  # read by scorers alone, docs/scorers.md
ROLES = ("system", "user", "assistant")
FORMS_TEXT = "messages; or prompt and completion; or text and code; or text alone"
_LOCAL_SUFFIXES = (".jsonl", ".json", ".parquet", ".csv", ".tsv", ".txt", ".gz", ".zst", ".arrow")
_NUM_SHOWN = 3  # dropped rows that are shown in the log; the rest are counted


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
    """

    examples: Sequence[Example]
    rows_in: int
    dropped: dict[str, int] = field(default_factory=dict)
    form: RowForm | None = None


def read_examples(path_or_name: str, config: DataConfig, *, limit: int | None = None) -> ReadResult:
    """Read a `.jsonl` or `.parquet` file, a folder of the `datasets` library, or a data set of the hub.

    Args:
        path_or_name: A local path, or `owner/name` on the hub (`owner/name:split` for another split than
            train).
        config: Column names and the policy for broken rows.
        limit: Look at this many rows only, from the start.

    Raises:
        DataError: If the file is missing, empty or of another format; if a row cannot be used and
            `on_broken` is `error`; or if no row is left.
    """
    from llm_jepa.data.stored import StoredExamples  # it is made of what stands in this module

    reader = ExampleReader(config)
    lines = MappedLines(Path(path_or_name).expanduser()) if stays_on_disk(path_or_name, config) else None
    kept: list[Example] = []
    kept_rows = array("q")
    rows_in = 0
    dropped: Counter[str] = Counter()
    for source, content in _iter_rows(path_or_name) if lines is None else _name_lines(lines, path_or_name):
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
    return ReadResult(examples, rows_in, dict(dropped), reader.form)


def stays_on_disk(path_or_name: str, config: DataConfig) -> bool:
    """Whether the rows of a file are read when they are needed (`rows_in_memory`).

    Raises:
        DataError: If they are to be, and the file is of a format that cannot.
    """
    path = Path(path_or_name).expanduser()
    can = path.is_file() and path.suffix == ".jsonl"
    if config.rows_in_memory is False and not can and path.is_file():
        raise DataError(
            f"{path_or_name}: rows_in_memory=false needs a .jsonl file, whose lines can be found again. Convert it, "
            "or leave rows_in_memory out."
        )
    return can and (
        path.stat().st_size > LARGE_FILE_BYTES if config.rows_in_memory == "auto" else not config.rows_in_memory
    )


def prompt_example(text: str, *, system: str | None = None, chat: bool = False) -> Example:
    """Make an example without an answer, for `PairEncoder.encode_prompt`.

    Args:
        text: What the user asks.
        system: A system message, or None.
        chat: Whether the model was trained on chats, so that its chat template is to be used.
    """
    messages: list[dict[str, Any]] | None = None
    if chat:
        messages = [{"role": "system", "content": system}] if system is not None else []
        messages.append({"role": "user", "content": text})
    return Example(text=text, code="", system=system, messages=messages, source="prompt")


class ExampleReader:
    """Turns rows into examples and holds all rows of a file to the form of the first."""

    def __init__(self, config: DataConfig) -> None:
        self.config = config
        self.form: RowForm | None = None
        self.form_source = ""
        self._told_of_kwargs = False

    def read(self, source: str, content: bytes | dict[str, Any] | None) -> Example:
        """Return the example of a row.

        Raises:
            RowError: If it cannot be used.
        """
        row = content if isinstance(content, dict) else parse_line(content)
        form = detect_form(row, self.config)
        if self.form is not None and form != self.form:
            raise RowError(
                "fields",
                f"found {form}, but {self.form_source} has {self.form} (fields here: {_listed(row)}). "
                "Expected the same form in every row of a file.",
            )
        example = _with_own_columns(_to_example(row, form, source), row, form)
        if "chat_template_kwargs" in row and not self._told_of_kwargs:
            self._told_of_kwargs = True
            logger.warning(
                "%s: the column chat_template_kwargs is not read. To set them for all rows, use the key of that name.",
                source,
            )
        if self.form is None:  # set last: a broken first row must not decide the form of the good rows after it
            self.form, self.form_source = form, source
        return example


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


def _to_example(row: dict[str, Any], form: RowForm, source: str) -> Example:
    values = [row[column] for column in form.columns]
    if form.kind == "messages":
        return _from_messages(values[0], form.columns[0], source)
    if form.kind == "pair" and isinstance(values[0], list) and isinstance(values[1], list):
        return _from_prompt_and_completion(values[0], values[1], form, source)
    strings = [_string(value, column) for value, column in zip(values, form.columns, strict=True)]
    return Example(text=strings[0], code=strings[1] if form.kind == "pair" else None, source=source)


def _with_own_columns(example: Example, row: dict[str, Any], form: RowForm) -> Example:
    """Add what the row's own columns say; a column that was named as a view of the row is that view alone."""
    own = {name: row[name] for name in OWN_COLUMNS if row.get(name) is not None and name not in form.columns}
    for name, value in own.items():
        if name != USE_JEPA:
            _string(value, name)
        elif not isinstance(value, bool):
            raise RowError("type", f"{name} holds {describe_type(value)}, expected true or false.")
    scoring = {name: row[name] for name in SCORING_COLUMNS if row.get(name) is not None and name not in form.columns}
    if scoring:
        own["scoring"] = scoring
    return replace(example, **own) if own else example


def _from_prompt_and_completion(prompt: list[Any], completion: list[Any], form: RowForm, source: str) -> Example:
    if len(completion) != 1:
        raise RowError(
            "messages", f"{form.columns[1]} holds {len(completion)} messages, expected one, of the assistant."
        )
    return _from_messages(prompt + completion, str(form), source)


def _from_messages(messages: Any, column: str, source: str) -> Example:
    """Make an example of a chat: maybe a system message, turns, a last user turn, the assistant's answer."""
    if not isinstance(messages, list):
        raise RowError("type", f"{column} holds {describe_type(messages)}, expected a list of messages.")
    contents = [_check_message(message, index, column) for index, message in enumerate(messages, start=1)]
    roles = [message["role"] for message in messages]
    if roles[-2:] != ["user", "assistant"]:
        raise RowError(
            "messages",
            f"{column} ends with the roles {', '.join(roles[-2:]) or 'of nobody'}; expected a user's turn "
            "and the assistant's answer to it as the last two.",
        )
    if "system" in roles[1:]:
        raise RowError("messages", f"{column} has a system message after the first place; expected it first, or none.")
    system = contents[0] if roles[0] == "system" else None
    turns = contents[:-1] if system is None else contents[1:-1]
    return Example(
        text="\n".join(turns),
        code=contents[-1],
        system=system,
        messages=[dict(m) for m in messages],
        source=source,
    )


def _check_message(message: Any, index: int, column: str) -> str:
    where = f"{column}, message {index}"
    if not isinstance(message, dict):
        raise RowError("type", f"{where} is {describe_type(message)}, expected an object with role and content.")
    if message.get("role") not in ROLES:
        raise RowError(
            "messages", f"{where} has the role {message.get('role')!r}, expected one of: {', '.join(ROLES)}."
        )
    if message.get("tool_calls"):
        raise RowError("messages", f"{where} calls tools, which no view can hold. Expected text alone.")
    return _string(message.get("content"), f"{where}, content")


def _string(value: Any, where: str) -> str:
    """Return the value if it is text that every tokenizer can take and give back."""
    if not isinstance(value, str):
        raise RowError("type", f"{where} holds {describe_type(value)}, expected a string.")
    if "\0" in value:
        raise RowError("characters", f"{where} has a NUL character at place {value.index(chr(0)) + 1}.")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as err:
        raise RowError(
            "characters",
            f"{where} has half a surrogate pair (\\u{ord(value[err.start]):04x}) at place {err.start + 1}, "
            "which is no character.",
        ) from None
    return value


def _iter_rows(path_or_name: str) -> Iterator[tuple[str, bytes | dict[str, Any] | None]]:
    """Yield `(source, row)`; a row of a .jsonl file is still bytes: its faults are the caller's."""
    path = Path(path_or_name).expanduser()
    if path.is_file():
        if path.suffix == ".jsonl":
            for number, raw in _readable(iter_lines(path), path_or_name):
                yield f"{path_or_name}:{number}", raw
        elif path.suffix == ".parquet":
            yield from _readable(_iter_parquet(path, path_or_name), path_or_name)
        else:
            raise DataError(
                f"{path_or_name}: files that end in {path.suffix or 'nothing'} are not read. Expected .jsonl "
                "(one JSON object per line; rename the file if it is that) or .parquet."
            )
    elif path.is_dir():
        yield from _iter_dataset(path_or_name, is_folder=True)
    elif _looks_local(path_or_name):
        raise DataError(f"{path_or_name}: no such file.{_nearest_name(path)}")
    else:
        yield from _iter_dataset(path_or_name, is_folder=False)


def _name_lines(lines: MappedLines, name: str) -> Iterator[tuple[str, bytes | None]]:
    return ((f"{name}:{number}", raw) for number, raw in lines)


def _readable(rows: Iterator[Any], name: str) -> Iterator[Any]:
    try:
        yield from rows
    except OSError as err:
        raise DataError(f"{name}: cannot be read: {err.strerror or err}.") from err


def _iter_parquet(path: Path, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow  # comes with datasets; read directly, which leaves no copy of the file in a cache
    import pyarrow.parquet

    try:
        number = 0
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield f"{name}:{number}", row
    except pyarrow.ArrowException as err:
        raise DataError(f"{name}: not a readable parquet file: {err}.") from err


def _iter_dataset(name: str, *, is_folder: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    import datasets

    base, _, split = (name, "", "") if is_folder else name.partition(":")
    split = split or "train"
    try:
        if is_folder and (Path(base).expanduser() / "state.json").exists():
            rows = datasets.load_from_disk(base)
        else:
            rows = datasets.load_dataset(base, split=split)
    except Exception as err:  # the library raises many kinds: network, format, cache; all mean the same here
        kind = "folder" if is_folder else "local file, nor a data set that the hub could give now"
        raise DataError(
            f"{name}: not a readable {kind}: {_first_line(err)} Expected a .jsonl or .parquet file, a folder "
            "of the datasets library, or owner/name on the hub (owner/name:split for a split other than "
            "train), which needs a network."
        ) from err
    label = base if is_folder else f"{base}:{split}"
    for number, row in enumerate(rows, start=1):
        yield f"{label}:{number}", dict(row)


def _looks_local(name: str) -> bool:
    # What is plainly a path must fail here: a typing error must not become a question to the network.
    is_hub_name = name.partition(":")[0].count("/") == 1
    return name.startswith((".", "/", "~")) or name.endswith(_LOCAL_SUFFIXES) or not is_hub_name


def _nearest_name(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f" Its folder {folder} does not exist."
    close = difflib.get_close_matches(path.name, [entry.name for entry in folder.iterdir()], n=1)
    return f" Did you mean {close[0]}?" if close else " Check the path; it starts from the current folder."


def _listed(row: Collection[str]) -> str:
    return ", ".join(str(column) for column in row) or "(none)"


def _counts(dropped: Counter[str]) -> str:
    return ", ".join(f"{reason}: {count}" for reason, count in dropped.most_common())


def _first_line(err: Exception) -> str:
    lines = str(err).strip().splitlines() or [type(err).__name__]
    return lines[0].rstrip(".") + "."
