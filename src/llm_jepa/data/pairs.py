"""From an example to a pair of token ids: each view tokenised on its own, its end known by construction.

Without a chat template:  text | separator | code end
With a chat template:     prompt up to the user's last word | rest of the prompt | answer end-of-turn
One text:                 first part of its tokens | (no bridge) | rest end
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from transformers import PreTrainedTokenizerBase

from llm_jepa.data.chat import ChatTemplate, Message
from llm_jepa.data.config import DataConfig
from llm_jepa.data.formats import Example
from llm_jepa.data.tokenizer import decode_ids, encode_text
from llm_jepa.errors import ConfigError, DataError
from llm_jepa.objective.layout import Pair

logger = logging.getLogger(__name__)


class EmptyViewError(DataError):
    """A view of this row holds nothing that could be encoded; `on_empty` says what happens to the row."""


class PairEncoder:
    """Encodes examples for one tokenizer; training, evaluation and generation all go through it.

    Attributes:
        chat: The chat template, where the tokenizer has one. It is used for rows that are chats; rows of two
            strings are never wrapped in a template that they did not ask for.
        bos_ids: The start token, where the tokenizer puts one before a text; it opens the text view.
        bridge_ids: The tokens between the views of a row without chat template: the tokenizer's separator,
            or else a line break (our choice: every tokenizer has one, and few views end or start with it).
        end_ids: All tokens that end an answer, for generation to stop at.

    Raises:
        ConfigError: If the tokenizer has no token that could end an answer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, data_config: DataConfig, jepa_split: float = 0.5) -> None:
        self.tokenizer = tokenizer
        self.config = data_config
        self.jepa_split = jepa_split
        self.chat = ChatTemplate(tokenizer, data_config.chat_template_kwargs) if tokenizer.chat_template else None
        if self.chat is None and tokenizer.eos_token_id is None:
            raise ConfigError(
                "The tokenizer has no eos_token: nothing could end an answer, and a model would never "
                "learn to stop. Set eos_token in its tokenizer_config.json."
            )
        self.bos_ids = _start_ids(tokenizer)
        separator = tokenizer.sep_token_id
        self.bridge_ids = encode_text(tokenizer, "\n") if separator is None else [int(separator)]
        chat_end = [self.chat.end_id] if self.chat else []
        eos = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
        self.end_ids = list(dict.fromkeys(chat_end + eos))

    @property
    def pad_id(self) -> int:
        """The token that fills rows up; the end token where there is no other (labels go by lengths)."""
        pad = self.tokenizer.pad_token_id
        return self.end_ids[0] if pad is None else int(pad)

    def encode(self, example: Example) -> Pair:
        """Return the ids of an example's row.

        Raises:
            EmptyViewError: If a view is empty or blank, or one text has fewer than two tokens.
            DataError: If the row is a chat of several turns, or one that the chat template refuses.
        """
        if example.code is None:
            return self._encode_one_text(example)
        text_ids, bridge_ids = self.encode_text_view(example)
        if not example.code.strip():
            raise _empty(example, "code")
        code_ids = encode_text(self.tokenizer, example.code)
        if not code_ids:
            raise _empty(example, "code")
        return Pair(
            text_ids=text_ids,
            bridge_ids=bridge_ids,
            code_ids=[*code_ids, self.end_id(example)],
            source=example.source,
        )

    def encode_prompt(self, example: Example) -> list[int]:
        """Return the ids that an answer follows: exactly the text view and the bridge of the training row."""
        if example.code is None:
            return self._encode_one_text(example).text_ids
        text_ids, bridge_ids = self.encode_text_view(example)
        return text_ids + bridge_ids

    def decode_code(self, ids: Sequence[int]) -> str:
        """Return the text of generated ids up to the first end token, which is not part of it."""
        length = next((place for place, token in enumerate(ids) if token in self.end_ids), len(ids))
        return decode_ids(self.tokenizer, list(ids[:length]))

    def end_id(self, example: Example) -> int:
        """Return the token that ends this example's answer."""
        if self.chat is not None and example.messages is not None:
            return self.chat.end_id
        if self.tokenizer.eos_token_id is None:
            raise DataError(
                f"{example.source}: the tokenizer has no eos_token to end an answer outside its chat "
                "template. Use rows of messages, or set the tokenizer's eos_token."
            )
        return int(self.tokenizer.eos_token_id)

    def truncate(self, example: Example, pair: Pair, max_length: int) -> Pair:
        """Return the pair cut to `max_length` tokens: the longer view first, from its end.

        What stays in any case: the end token, the bridge, what the template (or a system message) puts before
        the user's words, and one token of each view.

        Raises:
            DataError: If not even that fits.
        """
        if example.code is None:  # one sequence: cut at its very end, or the views would no longer meet
            ids = (pair.text_ids + pair.code_ids[:-1])[: max_length - 1]
            return self._split(ids, example)
        head = self._num_head_tokens(example)
        room = max_length - head - len(pair.bridge_ids) - 1
        if room < 2:
            raise DataError(
                f"{example.source}: max_length={max_length} has no room for both views beside {head} "
                f"tokens before the text, {len(pair.bridge_ids)} between the views, and the end "
                "token. Raise max_length."
            )
        num_text, num_code = share_room(len(pair.text_ids) - head, len(pair.code_ids) - 1, room)
        text_ids = pair.text_ids[: head + num_text]
        return replace(pair, text_ids=text_ids, code_ids=[*pair.code_ids[:num_code], pair.code_ids[-1]])

    def encode_text_view(self, example: Example) -> tuple[list[int], list[int]]:
        """Return the ids of the text view, and of the bridge after it; the example's code is not looked at.

        Raises:
            EmptyViewError: If the text is empty or blank.
            DataError: If the row is a chat that cannot be rendered.
        """
        if not example.text.strip():
            raise _empty(example, "text")
        if self.chat is not None and example.messages is not None:
            prompt = self.chat.render_prompt(_without_answer(example.messages), example.source)
            end = prompt.last_user[1]
            text_ids = self.chat.encode(prompt, 0, end)
            bridge_ids = self.chat.encode(prompt, end, len(prompt.string))
        else:
            content_ids = encode_text(self.tokenizer, self._system_prefix(example) + example.text)
            text_ids = self.bos_ids + content_ids if content_ids else []
            bridge_ids = list(self.bridge_ids)
        if not text_ids:
            raise _empty(example, "text")
        return text_ids, bridge_ids

    def _system_prefix(self, example: Example) -> str:
        turns = 0 if example.messages is None else len(_without_answer(example.messages))
        if turns > (1 if example.system is None else 2):
            raise DataError(
                f"{example.source}: a chat of several turns needs a tokenizer with a chat template; this "
                "one has none. Use such a tokenizer, or rows with one question and one answer."
            )
        return f"{example.system}\n" if self.config.include_system and example.system else ""

    def _encode_one_text(self, example: Example) -> Pair:
        ids = encode_text(self.tokenizer, example.text)
        if not example.text.strip() or len(ids) < 2:
            raise EmptyViewError(
                f"{example.source}: the text has {len(ids)} tokens or is blank; two views need at least 2 "
                "tokens. Correct the row, or set on_empty=drop."
            )
        return self._split(self.bos_ids + ids, example)

    def _split(self, ids: list[int], example: Example) -> Pair:
        num_text = max(1, int((len(ids) - len(self.bos_ids)) * self.jepa_split)) + len(self.bos_ids)
        code_ids = [*ids[num_text:], self.end_id(example)]
        return Pair(text_ids=ids[:num_text], code_ids=code_ids, source=example.source)

    def _num_head_tokens(self, example: Example) -> int:
        """Count the tokens that stand before the user's words in the text view."""
        if self.chat is not None and example.messages is not None:
            prompt = self.chat.render_prompt(_without_answer(example.messages), example.source)
            return len(self.chat.encode(prompt, 0, prompt.last_user[0]))
        prefix = self._system_prefix(example)
        return len(self.bos_ids) + (len(encode_text(self.tokenizer, prefix)) if prefix else 0)


@dataclass
class EncodedPairs:
    """Pairs of one split, with the examples they came from, and what became of the other rows.

    Always `rows_in == len(pairs) + sum(dropped.values())`, and `pairs[i]` encodes `examples[i]`.

    Attributes:
        pairs: Token ids, none longer than `max_length`.
        examples: The texts, in step with `pairs`.
        rows_in: Examples that were handed in.
        dropped: Examples left out, by reason: `empty`, `overflow`.
        truncated: Pairs that were cut to `max_length`; they are among `pairs`.
    """

    pairs: list[Pair] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    rows_in: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    truncated: int = 0

    def __len__(self) -> int:
        return len(self.pairs)


def encode_examples(examples: Sequence[Example], encoder: PairEncoder, config: DataConfig) -> EncodedPairs:
    """Encode examples under the configured policies for empty and over-long rows, and check the result.

    Raises:
        DataError: If a row is empty or too long and its policy is `error`, if a row cannot be encoded, or if
            some row does not end with its end token.
    """
    check_system_messages(examples, encoder)
    encoded = EncodedPairs(rows_in=len(examples))
    dropped: Counter[str] = Counter()
    for example in examples:
        try:
            pair = encoder.encode(example)
        except EmptyViewError:
            if config.on_empty == "error":
                raise
            dropped["empty"] += 1
            continue
        if len(pair) > config.max_length:
            if config.on_overflow == "error":
                raise DataError(_overflow_text(example, pair, config.max_length))
            if config.on_overflow == "drop":
                dropped["overflow"] += 1
                continue
            pair = encoder.truncate(example, pair, config.max_length)
            encoded.truncated += 1
        encoded.pairs.append(pair)
        encoded.examples.append(example)
    encoded.dropped = dict(dropped)
    check_end_tokens(encoded, encoder)
    return encoded


def check_end_tokens(encoded: EncodedPairs, encoder: PairEncoder) -> None:
    """Check that each row ends with its end token, the last one under cross-entropy, and has no other.

    A model that is not shown where answers end never learns to stop, and nothing in its loss says so.

    Raises:
        DataError: If a row ends with another token, or has its end token in the midst of the answer.
    """
    for pair, example in zip(encoded.pairs, encoded.examples, strict=True):
        end_id = encoder.end_id(example)
        if pair.code_ids[-1] != end_id or end_id in pair.code_ids[:-1]:
            name = encoder.tokenizer.convert_ids_to_tokens(end_id)
            raise DataError(
                f"{example.source}: the end token {name!r} must be the last token of the row and stand "
                "nowhere else in the answer. The tokenizer reads it out of plain text; use one that does not."
            )


def check_system_messages(examples: Sequence[Example], encoder: PairEncoder) -> str | None:
    """Check that leaving the system messages out loses nothing; return a sentence about it, or None.

    Only chats without a chat template are in question. One system message for all rows says nothing about any
    of them; where it differs, it is part of the question.

    Raises:
        DataError: If system messages differ and `include_system` is off.
    """
    chats = [example for example in examples if example.messages is not None]
    if encoder.chat is not None or encoder.config.include_system or not chats:
        return None
    first = chats[0]
    for example in chats:
        if example.system != first.system:
            raise DataError(
                f"{example.source}: its system message differs from that of {first.source}, so it cannot "
                "be left out. Set include_system=true to put it before the text view, or use a tokenizer "
                "with a chat template."
            )
    if first.system is None:
        return None
    return f"The system message, the same in all rows, is left out: {first.system!r}."


def share_room(num_text: int, num_code: int, room: int) -> tuple[int, int]:
    """Cut two lengths to a sum of at most `room`, the longer one first.

    >>> share_room(10, 4, 12)
    (8, 4)
    >>> share_room(10, 8, 7)
    (4, 3)
    """
    if num_text + num_code <= room:
        return num_text, num_code
    if 2 * num_code <= room:
        return room - num_code, num_code
    if 2 * num_text <= room:
        return num_text, room - num_text
    return room - room // 2, room // 2


def _start_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    bos = tokenizer.bos_token_id
    return [int(bos)] if bos is not None and tokenizer("a")["input_ids"][:1] == [bos] else []


def _without_answer(messages: list[Message]) -> list[Message]:
    return messages[:-1] if messages[-1]["role"] == "assistant" else messages


def _empty(example: Example, view: str) -> EmptyViewError:
    return EmptyViewError(
        f"{example.source}: the {view} view is empty or blank. Expected text in both views. Correct the "
        "row, or set on_empty=drop to leave such rows out."
    )


def _overflow_text(example: Example, pair: Pair, max_length: int) -> str:
    return (
        f"{example.source}: the row has {len(pair)} tokens (text {len(pair.text_ids)}, bridge "
        f"{len(pair.bridge_ids)}, code with its end token {len(pair.code_ids)}), max_length is "
        f"{max_length}. Raise max_length, or set on_overflow to drop or truncate."
    )
