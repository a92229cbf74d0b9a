"""One row as text, before any tokenizer: the result of every reader, and the input of every encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Example:
    """One row as text.

    Attributes:
        text: The text view.
        code: The code view. None: `text` is one sequence, which `jepa_split` splits into two views.
        system: The system message of a chat, if it had one.
        messages: The whole chat, answer included, if the row came as one; chat templates render it.
        source: Where the row is, such as `train.jsonl:17` (the line, or in other formats the row; from 1).
        text_view: What Enc(Text) encodes if it is not `text`.
        code_view: What Enc(Code) encodes if it is not `code`.
        use_jepa: Whether the row has a JEPA term; if not, it is under cross-entropy only.
        group: Name of a group of rows that belong together: they are always in the same split.
        scoring: The values of `SCORING_COLUMNS` that the row has, unchanged.
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

    @property
    def views(self) -> list[str]:
        """The row's texts: text, code, and views of its own."""
        return [view for view in (self.text, self.code, self.text_view, self.code_view) if view is not None]
