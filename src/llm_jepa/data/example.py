"""One row as text, before any tokenizer: what every reader makes, and every encoder takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Example:
    """One row as text, before any tokenizer.

    Attributes:
        text: The text view.
        code: The code view. None: `text` is one sequence, to be split in two views by `jepa_split`.
        system: The system message of a chat, if it had one.
        messages: The whole chat, answer included, if the row came as one; chat templates render it.
        source: Where the row is, such as `train.jsonl:17` (lines, and rows of other formats, from 1).
        text_view: What Enc(Text) encodes where it is not `text`.
        code_view: What Enc(Code) encodes where it is not `code`.
        use_jepa: Whether the row has a JEPA term; without, it trains cross-entropy alone.
        group: Name of the rows that belong together: no split parts them.
        scoring: What the row has of `SCORING_COLUMNS`, unchanged.
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
