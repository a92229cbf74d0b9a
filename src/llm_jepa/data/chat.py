"""Rendering chats with a tokenizer's chat template, knowing where each message's words stand.

A view must end where the user's last word ends, and must not be found by searching: an answer may stand in
its question, and a question in its system message. So the template is rendered once more with a marker in
place of each content; what stands between the markers is the template's own text, and gives the places.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerBase

from llm_jepa.data.tokenizer import encode_text
from llm_jepa.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

Message = dict[str, Any]
Span = tuple[int, int]  # characters, from the first up to, not including, the last

# Private-use characters: no template writes them, none strips them.
_MARKER = re.compile("\ue000([0-9]+)\ue001")

# Some templates ask what day it is by this function, and know no date_string.
_FROZEN_DATE = "{%- macro strftime_now(format) -%}{{ date_string }}{%- endmacro -%}"


@dataclass(frozen=True)
class RenderedPrompt:
    """A prompt as the template writes it, up to the point where the answer starts.

    Attributes:
        string: The whole prompt, generation prompt included.
        contents: Places of the messages' words; everything else is the template's.
        last_user: Place of the last user message's words; the text view ends at its end.
    """

    string: str
    contents: list[Span]
    last_user: Span


class ChatTemplate:
    """The chat template of a tokenizer, with frozen arguments.

    Attributes:
        end_id: The token that ends an answer: the one that the template writes after the assistant's words.

    Raises:
        ConfigError: If the template has no token after an answer and the tokenizer has no end token either, if
            what it writes after an answer is no token, or if it cannot render a user's turn and an answer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, kwargs: dict[str, Any]) -> None:
        self.tokenizer = tokenizer
        self.kwargs = dict(kwargs)
        self._template: str | None = None  # the tokenizer's own
        if "date_string" in kwargs and isinstance(tokenizer.chat_template, str):
            self._template = _FROZEN_DATE + tokenizer.chat_template
        self._skeletons: dict[tuple[Any, ...], str] = {}
        self._lone_answer_role: str | None = None
        added = tokenizer.added_tokens_decoder
        self._added_ids = {token.content: index for index, token in added.items()}
        specials = sorted((token.content for token in added.values() if token.special), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, specials))) if specials else None
        self.end_id = self._find_end_id()
        if "strftime_now" in str(tokenizer.chat_template) and "date_string" not in self.kwargs:
            logger.warning(
                "the chat template writes today's date: rows will differ from day to day. "
                "Set chat_template_kwargs to a fixed date_string."
            )

    def render_prompt(self, messages: list[Message], source: str) -> RenderedPrompt:
        """Render the messages up to the last user's turn, and the header of the answer.

        Raises:
            DataError: If the template refuses these messages, or changes a content in more than the white
                space around it, so that the place where a view ends is not known.
        """
        string = self._render(messages, source, add_generation_prompt=True)
        skeleton = self._skeleton(messages, source)
        return _placed(messages, skeleton, string, source)

    def encode_text_view(self, messages: list[Message], source: str) -> list[int]:
        """Return the ids of messages alone, up to the last one's last word: no header of an answer follows.

        Raises:
            DataError: As `render_prompt`.
        """
        string = self._render(messages, source, add_generation_prompt=False)
        skeleton = self._skeleton(messages, source, add_generation_prompt=False)
        prompt = _placed(messages, skeleton, string, source)
        return self.encode(prompt, 0, prompt.last_user[1])

    def encode_code_view(self, answer: str, source: str) -> list[int]:
        """Return the ids of an answer alone in the template, up to its last word.

        Where the template refuses an answer without a question (Gemma's does), it is rendered as a user's turn,
        as in the published code.
        """
        if self._lone_answer_role is None:
            self._lone_answer_role = self._find_lone_answer_role()
        return self.encode_text_view([{"role": self._lone_answer_role, "content": answer}], source)

    def _find_lone_answer_role(self) -> str:
        alone = _marked([{"role": "assistant", "content": ""}])
        try:
            if self._render(alone, "chat template", add_generation_prompt=False).count(_marker(0)) == 1:
                return "assistant"
        except DataError:
            pass
        logger.warning("the chat template renders no answer alone: the code view is rendered as a user's turn")
        return "user"

    def encode(self, prompt: RenderedPrompt, start: int, end: int) -> list[int]:
        """Return the ids of the prompt's characters from `start` to `end`.

        Special tokens that the template wrote become their ids. The same characters in a message's words
        stay characters.
        """
        string = prompt.string[start:end]
        contents = [(max(a, start) - start, min(b, end) - start) for a, b in prompt.contents if a < end and b > start]
        if self._special is None or not any(_overlaps(m.span(), contents) for m in self._special.finditer(string)):
            # The common case, left to the tokenizer: exactly the ids that every other tool gives this prompt.
            encoded = self.tokenizer(string, add_special_tokens=False, split_special_tokens=False, verbose=False)
            return encoded["input_ids"]
        return self._encode_around_contents(string, contents)

    def _encode_around_contents(self, string: str, contents: list[Span]) -> list[int]:
        assert self._special is not None
        ids: list[int] = []
        done = 0
        gap_starts = [0, *(b for _, b in contents)]
        gap_ends = [*(a for a, _ in contents), len(string)]
        for gap_start, gap_end in zip(gap_starts, gap_ends, strict=True):
            for match in self._special.finditer(string, gap_start, gap_end):
                ids += encode_text(self.tokenizer, string[done : match.start()])
                ids.append(self._added_ids[match.group()])
                done = match.end()
        return ids + encode_text(self.tokenizer, string[done:])

    def _render(self, messages: list[Message], source: str, *, add_generation_prompt: bool) -> str:
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    messages,
                    chat_template=self._template,
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                    **self.kwargs,
                )
            )
        except (jinja2.TemplateError, TypeError, KeyError) as err:
            roles = ", ".join(message["role"] for message in messages)
            raise DataError(
                f"{source}: the chat template refuses this chat ({roles}): {err}. Change the roles, or use "
                "rows of prompt and completion strings."
            ) from err

    def _skeleton(self, messages: list[Message], source: str, *, add_generation_prompt: bool = True) -> str:
        """Render the messages with a marker for each content; once for each order of roles."""
        key = (add_generation_prompt, *(message["role"] for message in messages))
        if key not in self._skeletons:
            self._skeletons[key] = self._render(_marked(messages), source, add_generation_prompt=add_generation_prompt)
        return self._skeletons[key]

    def _find_end_id(self) -> int:
        chat = [{"role": "user", "content": ""}, {"role": "assistant", "content": ""}]
        try:
            whole = self._render(_marked(chat), "chat template", add_generation_prompt=False)
            header = self._render(_marked(chat)[:1], "chat template", add_generation_prompt=True)
        except DataError as err:
            raise ConfigError(f"The tokenizer's chat template cannot render a question and an answer: {err}") from err
        before, _, after = whole.partition(_marker(1))
        if before != header:
            logger.warning(
                "the chat template opens an answer with %r in a chat, and with %r where it asks for one; "
                "training uses the second, as generation does",
                before[-40:],
                header[-40:],
            )
        written = [token for token in self._added_ids if after.lstrip().startswith(token)]
        if written:
            return self._added_ids[max(written, key=len)]
        if after.strip() and not _MARKER.search(after):  # an answer written twice is refused by its row
            raise ConfigError(
                f"The chat template writes {after.strip()[:40]!r} after an answer, which is no token of the tokenizer: "
                "as plain text it would end nothing. Use the template's own tokenizer, or add the token to this one."
            )
        end_id = self.tokenizer.eos_token_id
        if end_id is None:
            raise ConfigError(
                "The chat template writes no token after an answer, and the tokenizer has no eos_token: a "
                "model could not learn to stop. Set the tokenizer's eos_token."
            )
        logger.warning("the chat template writes no token after an answer; %r ends it", self.tokenizer.eos_token)
        return int(end_id)


def _placed(messages: list[Message], skeleton: str, string: str, source: str) -> RenderedPrompt:
    places = _locate([message["content"] for message in messages], skeleton, string)
    last = len(messages) - 1
    if places is None or sum(index == last for index, _ in places) != 1:
        raise DataError(
            f"{source}: the chat template changes the messages' words, or does not write the last user "
            "message exactly once, so the end of the text view is not known. Use rows of prompt and "
            "completion strings, or another chat template."
        )
    return RenderedPrompt(
        string=string,
        contents=[span for _, span in places],
        last_user=next(span for index, span in places if index == last),
    )


def _marker(index: int) -> str:
    return f"\ue000{index}\ue001"


def _marked(messages: list[Message]) -> list[Message]:
    return [{**message, "content": _marker(index)} for index, message in enumerate(messages)]


def _locate(contents: list[str], skeleton: str, string: str) -> list[tuple[int, Span]] | None:
    """Return `(message index, place in string)` of each content, in the order of the string.

    None where the string is not the skeleton with the contents, bare or stripped, in place of the markers.

    >>> _locate([" hi "], "<u>\\ue0000\\ue001</u>", "<u>hi</u>")
    [(0, (3, 5))]
    """
    first, *rest = _MARKER.split(skeleton)
    if not string.startswith(first):
        return None
    places: list[tuple[int, Span]] = []
    at = len(first)
    for index, literal in zip(map(int, rest[::2]), rest[1::2], strict=True):
        content = contents[index]
        # Templates of models that reason aloud leave the thinking of earlier answers out.
        said = content.rpartition("</think>")[2]
        variants = dict.fromkeys([content, content.strip(), content.lstrip(), content.rstrip(), said.strip()])
        written = next((v for v in variants if string.startswith(v + literal, at)), None)
        if written is None:
            return None
        places.append((index, (at, at + len(written))))
        at += len(written) + len(literal)
    return places if at == len(string) else None


def _overlaps(span: Span, others: list[Span]) -> bool:
    return any(span[0] < end and start < span[1] for start, end in others)
