"""From an example to a pair of token ids. Each view is tokenised separately, so its end is always known.

Without a chat template:  text | separator | code end
With a chat template:     prompt up to the user's last word | rest of the prompt | answer end-of-turn
One text:                 first part of its tokens | (no bridge) | rest end

That is the row. With `jepa_views: prefix` its parts are the views. With `rendered`, or if a row has views of its own,
the views are encoded apart from the row: question and answer each alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from typing import cast

from transformers import PreTrainedTokenizerBase

from llm_jepa.errors import ConfigError, DataError
from llm_jepa.objective.layout import Pair

from .chat import ChatTemplate, Controls, Message, RenderedPrompt
from .config import DataConfig
from .example import Example
from .tokenizer import decode_ids, default_template, encode_text


class EmptyViewError(DataError):
    """A view of a row has no text to encode; `on_empty` says what happens to the row."""


class PairEncoder:
    """Encodes examples for one tokenizer. Training, evaluation and generation all use it.

    Attributes:
        chat: The chat template, if the tokenizer has one. It is used only for rows that are chats.
        bos_ids: The start token, if the tokenizer puts one before a text; the text view begins with it.
        bridge_ids: The tokens between the views of a row without chat template: the argument `bridge`, or the
            tokenizer's separator, or a line break (every tokenizer has one, and few views end or start with it).
        end_ids: All tokens that end an answer, for generation to stop at.

    Raises:
        ConfigError: If the tokenizer has no token to end an answer with.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        data_config: DataConfig | None = None,
        jepa_split: float = 0.5,
        jepa_views: str = "prefix",
        bridge: str | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.config = data_config = data_config or DataConfig()
        self.jepa_split = jepa_split
        self.jepa_views = jepa_views
        has_template = default_template(tokenizer) is not None
        if data_config.chat_template_kwargs and not has_template:
            text = "chat_template_kwargs has no effect: the tokenizer has no chat template. Remove the setting."
            raise ConfigError("setting_without_effect", text)
        self.chat = ChatTemplate(tokenizer, data_config.chat_template_kwargs) if has_template else None
        self.controls = Controls(tokenizer) if self.chat is None else self.chat.controls
        if self.chat is None and tokenizer.eos_token_id is None:
            raise ConfigError(
                "end_token_missing",
                "The tokenizer has no eos_token: nothing could end an answer, and a model would never "
                "learn to stop. Set eos_token in its tokenizer_config.json.",
            )
        bos = tokenizer.bos_token_id
        self.bos_ids = [int(bos)] if bos is not None and tokenizer("a")["input_ids"][:1] == [bos] else []
        separator = None if bridge is not None else tokenizer.sep_token_id
        self.bridge_ids = encode_text(tokenizer, bridge or "\n") if separator is None else [int(separator)]
        ends = [self.chat.end_id if self.chat else None, tokenizer.eos_token_id]
        self.end_ids = [int(token) for token in dict.fromkeys(ends) if token is not None]

    @property
    def pad_id(self) -> int:
        """The padding token; the end token if there is no other (labels depend on lengths, not on this id)."""
        pad = self.tokenizer.pad_token_id
        return self.end_ids[0] if pad is None else int(pad)

    def encode(self, example: Example) -> Pair:
        """Return the ids of an example's row.

        Raises:
            EmptyViewError: If a view is empty or blank, or one text has fewer than two tokens.
            DataError: If the row is a chat of several turns, or one that the chat template refuses.
        """
        pair = self._encode_one_text(example) if example.code is None else self._encode_row(example)
        return replace(
            pair,
            text_view_ids=self._own_view(example, "text"),
            code_view_ids=self._own_view(example, "code"),
            use_jepa=example.use_jepa,
            group=example.group,
        )

    def encode_query(self, example: Example, code_ids: list[int]) -> Pair:
        """Return a pair for encoding the text view of a text alone. `code_ids` complete the row; no view reads them."""
        text_ids, bridge_ids = self.encode_text_view(example)
        return Pair(text_ids, code_ids, bridge_ids, example.source, text_view_ids=self._own_view(example, "text"))

    def _encode_row(self, example: Example) -> Pair:
        text_ids, bridge_ids = self.encode_text_view(example)
        code_ids = [*self._encode_words(example, self.answer(example), "code"), self.end_id(example)]
        return Pair(text_ids=text_ids, bridge_ids=bridge_ids, code_ids=code_ids, source=example.source)

    def answer(self, example: Example) -> str:
        """Return the text of an example's answer as `ChatTemplate.without_opening` leaves it."""
        code, chat = example.code or "", self._template_of(example)
        return code if chat is None else chat.without_opening(_without_answer(example), code, example.source)

    def _encode_words(self, example: Example, words: str, view: str) -> list[int]:
        encode = self.controls.questions if view == "text" else self.controls.answers
        if words.strip() and (ids := encode(words)):
            return ids
        raise _empty(example, view)

    def _own_view(self, example: Example, view: str) -> list[int] | None:
        """Return the ids of the text view or the code view if they differ from those in the row, else None."""
        own, words = (example.text_view, example.text) if view == "text" else (example.code_view, example.code)
        is_rendered = self.jepa_views == "rendered"
        if own is None and not is_rendered:
            return None
        if own is None and example.code is None:
            raise DataError(
                "second_view_missing",
                f"{example.source}: jepa_views=rendered needs rows of two views, but the row is one text. Expected a "
                "question and an answer. Set jepa_views=prefix, or give the row a code (code_column).",
            )
        words = (words if own is None else own) or ""
        if not words.strip():
            raise _empty(example, view)
        prompt = self.rendered_view(example, view) if is_rendered else None
        if prompt is None:
            return (self.bos_ids if view == "text" else []) + self._encode_words(example, words, view)
        assert self.chat is not None
        return self.chat.encode(prompt, 0, prompt.last_user[1])

    def rendered_view(self, example: Example, view: str) -> RenderedPrompt | None:
        """Return a view ("text" or "code") as the chat template writes it; None if no template writes it."""
        chat, is_rendered = self._template_of(example), self.jepa_views == "rendered"
        if chat is None or (view == "code" and not is_rendered):
            return None
        if view == "code":
            return chat.render_code_view(example.code_view or example.code or "", example.source)
        turns = _without_answer(example)
        if not is_rendered:
            return chat.render_prompt(turns, example.source)
        own = None if example.text_view is None else [{"role": "user", "content": example.text_view}]
        turns = own or [turn for turn in turns if turn["role"] != "system"]
        return chat.render_prompt(turns, example.source, add_generation_prompt=False)

    def _template_of(self, example: Example) -> ChatTemplate | None:
        """Return the chat template of an example; None if it is no chat, or there is none."""
        return None if example.messages is None else self.chat

    def encode_prompt(self, example: Example) -> list[int]:
        """Return the ids before an answer: exactly the text view and the bridge of the training row."""
        if example.code is None:
            return self._encode_one_text(example).text_ids
        text_ids, bridge_ids = self.encode_text_view(example)
        return text_ids + bridge_ids

    def served_prompt(self, example: Example) -> list[int]:
        """Return the ids that a server with the chat template makes of the prompt of an example, which is a chat."""
        assert self.chat is not None
        ids = self.tokenizer.apply_chat_template(
            _without_answer(example), add_generation_prompt=True, tokenize=True, return_dict=False, **self.chat.kwargs
        )
        return cast(list[int], ids)

    def encode_words(self, words: str) -> list[int]:
        """Return the ids of a text, encoded like an answer but without an end token; none for a blank text."""
        return self.controls.answers(words) if words.strip() else []

    def decode_code(self, ids: Sequence[int]) -> str:
        """Return the text of generated ids up to the first end token, which is not part of it."""
        return decode_ids(self.tokenizer, list(takewhile(lambda token: token not in self.end_ids, ids)))

    def end_id(self, example: Example) -> int:
        """Return the token that ends this example's answer."""
        if (chat := self._template_of(example)) is not None:
            return chat.end_id
        if self.tokenizer.eos_token_id is None:
            raise DataError(
                "end_token_missing",
                f"{example.source}: the tokenizer has no eos_token to end an answer outside its chat "
                "template. Use rows of messages, or set the tokenizer's eos_token.",
            )
        return int(self.tokenizer.eos_token_id)

    def truncate(self, example: Example, pair: Pair, max_length: int) -> Pair:
        """Return the pair cut to `max_length` tokens: the longer view first, from its end.

        The end token, the bridge, what comes before the user's text, and one token of each view always stay.
        A view apart from the row loses as many tokens as the same view in the row, and is cut to `max_length` too.

        Raises:
            DataError: If these tokens alone do not fit.
        """
        cut = self._cut_row(example, pair, max_length) if len(pair) > max_length else pair
        lost_text = len(pair.text_ids) - len(cut.text_ids) if example.text_view is None else 0
        lost_code = len(pair.code_ids) - len(cut.code_ids) if example.code_view is None else 0
        return replace(
            cut,
            text_view_ids=_cut_view(pair.text_view_ids, lost_text, max_length),
            code_view_ids=_cut_view(pair.code_view_ids, lost_code, max_length),
        )

    def _cut_row(self, example: Example, pair: Pair, max_length: int) -> Pair:
        if example.code is None:  # one sequence: cut at its end only, or there would be a gap between the views
            ids = (pair.text_ids + pair.code_ids[:-1])[: max_length - 1]
            split = self._split(ids, example)
            return replace(pair, text_ids=split.text_ids, code_ids=split.code_ids)
        head = self._num_head_tokens(example)
        room = max_length - head - len(pair.bridge_ids) - 1
        if room < 2:
            raise DataError(
                "max_length_too_small",
                f"{example.source}: max_length={max_length} has no room for both views and {head} "
                f"tokens before the text, {len(pair.bridge_ids)} between the views, and the end "
                "token. Raise max_length.",
            )
        num_text, num_code = share_room(len(pair.text_ids) - head, len(pair.code_ids) - 1, room)
        text_ids = pair.text_ids[: head + num_text]
        return replace(pair, text_ids=text_ids, code_ids=[*pair.code_ids[:num_code], pair.code_ids[-1]])

    def encode_text_view(self, example: Example) -> tuple[list[int], list[int]]:
        """Return the ids of the text view, and of the bridge after it, with the errors of `encode`."""
        if not example.text.strip():
            raise _empty(example, "text")
        if (chat := self._template_of(example)) is not None:
            text_ids, bridge_ids = chat.encode_prompt(chat.render_prompt(_without_answer(example), example.source))
        else:
            content_ids = self.controls.questions(self.system_prefix(example) + example.text)
            text_ids = self.bos_ids + content_ids if content_ids else []
            bridge_ids = list(self.bridge_ids)
        if not text_ids:
            raise _empty(example, "text")
        return text_ids, bridge_ids

    def system_prefix(self, example: Example) -> str:
        """Return the system message before the text of a row without chat template, or "".

        A chat that needs a chat template is a DataError.
        """
        if example.messages is not None and isinstance(self.tokenizer.chat_template, dict):
            names = ", ".join(sorted(self.tokenizer.chat_template))
            raise DataError(
                "no_default_template",
                f"{example.source}: the row is a chat, and the tokenizer has no default chat template, only named ones "
                f"({names}). Save the one that you want as chat_template.jinja in the tokenizer's folder.",
            )
        if len(_without_answer(example)) > (1 if example.system is None else 2):
            raise DataError(
                "template_missing",
                f"{example.source}: a chat of several turns needs a tokenizer with a chat template; this "
                "one has none. Use such a tokenizer, or rows with one question and one answer.",
            )
        return f"{example.system}\n" if self.config.include_system and example.system else ""

    def _encode_one_text(self, example: Example) -> Pair:
        ids = self.controls.answers(example.text)
        if not example.text.strip() or len(ids) < 2:
            raise EmptyViewError(
                "text_too_short",
                f"{example.source}: the text is blank or too short (tokens: {len(ids)}); two views need at least 2 "
                "tokens. Correct the row, or set on_empty=drop to leave such rows out.",
            )
        return self._split(self.bos_ids + ids, example)

    def _split(self, ids: list[int], example: Example) -> Pair:
        num_text = max(1, int((len(ids) - len(self.bos_ids)) * self.jepa_split)) + len(self.bos_ids)
        code_ids = [*ids[num_text:], self.end_id(example)]
        return Pair(text_ids=ids[:num_text], code_ids=code_ids, source=example.source)

    def _num_head_tokens(self, example: Example) -> int:
        """Count the tokens before the user's text in the text view."""
        if (chat := self._template_of(example)) is not None:
            prompt = chat.render_prompt(_without_answer(example), example.source)
            return len(chat.encode(prompt, 0, prompt.last_user[0]))
        prefix = self.system_prefix(example)
        return len(self.bos_ids) + (len(self.controls.questions(prefix)) if prefix else 0)


def share_room(num_text: int, num_code: int, room: int) -> tuple[int, int]:
    """Cut two lengths to a sum of at most `room`, the longer one first.

    >>> share_room(10, 4, 12)
    (8, 4)
    >>> share_room(10, 8, 7)
    (4, 3)
    """
    num_code = min(num_code, max(room // 2, room - num_text))
    return min(num_text, room - num_code), num_code


def _without_answer(example: Example) -> list[Message]:
    messages = example.messages or []
    return messages[:-1] if messages and messages[-1]["role"] == "assistant" else messages


def _cut_view(ids: list[int] | None, lost: int, max_length: int) -> list[int] | None:
    return None if ids is None else ids[: min(max(len(ids) - lost, 1), max_length)]


def _empty(example: Example, view: str) -> EmptyViewError:
    return EmptyViewError(
        "view_empty",
        f"{example.source}: the {view} view is empty or blank. Expected text in both views. Correct the "
        "row, or set on_empty=drop to leave such rows out.",
    )
