"""What all training rows have around the question. It is saved with a run, to ask every new question in the same way.

A model that always read "Answer with a regex." before a question was never trained to answer without it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import reduce
from typing import Any

from llm_jepa.errors import ConfigError

from .example import Example

Message = dict[str, Any]


@dataclass(frozen=True)
class Context:
    """What all rows have in common.

    Attributes:
        is_chat: Whether rows are rendered with a chat template.
        takes_system: Whether a system message is part of the text that the model reads.
        system: The system message of all rows; None if they have none, or not all the same one.
        system_differs: Whether rows have different system messages, or some have none.
        turns: The turns that every chat begins with, such as examples of an answer.
        text_prefix: The words that every text begins with.
        text_suffix: The words that every text ends with.
    """

    is_chat: bool = False
    takes_system: bool = False
    system: str | None = None
    system_differs: bool = False
    turns: list[Message] = field(default_factory=list)
    text_prefix: str = ""
    text_suffix: str = ""

    @classmethod
    def of(cls, examples: Iterable[Example], *, is_chat: bool, include_system: bool) -> Context:
        """Return what these rows share; `include_system` matters only without a chat template."""
        kind = cls(is_chat=is_chat, takes_system=is_chat or include_system)
        each = (_of_one(example, kind) for example in examples)
        return _at_words(reduce(_shared, each, next(each, cls())))

    def to_dict(self) -> dict[str, Any]:
        """Return the context as values for JSON; `Context(**values)` makes the same one."""
        return asdict(self)

    @property
    def messages(self) -> list[Message]:
        """The messages before a question: a system message and turns, if there are any."""
        return ([] if self.system is None else [{"role": "system", "content": self.system}]) + self.turns

    def with_system(self, system: str) -> Context:
        """Return the context with another system message ("": none); a ConfigError if the model reads none."""
        if not self.takes_system:
            raise ConfigError(
                "setting_without_effect",
                "--system has no effect: the rows of this run were trained without a system message. Remove "
                "--system, or write its words into the text.",
            )
        return replace(self, system=system or None, system_differs=False)

    def ask(self, text: str) -> Example:
        """Return a row without an answer, in which a text is asked in the same way as in training."""
        messages = [*self.messages, {"role": "user", "content": text}] if self.is_chat else None
        return Example(text=text, code="", system=self.system, messages=messages, source="prompt")

    def labelled(self, text: str, answer: str) -> Example:
        """Return a row with an answer, in which a text is asked in the same way as in training."""
        asked = self.ask(text)
        if asked.messages is None:
            return replace(asked, code=answer)
        return replace(asked, code=answer, messages=[*asked.messages, {"role": "assistant", "content": answer}])

    def notes(self, text: str) -> list[str]:
        """Return what a user who asks this text should know."""
        notes = []
        if self.system_differs:
            notes.append("The training rows have different system messages; none is sent. Choose one with --system.")
        if not text.startswith(self.text_prefix):
            notes.append(f"All training texts begin with {self.text_prefix!r}, this one does not.")
        if not text.endswith(self.text_suffix):
            notes.append(f"All training texts end with {self.text_suffix!r}, this one does not.")
        return notes

    def differences(self, other: Context, rows: str) -> list[str]:
        """Return a sentence for each difference between how these rows and other rows are asked."""
        told = []
        if self.is_chat != other.is_chat:
            how = ("with", "without") if other.is_chat else ("without", "with")
            told.append(f"The {rows} are asked {how[0]} a chat template; the training rows {how[1]} one.")
        elif not self.system_differs and (other.system, other.system_differs) != (self.system, False):
            theirs = "different ones" if other.system_differs else _quoted(other.system)
            told.append(f"The system message of the training rows is {_quoted(self.system)}, the {rows} have {theirs}.")
        return told


def _of_one(example: Example, kind: Context) -> Context:
    messages = example.messages or []
    system = example.system if kind.takes_system else None
    asked = [each for each in messages if each["role"] != "system"]
    asked = asked[:-1] if asked and asked[-1]["role"] == "assistant" else asked
    text = asked[-1]["content"] if asked else example.text
    turns = asked[:-1] if kind.is_chat else []
    return replace(kind, system=system, turns=turns, text_prefix=text, text_suffix=text)


def _shared(one: Context, other: Context) -> Context:
    turns = _shared_start(one.turns, other.turns)
    is_whole = len(turns) == len(one.turns) == len(other.turns)
    while turns and not is_whole and turns[-1]["role"] == "user":
        turns.pop()  # its answer differs, and two questions cannot follow each other
    differs = one.system_differs or one.system != other.system
    return replace(
        one,
        system=None if differs else one.system,
        system_differs=differs,
        turns=turns,
        text_prefix=_shared_start(one.text_prefix, other.text_prefix),
        text_suffix=_shared_start(one.text_suffix[::-1], other.text_suffix[::-1])[::-1],
    )


def _shared_start(one: Any, other: Any) -> Any:
    least = min(len(one), len(other))
    return one[: next((place for place in range(least) if one[place] != other[place]), least)]


def _at_words(context: Context) -> Context:
    """Cut prefix and suffix at the border of a word: half a word is shared by accident."""
    prefix, suffix = context.text_prefix, context.text_suffix
    start = next((place for place in range(len(prefix), 0, -1) if prefix[place - 1].isspace()), 0)
    end = next((place for place in range(len(suffix)) if suffix[place].isspace()), len(suffix))
    return replace(context, text_prefix=prefix[:start], text_suffix=suffix[end:])


def _quoted(system: str | None) -> str:
    return "none" if system is None else repr(system if len(system) <= 60 else f"{system[:60]}...")
