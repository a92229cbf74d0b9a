"""Read and check a notes file: `PAGE: {title: ..., bullets: [...]}`, with optional place, size and colour."""

from __future__ import annotations

import math
import re
import reprlib
import unicodedata
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from llm_jepa.errors import ConfigError, nearest
from llm_jepa.files import expanded
from llm_jepa.yaml_loading import UniqueKeyLoader, code_of

KEYS = ("title", "bullets", "place", "size", "colour")
FORM = "PAGE: {title: ..., bullets: [...]}"
PLACES = ("top", "margin")
COLOURS = {
    "blue": "#2f5d8a",
    "green": "#3b7a57",
    "amber": "#a8741a",
    "red": "#a23b3b",
    "purple": "#6b4c93",
    "grey": "#5f6670",
}
MIN_SIZE, DEFAULT_SIZE, MAX_SIZE = 7.0, 8.5, 18.0
"""Points. Our choice: a paper's footnotes are 8 to 9 points, and below 7 print is hard to read."""
MAX_FILE_BYTES = 1_000_000
MAX_NOTE_CHARS = 20_000

_SHIPPED: Any = resources.files("llm_jepa.papers.notes")
_WRITTEN_LEFTWARDS = {"R", "AL", "AN"}  # classes of the Unicode bidirectional algorithm


@dataclass(frozen=True)
class Note:
    """What is written on one page.

    Attributes:
        page: From 1.
        title: First line, in bold; each of the `bullets` is a paragraph below it.
        place: "top", "margin", or the box's left and top edge and (optional) its width, in points from the upper left
            corner of the page as displayed.
        size: Of the text, in points.
        colour: Of frame and title, as "#rrggbb".
    """

    page: int
    title: str
    bullets: tuple[str, ...] = ()
    place: str | tuple[float, ...] = "top"
    size: float = DEFAULT_SIZE
    colour: str = COLOURS["blue"]

    @property
    def text(self) -> str:
        """The note as plain text, a line for the title and for each bullet."""
        return "\n".join([self.title, *(f"• {bullet}" for bullet in self.bullets)])


def shipped_notes() -> list[str]:
    """Return the names of the notes files that come with the package."""
    return sorted(Path(file.name).stem for file in _SHIPPED.iterdir() if file.name.endswith(".yaml"))


def read_notes(source: str | Path) -> list[Note]:
    """Return the notes of a YAML file, or of a shipped one by its name ("llm-jepa-v1"), in the order of their pages.

    Raises:
        ConfigError: If there is no such file, or something in it is not as documented.
    """
    text, name = _read(source)
    pages, lines = _parse(text, name)
    notes = []
    for page, content in pages.items():
        where = f"{name}:{lines.get(page, 1)}"
        notes.append(_read_note(_page_number(page, where), content, f"{where}: page {page}"))
    return sorted(notes, key=lambda note: note.page)


def _read(source: str | Path) -> tuple[str, str]:
    """Return text and name of a notes file."""
    if str(source) in shipped_notes():
        return _SHIPPED.joinpath(f"{source}.yaml").read_text(encoding="utf-8"), str(source)
    path = expanded(source)
    if not path.exists():
        expected = f"Expected a file of notes, or {', '.join(shipped_notes())}."
        raise ConfigError("file_missing", f"{path} does not exist. {expected}{nearest(source, shipped_notes())}")
    if not path.is_file():  # a pipe or a device might never end
        kind = "a folder" if path.is_dir() else "not a regular file"
        raise ConfigError("not_a_file", f"{path} is {kind}. Expected a file of notes.")
    if (size := path.stat().st_size) > MAX_FILE_BYTES:
        raise ConfigError("file_too_large", f"{path} has {size:,} bytes; expected at most {MAX_FILE_BYTES:,}.")
    try:
        return path.read_text(encoding="utf-8-sig"), str(path)
    except UnicodeDecodeError:
        raise ConfigError("not_utf8", f"{path} is not UTF-8 text. Expected YAML: {FORM}.") from None


def _parse(text: str, name: str) -> tuple[dict[Any, Any], dict[Any, int]]:
    """Return the mapping that the YAML holds, and the line of each of its keys."""
    try:
        loader = UniqueKeyLoader(text)
        node = loader.get_single_node()
        pages = loader.construct_document(node) if node else None
        keys = [key for key, _ in node.value] if isinstance(pages, dict) and node else []
        lines = {loader.construct_object(key): key.start_mark.line + 1 for key in keys}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}" if mark else name
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read"
        text = f"{where}: not valid YAML: {problem}. Texts with ': ' or '#' need quotes."
        raise ConfigError(code_of(error), text) from None
    except (RecursionError, ValueError, TypeError):  # nested too deeply, or a number of 5,000 digits
        text = f"{name}: the YAML has a value that is neither text nor a plain number."
        raise ConfigError("not_yaml", text) from None
    if pages is None or pages == {}:
        raise ConfigError("file_empty", f"{name}: found nothing; expected pages: {FORM}.")
    if not isinstance(pages, dict):
        raise ConfigError("wrong_type", f"{name}: found {type(pages).__name__}; expected pages: {FORM}.")
    return pages, lines


# ---- one note ----


def _page_number(page: Any, where: str) -> int:
    if isinstance(page, bool) or not isinstance(page, int):
        known = nearest(page, KEYS) if isinstance(page, str) else ""
        text = f"{where}: the page {shown(page)} is not a whole number. Expected a page, such as 3.{known}"
        raise ConfigError("wrong_type", text)
    if not 1 <= page <= 1_000_000:
        text = f"{where}: there is no page {shown(page)}. Pages are counted from 1."
        raise ConfigError("value_out_of_range", text)
    return page


def _read_note(page: int, content: Any, where: str) -> Note:
    if not isinstance(content, dict):
        raise ConfigError("wrong_type", f"{where}: found {shown(content)}; expected title: and bullets:.")
    for key in content:
        if key not in KEYS:
            text = f"{where}: unknown key {shown(key)}.{nearest(key, KEYS)} The keys are {', '.join(KEYS)}."
            raise ConfigError("key_unknown", text)
    if "title" not in content:
        raise ConfigError("key_missing", f"{where}: there is no title. Expected title: and bullets:.")
    bullets = content.get("bullets", [])
    if not isinstance(bullets, list):
        text = f"{where}: bullets is {shown(bullets)}; expected a list of texts, each on a line after '- '."
        raise ConfigError("wrong_type", text)
    note = Note(
        page=page,
        title=_text(content["title"], f"{where}: title"),
        bullets=tuple(_text(each, f"{where}: bullet {number}") for number, each in enumerate(bullets, 1)),
        place=_place(content.get("place", "top"), f"{where}: place"),
        size=_size(content.get("size", DEFAULT_SIZE), f"{where}: size"),
        colour=_colour(content.get("colour", "blue"), f"{where}: colour"),
    )
    if len(note.text) > MAX_NOTE_CHARS:
        text = f"{where}: the note has {len(note.text):,} characters; expected at most {MAX_NOTE_CHARS:,}."
        raise ConfigError("text_too_long", text)
    return note


def _text(value: Any, where: str) -> str:
    """Return a text in composed characters (NFC) with single spaces."""
    if not isinstance(value, str):
        raise ConfigError("wrong_type", f"{where} is {shown(value)}; expected a text. Put it in quotes.")
    text = re.sub(r"[ \t\r\n]+", " ", unicodedata.normalize("NFC", value)).strip(" ")
    if not text:
        raise ConfigError("value_empty", f"{where} is empty; expected a text.")
    for char in text:
        if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}:
            text = f"{where} has the invisible character U+{ord(char):04X}. Remove it."
            raise ConfigError("character_not_allowed", text)
        if unicodedata.bidirectional(char) in _WRITTEN_LEFTWARDS:
            text = f"{where} has {char!r}. Scripts that are written from right to left are not supported."
            raise ConfigError("character_not_supported", text)
    return text


def _place(value: Any, where: str) -> str | tuple[float, ...]:
    if isinstance(value, str) and value in PLACES:
        return value
    if isinstance(value, list) and len(value) in {2, 3} and all(map(_is_number, value)):
        return tuple(float(each) for each in value)
    hint = nearest(value, PLACES) if isinstance(value, str) else ""
    raise ConfigError(
        "value_not_allowed",
        f"{where} is {shown(value)}; expected top, margin, or [x, y] or [x, y, width] in points from the upper left "
        f"corner.{hint}",
    )


def _size(value: Any, where: str) -> float:
    if not _is_number(value) or not MIN_SIZE <= value <= MAX_SIZE:
        text = f"{where} is {shown(value)}; expected points from {MIN_SIZE:g} to {MAX_SIZE:g}."
        raise ConfigError("value_out_of_range", text)
    return float(value)


def _colour(value: Any, where: str) -> str:
    if isinstance(value, str) and value in COLOURS:
        return COLOURS[value]
    if isinstance(value, str) and re.fullmatch("#[0-9a-fA-F]{6}", value):
        return value.lower()
    hint = nearest(value, COLOURS) if isinstance(value, str) else ""
    quotes = " '#' begins a comment in YAML: write the colour in quotes." if value is None else ""
    text = f"{where} is {shown(value)}; expected {', '.join(COLOURS)} or '#rrggbb'.{hint}{quotes}"
    raise ConfigError("value_not_allowed", text)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def shown(value: Any) -> str:
    """Return any value as an error shows it: short, and on one line."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 60
    short.maxlevel = 2
    try:
        return "nothing" if value is None else short.repr(value)
    except ValueError:  # a whole number too long for text
        return "a number of thousands of digits"
