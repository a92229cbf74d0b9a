"""Chats: which message is the answer, and which fields other trainers read besides role and content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .json_lines import RowError, describe_type, text_of

ROLES = ("system", "user", "assistant")
TRAINED = ("weight", "train", "training", "loss")
"""Fields of a message in files for OpenAI, Axolotl and others. 0 or false: the message is not trained on."""

REASONING = ("reasoning_content", "reasoning", "thinking")
_TOOLS = ("tool_calls", "function_call")
_MEDIA = ("image", "images", "video", "videos", "audio", "audios")
_MASKS = ("mask", "masked", "loss_mask", "train_detail", "training_detail")


@dataclass(frozen=True)
class Chat:
    """A chat that ends with the answer to be learned.

    Attributes:
        turns: The words of the turns before the answer, without the system message.
        answer: The words of the last assistant message that is trained on.
        messages: All messages up to the answer.
        has_untrained: Whether a message before the answer is marked as one that is not trained on.
        notes: Sentences, by field, about what a user may not expect.
        unread: Names of fields that no view holds.
    """

    system: str | None
    turns: list[str]
    answer: str
    messages: list[dict[str, Any]]
    has_untrained: bool
    notes: dict[str, str]
    unread: list[str]


def read_chat(messages: Any, column: str) -> Chat:
    """Read a chat: a system message or none, earlier turns, a last user turn, the assistant's answer.

    A message that is not trained on (`weight: 0`) is not the answer: the chat ends with the last answer that is.
    Anything else is a RowError.
    """
    if not isinstance(messages, list):
        raise RowError("type", "wrong_type", f"{column} holds {describe_type(messages)}, expected a list of messages.")
    places = [f"{column}, message {number}" for number in range(1, len(messages) + 1)]
    contents = list(map(_check_message, messages, places))
    marks = list(map(_mark, messages, places))
    roles = [message["role"] for message in messages]
    end = _end_of_answer(roles, marks)
    if end < len(roles) and roles[:end][-1:] != ["assistant"]:
        raise RowError(
            "messages",
            "answer_not_trained",
            f"no assistant message of {column} is trained on (see {', '.join(TRAINED)}). Expected an answer: "
            "give one of them weight 1, or remove the row.",
        )
    if roles[:end][-2:] != ["user", "assistant"]:
        raise RowError(
            "messages",
            "wrong_last_roles",
            f"{column} ends with {'the roles ' + ', '.join(roles[-2:]) if roles else 'no message'}; expected a user's "
            "turn and the assistant's answer to it as the last two.",
        )
    if "system" in roles[1:]:
        text = f"{column} has a system message after the first place; expected it first, or none."
        raise RowError("messages", "system_not_first", text)
    system = contents[0] if roles[0] == "system" else None
    return Chat(
        system=system,
        turns=contents[: end - 1] if system is None else contents[1 : end - 1],
        answer=contents[end - 1],
        messages=[dict(message) for message in messages[:end]],
        has_untrained=False in marks[: end - 1],
        notes=_notes(roles, marks, messages, end),
        unread=[name for message in messages[:end] for name in message if _is_unread(name, message[name])],
    )


def is_filled(value: Any) -> bool:
    """Whether a field holds something. Null, false and empty count as missing."""
    return value is not None and value is not False and value not in ("", [], {})


def _end_of_answer(roles: Sequence[str], marks: Sequence[bool | None]) -> int:
    """Return the number of messages up to the last answer that is trained on.

    >>> _end_of_answer(["user", "assistant", "user", "assistant"], [None, True, None, False])
    2
    """
    end = len(roles)
    while end and roles[end - 1] == "assistant" and marks[end - 1] is False:
        end -= 1
        while end and roles[end - 1] == "user":
            end -= 1
    return end


def _check_message(message: Any, where: str) -> str:
    if not isinstance(message, dict):
        text = f"{where} is {describe_type(message)}, expected an object with role and content."
        raise RowError("type", "wrong_type", text)
    if message.get("role") not in ROLES:
        hint = " Use the names role and content instead of from and value." if "from" in message else ""
        raise RowError(
            "messages",
            "unknown_role",
            f"{where} has the role {message.get('role')!r}, expected one of: {', '.join(ROLES)}.{hint}",
        )
    if any(is_filled(message.get(name)) for name in _TOOLS):
        raise RowError("messages", "not_text", f"{where} calls tools, which no view can hold. Expected only text.")
    for name in _MEDIA:
        if is_filled(message.get(name)):
            raise RowError("messages", "not_text", f"{where} has {name}, which no view can hold. Expected only text.")
    for name in _MASKS:
        if is_filled(message.get(name)):
            raise RowError(
                "messages",
                "field_not_supported",
                f"{where} has {name}, which different trainers read in different ways. Give a message that is not "
                f"trained on weight 0, and remove {name}.",
            )
    return text_of(message.get("content"), f"{where}, content")


def _mark(message: dict[str, Any], where: str) -> bool | None:
    """Return whether a message is marked as trained on or not; None if it has no mark."""
    said = {name: message[name] for name in TRAINED if message.get(name) is not None}
    for name, value in said.items():
        if value not in (0, 1):
            text = f"{where} has {name} {value!r}, expected 0 or 1 (false or true)."
            raise RowError("messages", "value_not_allowed", text)
    if len(set(map(bool, said.values()))) > 1:
        text = f"{where} has {' and '.join(said)}, which contradict each other. Remove one."
        raise RowError("messages", "fields_conflict", text)
    return bool(next(iter(said.values()))) if said else None


def _notes(
    roles: Sequence[str], marks: Sequence[bool | None], messages: list[dict[str, Any]], end: int
) -> dict[str, str]:
    notes = {}
    if end < len(roles):
        notes["cut"] = (
            "the last assistant message is marked as not trained on (weight 0): the chat is read up to the last "
            "answer that is trained on."
        )
    if any(mark is True and role == "assistant" for mark, role in zip(marks[: end - 1], roles, strict=False)):
        notes["earlier"] = (
            "an assistant message before the last one is marked to be trained on (weight 1). This happens with "
            "loss_on=all only; the code view is the last answer."
        )
    for name in REASONING:
        if is_filled(messages[end - 1].get(name)):
            notes[name] = (
                f"the field {name} of the answer is not read: the answer is content only. Put it into content to "
                "train on it."
            )
    return notes


def _is_unread(name: str, value: Any) -> bool:
    if name in (*_TOOLS, *_MEDIA, *_MASKS):  # if it is there, it is empty or false, and marks nothing
        return False
    return name not in ("role", "content", *TRAINED, *REASONING) and (is_filled(value) or value is False)
