"""Reads the data of `train.py`: a running text, or a file of pairs, as a table of character numbers.

A row is one character longer than what the model reads, because of the targets:

    text     t t t t t t t t t t t t      block_size + 1 characters from anywhere in the file
    pairs    t t t | c c c c $ . . .      text, separator, code, end, padding

Letters: N rows, B of them in a batch, T characters that the model reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from llm_jepa.data.json_lines import RowError, iter_lines, parse_line
from llm_jepa.errors import DataError

SEPARATOR, END = "\x1f", "\x03"  # ASCII's own "unit separator" and "end of text", which no text contains
PADDING = -1  # read as character 0, after all that is trained; ignored as a target
HELD_OUT_SHARE, MAX_HELD_OUT = 0.1, 200  # a share at the end of the file, and the most rows of it


@dataclass
class Rows:
    """Rows of characters, (N, block_size + 1). For pairs also the lengths of text and code, (N, 2), and the codes."""

    table: Tensor
    views: Tensor | None = None
    codes: list[str] | None = None

    def batch(self, which: Tensor, device: str) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return what the model reads, (B, T), what follows each character, (B, T), and the views, (B, 2) or None."""
        rows = self.table[which]
        rows = rows[:, : (rows != PADDING).sum(1).max()].to(device)  # as wide as the longest
        return rows[:, :-1].clamp(min=0), rows[:, 1:], None if self.views is None else self.views[which]


def rows_of_text(path: str, block_size: int) -> tuple[str, Rows, Rows]:
    """Return the characters, the training rows and the held-out rows of a running text."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError("not_utf8", f"{path} is not a plain text file in UTF-8: {error}.") from error
    cut = int(len(text) * (1 - HELD_OUT_SHARE))
    if len(text) - cut < 2 * (block_size + 1):
        raise DataError(
            "text_too_short",
            f"{path} has {len(text):,} characters. Its last tenth is held out, and must hold two rows of "
            f"{block_size + 1}. Use a longer text, or a smaller --block-size.",
        )
    chars = "".join(sorted(set(text)))
    number = {char: place for place, char in enumerate(chars)}
    tokens = torch.tensor([number[char] for char in text])
    train = tokens[:cut].unfold(0, block_size + 1, 1)  # every part of the text of that length, without copying
    held_out = tokens[cut:].unfold(0, block_size + 1, block_size + 1)[:MAX_HELD_OUT]
    return chars, Rows(train), Rows(held_out)


def read_pairs(path: str) -> list[tuple[str, str]]:
    """Return text and code of each line."""
    pairs = []
    with open(path, "rb") as file:
        for line, raw in iter_lines(file):
            try:
                row = parse_line(raw)
            except RowError as error:
                raise DataError(error.code, f"{path}, line {line}: {error}") from None
            if not isinstance(row.get("text"), str) or not isinstance(row.get("code"), str):
                found = ", ".join(row) or "nothing"
                text = f"{path}, line {line}: found {found}. Expected text and code, two strings."
                raise DataError("column_missing", text)
            pairs.append((row["text"], row["code"]))
    return pairs


def rows_of_pairs(path: str, block_size: int) -> tuple[str, Rows, Rows]:
    """Return the characters, the training rows and the held-out rows of a file of pairs."""
    pairs = [(text + SEPARATOR, code) for text, code in read_pairs(path)]  # the separator ends the text
    fitting = [(text, code) for text, code in pairs if len(text + code + END) <= block_size + 1]
    cut = len(fitting) - min(MAX_HELD_OUT, int(len(fitting) * HELD_OUT_SHARE))
    held_out, seen = fitting[cut:], {code for _, code in fitting[cut:]}
    train = [(text, code) for text, code in fitting[:cut] if code not in seen]
    print(
        f"pairs  {len(pairs):,} in the file; {len(pairs) - len(fitting)} left out, longer than --block-size "
        f"{block_size}; {cut - len(train)} left out, their code is held out; "
        f"{sum(len(code) < 2 for _, code in train)} without a JEPA term, their code is one character"
    )
    if len(held_out) < 2 or not train:
        text = f"{path} leaves {len(train)} pairs to train on and {len(held_out)} to hold out: too few. Use more pairs."
        raise DataError("too_few_rows", text)
    chars = "".join(sorted({char for text, code in fitting for char in text + code} | {END}))
    number = {char: place for place, char in enumerate(chars)}

    def to_rows(pairs: list[tuple[str, str]]) -> Rows:
        table = torch.full((len(pairs), block_size + 1), PADDING)
        for row, (text, code) in zip(table, pairs, strict=True):
            line = text + code + END  # the end is a target, too, so that the model learns where an answer stops
            row[: len(line)] = torch.tensor([number[char] for char in line])
        # The end is not part of the code view: Enc(code) is read at the code's last character.
        views = torch.tensor([(len(text), len(code)) for text, code in pairs])
        return Rows(table, views, [code for _, code in pairs])

    return chars, to_rows(train), to_rows(held_out)
