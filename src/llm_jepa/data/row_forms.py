"""From the columns of a row to an example: which columns hold the views, and which rows are refused.

Row forms, tried in this order: the columns named in the configuration; `messages`; `prompt` and
`completion`; `text` and `code`; `text` alone, which is split by `jepa_split`. A file has one form, that of
its first good row. A row of any form may have more columns: views of its own (`text_view`, `code_view`), whether
it has a JEPA term (`use_jepa`), and which rows it belongs with (`group`). In these, a missing value and null are equal.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from .config import DataConfig
from .example import Example
from .formats import Content, CsvRow
from .json_lines import RowError, describe_type, list_or_text, parse_line, text_of
from .messages import REASONING, TRAINED, Chat, is_filled, read_chat

TEXT_VIEW, CODE_VIEW, USE_JEPA, GROUP = OWN_COLUMNS = ("text_view", "code_view", "use_jepa", "group")
SCORING_COLUMNS = ("database", "db_id", "choices", "answer", "answers")  # read by scorers alone, docs/scorers.md
FORMS_TEXT = "messages; or prompt and completion; or text and code; or text alone"
_MOST_LISTED = 12  # columns that a message lists

# Columns that other trainers read, and what a user can do here.
_ADVICE = {
    "chat_template_kwargs": "To set them for all rows, use the key of that name.",
    **dict.fromkeys(("tools", "functions"), "No prompt describes tools."),
    **dict.fromkeys(("image", "images", "video", "videos", "audio", "audios"), "No view holds anything but text."),
    **dict.fromkeys(("system", "history"), "Write them into messages."),
    **dict.fromkeys(("input", "context"), "If it is a part of the question, write both into one column."),
    **dict.fromkeys(TRAINED, "All rows have the same weight here; messages may have it."),
    "label": "If it marks bad answers, remove their rows.",
    **dict.fromkeys(("labels", "input_ids", "completion_mask", "assistant_masks", "loss_mask"), "See loss_on."),
    **dict.fromkeys(REASONING, "Write it into the answer to train on it."),
}
# The further columns of a question in public formats (Alpaca, Dolly), by its first column.
_REST_OF_QUESTION = {"instruction": ("input", "context")}


@dataclass(frozen=True)
class RowForm:
    """How the rows of a file hold the views. `kind` is messages, pair or text; the views are in `columns`, in order."""

    kind: str
    columns: tuple[str, ...]

    def __str__(self) -> str:
        return " and ".join(self.columns)


class ExampleReader:
    """Turns rows into examples, and checks that all rows of a file have the form of the first.

    `untrained` is the first row with a message before the answer that is not to be trained on.
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
        """Return the example of a row; one that cannot be used is a RowError."""
        row = fields_of(content)
        form = detect_form(row, self.config)
        if self.form is not None and form != self.form:
            raise RowError(
                "fields",
                "form_differs",
                f"found {form}, but {self.form_source} has {self.form} (fields here: {_listed(row)}). "
                "Expected the same form in every row of a file.",
            )
        row = typed_cells(row, form) if isinstance(row, CsvRow) else row
        views, own = _read_views(row, form), _own_columns(row, form)
        if isinstance(views, Chat):
            text, code = "\n".join(views.turns), views.answer
            example = Example(text, code, views.system, views.messages, source, **own)
            self._note_chat(views, source)
        else:
            example = Example(text=views[0], code=views[1], source=source, **own)
        self._note_columns(row, form, source)
        if any(view.strip() and view[-1].isspace() for view in example.views):
            self._num_padded += 1
            self._first_padded = self._first_padded or _short(source)
        if self.form is None:  # set last: a broken first row must not decide the form of the good rows after it
            self.form, self.form_source = form, source
        return example

    def all_notes(self) -> list[str]:
        """Return what the user should know about the rows that were read."""
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

    def _note_chat(self, chat: Chat, source: str) -> None:
        if chat.has_untrained and self.untrained is None:
            self.untrained = source
        for name, note in chat.notes.items():
            self._notes.setdefault(name, f"{_short(source)}: {note}")
        self._unread_of_messages.update(dict.fromkeys(chat.unread))

    def _note_columns(self, row: dict[str, Any], form: RowForm, source: str) -> None:
        read = {*form.columns, *OWN_COLUMNS, *SCORING_COLUMNS}
        for name, value in row.items():
            if name in read or not (is_filled(value) or value is False):
                continue
            if name in _ADVICE:
                note = f"{_short(source)}: the column {name} is not read. {_ADVICE[name]}"
                self._notes.setdefault(f"column {name}", note)
            else:
                self._unread[name] = None


def fields_of(content: Content) -> dict[str, Any]:
    """Return the columns of a row as a file has it; a row that cannot be used is a RowError."""
    if isinstance(content, RowError):
        raise content
    return content if isinstance(content, dict) else parse_line(content)


def detect_form(row: Collection[str], config: DataConfig) -> RowForm:
    """Return the form of a row with these columns.

    A column counts even if its value is null: otherwise a null would silently turn a pair into a row of one text.

    Raises:
        RowError: With reason `fields`, if no form fits.
    """
    if config.text_column or config.code_column:
        return _mapped_form(row, config)
    if config.messages_column in row:
        return RowForm("messages", (config.messages_column,))
    if config.messages_column != "messages":
        text = f"found the fields {_listed(row)}; expected {config.messages_column}."
        raise RowError("fields", "column_missing", text)
    for columns in config.PAIR_COLUMNS:
        if all(column in row for column in columns):
            return RowForm("pair", columns)
    if "text" in row:
        return RowForm("text", ("text",))
    raise RowError(
        "fields",
        "column_missing",
        f"found the fields {_listed(row)}; expected {FORMS_TEXT}. "
        "If the columns have other names, set text_column and code_column.",
    )


def _mapped_form(row: Collection[str], config: DataConfig) -> RowForm:
    text = config.text_column or next((name for name in ("prompt", "text") if name in row), "prompt or text")
    code = config.code_column or next((name for name in ("completion", "code") if name in row), None)
    if text not in row or (code is not None and code not in row):
        wanted = " and ".join(name for name in (text, code) if name)
        raise RowError(
            "fields",
            "column_missing",
            f"found the fields {_listed(row)}; expected {wanted} (because of text_column and code_column).",
        )
    return RowForm("text", (text,)) if code is None else RowForm("pair", (text, code))


def _read_views(row: dict[str, Any], form: RowForm) -> Chat | tuple[str, str | None]:
    """Return the text and code of a row, or its chat."""
    values = [row[column] for column in form.columns]
    if form.kind == "messages":
        return read_chat(values[0], form.columns[0])
    if form.kind == "pair" and isinstance(values[0], list) and isinstance(values[1], list):
        if (number := len(values[1])) != 1:
            text = f"{form.columns[1]} holds {number} messages, expected one, of the assistant."
            raise RowError("messages", "wrong_message_count", text)
        return read_chat(values[0] + values[1], str(form))
    strings = [text_of(value, column) for value, column in zip(values, form.columns, strict=True)]
    for name in _REST_OF_QUESTION.get(form.columns[0], ()):
        if name not in form.columns and isinstance(row.get(name), str) and row[name].strip():
            raise RowError(
                "fields",
                "question_in_two_columns",
                f"{name} is a part of the question in {form.columns[0]}, but is in no view. Write both into one "
                "column, and name it with text_column.",
            )
    return strings[0], strings[1] if form.kind == "pair" else None


def typed_cells(row: CsvRow, form: RowForm) -> dict[str, Any]:
    """Return a row of a table, where all values are text, with the types of a row of JSON; views stay text."""
    typed: dict[str, Any] = dict(row)
    for name in row.keys() & {*OWN_COLUMNS, *SCORING_COLUMNS} - {*form.columns}:
        typed[name] = list_or_text(row[name]) if row[name] and name in SCORING_COLUMNS else row[name] or None
    if said := typed.get(USE_JEPA):
        typed[USE_JEPA] = {"true": True, "false": False}.get(said.lower(), said)
    if form.kind == "messages":
        typed[form.columns[0]] = list_or_text(row[form.columns[0]])
    return typed


def _own_columns(row: dict[str, Any], form: RowForm) -> dict[str, Any]:
    """Return the values of `OWN_COLUMNS` and `SCORING_COLUMNS`, except for columns in `form.columns`."""
    own = {name: row[name] for name in OWN_COLUMNS if row.get(name) is not None and name not in form.columns}
    for name, value in own.items():
        if name != USE_JEPA:
            text_of(value, name)
        elif not isinstance(value, bool):
            raise RowError("type", "wrong_type", f"{name} holds {describe_type(value)}, expected true or false.")
    scoring = {name: row[name] for name in SCORING_COLUMNS if row.get(name) is not None and name not in form.columns}
    return {**own, "scoring": scoring} if scoring else own


def _short(source: str) -> str:
    return PurePath(source).name  # notes are also in model cards, which must not show a folder of this machine


def _listed(row: Collection[str]) -> str:
    # A name that begins with a byte-order mark, say, is shown as it is written in Python.
    names = [name if (name := str(column)).isprintable() else repr(name) for column in row]
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return (", ".join(names[:_MOST_LISTED]) or "(none)") + more
