"""From an example to a pair of token ids: each view tokenised on its own, its end known by construction.

Without a chat template:  text | separator | code end
With a chat template:     prompt up to the user's last word | rest of the prompt | answer end-of-turn
One text:                 first part of its tokens | (no bridge) | rest end

That is the row, and with `jepa_views: prefix` its parts are the views. With `rendered`, or where a row brings views
of its own, the views stand beside the row: question and answer each alone.
"""

from __future__ import annotations

import logging
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import overload

from transformers import PreTrainedTokenizerBase

from llm_jepa.errors import ConfigError, DataError
from llm_jepa.objective.config import JEPAConfig
from llm_jepa.objective.documents import IGNORED
from llm_jepa.objective.layout import FusedCollator
from llm_jepa.objective.pair import Pair

from .chat import ChatTemplate, Controls, Message
from .config import DataConfig
from .digest import PairsDigest
from .example import Example
from .lazy_rows import Joined, StoredExamples
from .tokenizer import decode_ids, default_template, encode_text

logger = logging.getLogger(__name__)

_NUM_LABELLED = 100  # rows whose labels are looked at before training; labels are made by one rule for all


class EmptyViewError(DataError):
    """A view of this row holds nothing that could be encoded; `on_empty` says what happens to the row."""


class PairEncoder:
    """Encodes examples for one tokenizer; training, evaluation and generation all go through it.

    Attributes:
        chat: The chat template, where the tokenizer has one. It is used for rows that are chats; rows of two
            strings are never wrapped in a template that they did not ask for.
        bos_ids: The start token, where the tokenizer puts one before a text; it opens the text view.
        bridge_ids: The tokens between the views of a row without chat template: the tokenizer's separator,
            or else a line break (our choice: every tokenizer has one, and few views end or start with it); or what
            the argument `bridge` says.
        end_ids: All tokens that end an answer, for generation to stop at.

    Raises:
        ConfigError: If the tokenizer has no token that could end an answer.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        data_config: DataConfig,
        jepa_split: float = 0.5,
        jepa_views: str = "prefix",
        bridge: str | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.config = data_config
        self.jepa_split = jepa_split
        self.jepa_views = jepa_views
        has_template = default_template(tokenizer) is not None
        self.chat = ChatTemplate(tokenizer, data_config.chat_template_kwargs) if has_template else None
        self.controls = Controls(tokenizer) if self.chat is None else self.chat.controls
        if self.chat is None and tokenizer.eos_token_id is None:
            raise ConfigError(
                "The tokenizer has no eos_token: nothing could end an answer, and a model would never "
                "learn to stop. Set eos_token in its tokenizer_config.json."
            )
        self.bos_ids = _start_ids(tokenizer)
        separator = None if bridge is not None else tokenizer.sep_token_id
        self.bridge_ids = encode_text(tokenizer, bridge or "\n") if separator is None else [int(separator)]
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
        pair = self._encode_one_text(example) if example.code is None else self._encode_row(example)
        return replace(
            pair,
            text_view_ids=self._own_text_view(example),
            code_view_ids=self._own_code_view(example),
            use_jepa=example.use_jepa,
            group=example.group,
        )

    def encode_query(self, example: Example, code_ids: list[int]) -> Pair:
        """Return the pair of a text alone, to encode its text view; no view sees the code that fills its row."""
        text_ids, bridge_ids = self.encode_text_view(example)
        text_view_ids = self._own_text_view(example)
        return Pair(text_ids, code_ids, bridge_ids, example.source, text_view_ids=text_view_ids)

    def _encode_row(self, example: Example) -> Pair:
        text_ids, bridge_ids = self.encode_text_view(example)
        code_ids = self._encode_words(example, self.answer(example), "code")
        code_ids.append(self.end_id(example))
        return Pair(text_ids=text_ids, bridge_ids=bridge_ids, code_ids=code_ids, source=example.source)

    def answer(self, example: Example) -> str:
        """Return the words of an example's answer that follow its prompt: all, as a rule.

        Where the chat template opens an answer itself, with `<think>` say, they begin after that.

        Raises:
            DataError: If the answer opens once more what the template has opened and closed.
        """
        code = example.code or ""
        if self.chat is None or example.messages is None:
            return code
        return self.chat.without_opening(_without_answer(example.messages), code, example.source)

    def _encode_words(self, example: Example, words: str, view: str) -> list[int]:
        encode = self.controls.questions if view == "text" else self.controls.answers
        ids = encode(words) if words.strip() else []
        if not ids:
            raise _empty(example, view)
        return ids

    def _own_text_view(self, example: Example) -> list[int] | None:
        """Return the ids of the text view where it is not the row's text, else None."""
        own, rendered = example.text_view, self.jepa_views == "rendered"
        if own is None and not rendered:
            return None
        if own is None and example.code is None:
            raise _nothing_to_render(example)
        words = example.text if own is None else own
        if not words.strip():
            raise _empty(example, "text")
        if self.chat is None or example.messages is None or not rendered:
            return self.bos_ids + self._encode_words(example, words, "text")
        turns = [turn for turn in _without_answer(example.messages) if turn["role"] != "system"]
        alone = turns if own is None else [{"role": "user", "content": own}]
        return self.chat.encode_text_view(alone, example.source)

    def _own_code_view(self, example: Example) -> list[int] | None:
        """Return the ids of the code view where it is not the row's code, else None."""
        own, rendered = example.code_view, self.jepa_views == "rendered"
        if own is None and not rendered:
            return None
        if own is None and example.code is None:
            raise _nothing_to_render(example)
        words = (example.code or "") if own is None else own
        if not words.strip():
            raise _empty(example, "code")
        if self.chat is None or example.messages is None or not rendered:
            return self._encode_words(example, words, "code")
        return self.chat.encode_code_view(words, example.source)

    def encode_prompt(self, example: Example) -> list[int]:
        """Return the ids that an answer follows: exactly the text view and the bridge of the training row."""
        if example.code is None:
            return self._encode_one_text(example).text_ids
        text_ids, bridge_ids = self.encode_text_view(example)
        return text_ids + bridge_ids

    def served_prompt(self, example: Example) -> list[int]:
        """Return the ids that a server of the chat template gives the prompt of an example, which is a chat."""
        assert self.chat is not None and example.messages is not None
        return self.chat.served_ids(_without_answer(example.messages))

    def encode_words(self, words: str) -> list[int]:
        """Return the ids of a text as those of an answer, without an end token; none for a blank text."""
        return self.controls.answers(words) if words.strip() else []

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

        Views that stand beside the row lose as many tokens as theirs in it, and are cut to `max_length` too.

        Raises:
            DataError: If not even that fits.
        """
        cut = self._cut_row(example, pair, max_length) if len(pair) > max_length else pair
        lost_text, lost_code = (
            0 if own is not None else len(whole) - len(left)
            for own, whole, left in (
                (example.text_view, pair.text_ids, cut.text_ids),
                (example.code_view, pair.code_ids, cut.code_ids),
            )
        )
        return replace(
            cut,
            text_view_ids=_cut_view(pair.text_view_ids, lost_text, max_length),
            code_view_ids=_cut_view(pair.code_view_ids, lost_code, max_length),
        )

    def _cut_row(self, example: Example, pair: Pair, max_length: int) -> Pair:
        if example.code is None:  # one sequence: cut at its very end, or the views would no longer meet
            ids = (pair.text_ids + pair.code_ids[:-1])[: max_length - 1]
            split = self._split(ids, example)
            return replace(pair, text_ids=split.text_ids, code_ids=split.code_ids)
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
            text_ids, bridge_ids = self.chat.encode_prompt(prompt)
        else:
            content_ids = self.controls.questions(self._system_prefix(example) + example.text)
            text_ids = self.bos_ids + content_ids if content_ids else []
            bridge_ids = list(self.bridge_ids)
        if not text_ids:
            raise _empty(example, "text")
        return text_ids, bridge_ids

    def _system_prefix(self, example: Example) -> str:
        if example.messages is not None and isinstance(self.tokenizer.chat_template, dict):
            names = ", ".join(sorted(self.tokenizer.chat_template))
            raise DataError(
                f"{example.source}: the row is a chat, and the tokenizer has no default chat template, only named ones "
                f"({names}). Save the one that you want as chat_template.jinja in the tokenizer's folder."
            )
        turns = 0 if example.messages is None else len(_without_answer(example.messages))
        if turns > (1 if example.system is None else 2):
            raise DataError(
                f"{example.source}: a chat of several turns needs a tokenizer with a chat template; this "
                "one has none. Use such a tokenizer, or rows with one question and one answer."
            )
        return f"{example.system}\n" if self.config.include_system and example.system else ""

    def _encode_one_text(self, example: Example) -> Pair:
        ids = self.controls.answers(example.text)
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
        return len(self.bos_ids) + (len(self.controls.questions(prefix)) if prefix else 0)


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

    pairs: Sequence[Pair] = field(default_factory=list)
    examples: Sequence[Example] = field(default_factory=list)
    rows_in: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    truncated: int = 0

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of each pair's row."""
        return row_lengths(self.pairs)

    @property
    def longest(self) -> int:
        """Tokens of the longest row, or of a view beside it that is longer; 0 without rows."""
        if isinstance(self.pairs, StoredPairs):
            return self.pairs.longest
        return max(map(longest_part, self.pairs), default=0)

    @property
    def longest_code(self) -> int:
        """Tokens of the longest answer, end token included; 0 without rows."""
        if isinstance(self.pairs, StoredPairs):
            return self.pairs.longest_code
        return max((len(pair.code_ids) for pair in self.pairs), default=0)

    @property
    def num_jepa(self) -> int:
        """Number of pairs that have a JEPA term."""
        if isinstance(self.pairs, StoredPairs):
            return self.pairs.num_jepa
        return sum(pair.use_jepa for pair in self.pairs)

    @property
    def num_ce(self) -> int:
        """Number of pairs that are under cross-entropy."""
        if isinstance(self.pairs, StoredPairs):
            return self.pairs.num_ce
        return sum(pair.use_ce for pair in self.pairs)


def row_lengths(pairs: Sequence[Pair]) -> Sequence[int]:
    """Return the tokens of each pair's row; pairs that know their `lengths` are not encoded for it."""
    if isinstance(pairs, Joined):
        return [length for part in pairs.parts for length in row_lengths(part)]
    known = getattr(pairs, "lengths", None)
    return [len(pair) for pair in pairs] if known is None else known


def encode_examples(
    examples: Sequence[Example], encoder: PairEncoder, config: DataConfig, **marks: bool
) -> EncodedPairs:
    """Encode examples under the configured policies for empty and over-long rows, and check the result.

    `marks` are fields that all pairs get, such as `use_ce=False`; a `use_jepa` of a row's own that is false stays.

    Raises:
        DataError: If a row is empty or too long and its policy is `error`, if a row cannot be encoded, or if
            some row does not end with its end token.
    """
    check_system_messages(examples, encoder)
    if isinstance(examples, StoredExamples):
        return _encode_stored(examples, encoder, config, marks)
    account = _Account()
    kept = list(_encode_each(examples, encoder, config, account, marks))
    return EncodedPairs(
        pairs=[pair for _, pair in kept],
        examples=[examples[place] for place, _ in kept],
        rows_in=len(examples),
        dropped=dict(account.dropped),
        truncated=account.truncated,
    )


def encode_one(example: Example, encoder: PairEncoder, config: DataConfig) -> tuple[Pair | None, str]:
    """Encode one example under the configured policies.

    Returns:
        The pair and `kept` or `truncated`, or None and the reason why the row is dropped.

    Raises:
        DataError: If the policy for its fault is `error`, or if it cannot be encoded.
    """
    try:
        pair = encoder.encode(example)
    except EmptyViewError:
        if config.on_empty == "error":
            raise
        return None, "empty"
    if longest_part(pair) <= config.max_length:
        return pair, "kept"
    if config.on_overflow == "error":
        raise DataError(_overflow_text(example, pair, config.max_length))
    if config.on_overflow == "drop":
        return None, "overflow"
    return encoder.truncate(example, pair, config.max_length), "truncated"


@dataclass
class _Account:
    """What became of the rows of a split."""

    dropped: Counter[str] = field(default_factory=Counter)
    truncated: int = 0


def _encode_each(
    examples: Iterable[Example], encoder: PairEncoder, config: DataConfig, account: _Account, marks: dict[str, bool]
) -> Iterator[tuple[int, Pair]]:
    """Yield place and pair of each example that is kept, checked; keep the account of the others."""
    for place, example in enumerate(examples):
        pair, fate = encode_one(example, encoder, config)
        if pair is None:
            account.dropped[fate] += 1
            continue
        account.truncated += fate == "truncated"
        check_special_tokens(pair, example, encoder)
        yield place, mark(pair, marks)


def mark(pair: Pair, marks: dict[str, bool]) -> Pair:
    """Return the pair with fields that are false set so; none becomes true."""
    false = {name: False for name, value in marks.items() if not value}
    return replace(pair, **false) if false else pair  # type: ignore[arg-type]


def _encode_stored(
    examples: StoredExamples, encoder: PairEncoder, config: DataConfig, marks: dict[str, bool]
) -> EncodedPairs:
    """Encode rows that stay on disk once, to know them, and keep nothing of it but lengths and hash."""
    account, known = _Account(), PairFacts()
    places = array("q")
    for place, pair in _encode_each(examples, encoder, config, account, marks):
        places.append(place)
        known.add(pair)
    kept = examples if len(places) == len(examples) else examples.take(places)
    pairs = StoredPairs(kept, encoder, config, known, marks)
    return EncodedPairs(pairs, kept, len(examples), dict(account.dropped), account.truncated)


class PairFacts:
    """What one look at each of many pairs leaves behind.

    Attributes:
        lengths: Tokens of each pair's row.
        longest: Tokens of the longest row or view.
        longest_code: Tokens of the longest answer, end token included.
        num_jepa: Number of pairs that have a JEPA term.
        num_ce: Number of pairs that are under cross-entropy.
        digest: Hash of all pairs.
    """

    def __init__(self) -> None:
        self.lengths = array("i")
        self.longest = self.longest_code = self.num_jepa = self.num_ce = 0
        self.digest = PairsDigest()

    def add(self, pair: Pair) -> None:
        """Take in one pair."""
        self.lengths.append(len(pair))
        self.longest = max(self.longest, longest_part(pair))
        self.longest_code = max(self.longest_code, len(pair.code_ids))
        self.num_jepa += pair.use_jepa
        self.num_ce += pair.use_ce
        self.digest.add(pair)


class StoredPairs(Sequence[Pair]):
    """Pairs of rows that stay in their file: each is read and encoded when it is asked for.

    Attributes: `lengths`, `longest`, `longest_code`, `num_jepa`, `num_ce` are those of `PairFacts`, and `sha256` is
    the hash of all pairs: known from the one pass that checked them, so that nothing need encode them all again.
    """

    def __init__(
        self,
        examples: StoredExamples,
        encoder: PairEncoder,
        config: DataConfig,
        known: PairFacts,
        marks: dict[str, bool] | None = None,
    ) -> None:
        self.examples = examples
        self.encoder = encoder
        self.config = config
        self.marks = marks or {}
        self.lengths = known.lengths
        self.longest = known.longest
        self.longest_code = known.longest_code
        self.num_jepa = known.num_jepa
        self.num_ce = known.num_ce
        self.sha256 = known.digest.hexdigest()

    def __len__(self) -> int:
        return len(self.examples)

    @overload
    def __getitem__(self, place: int) -> Pair: ...

    @overload
    def __getitem__(self, place: slice) -> list[Pair]: ...

    def __getitem__(self, place: int | slice) -> Pair | list[Pair]:
        if isinstance(place, slice):
            return [self[each] for each in range(len(self))[place]]
        pair, _ = encode_one(self.examples[place], self.encoder, self.config)
        assert pair is not None, "the row was kept when the file was read"
        return mark(pair, self.marks)


def check_end_tokens(encoded: EncodedPairs, encoder: PairEncoder) -> None:
    """Check that each row ends with its end token, the last one under cross-entropy, and has no other.

    A model that is not shown where answers end never learns to stop, and nothing in its loss says so.

    Raises:
        DataError: If a row ends with another token, or has its end token in the midst of the answer.
    """
    for pair, example in zip(encoded.pairs, encoded.examples, strict=True):
        check_special_tokens(pair, example, encoder)


def check_special_tokens(pair: Pair, example: Example, encoder: PairEncoder) -> None:
    """Check one row: its end token stands at its end alone, and it does not begin with two begin tokens.

    Raises:
        DataError: If it does not hold.
    """
    end_id = encoder.end_id(example)
    if pair.code_ids[-1] != end_id or end_id in pair.code_ids[:-1]:
        name = encoder.tokenizer.convert_ids_to_tokens(end_id)
        raise DataError(
            f"{example.source}: the end token {name!r} must be the last token of the row and stand "
            "nowhere else in the answer. The tokenizer reads it out of plain text; use one that does not."
        )
    begin = encoder.tokenizer.bos_token_id
    for ids in (pair.text_ids, pair.text_view_ids, pair.code_view_ids):
        if begin is not None and ids is not None and ids[:2] == [begin, begin]:
            raise DataError(
                f"{example.source}: the row begins with two begin tokens {encoder.tokenizer.bos_token!r}, where a "
                "model expects one. The chat template writes both: take one out of it."
            )


def check_labels(encoded: EncodedPairs, encoder: PairEncoder, jepa: JEPAConfig) -> None:
    """Check on the first rows, laid out as training lays them out, that the last label is the end token.

    A collator that hides padding by its id hides the end token too where both are one token: the rows are right
    then, and the model still never learns to stop.

    With `train_end_token` off that is what was asked for, and nothing is checked.

    Raises:
        DataError: If the end token of a row is not under cross-entropy.
    """
    rows = encoded.pairs[:_NUM_LABELLED]
    if not rows or not jepa.train_end_token:
        return
    collate = FusedCollator(replace(jepa, jepa_lambda=0.0, jepa_gamma=1.0), encoder.pad_id)
    for pair, example in zip(rows, encoded.examples[:_NUM_LABELLED], strict=True):
        if not pair.use_ce:
            continue
        trained = [label for label in collate([pair]).labels.flatten().tolist() if label != IGNORED]
        if trained[-1:] != [encoder.end_id(example)]:
            raise DataError(
                f"{example.source}: the end token is not under cross-entropy, so the model would never learn to "
                "stop. This is a fault of the program: please report it, with the tokenizer's name."
            )


def check_system_messages(examples: Iterable[Example], encoder: PairEncoder) -> str | None:
    """Check that leaving the system messages out loses nothing; return a sentence about it, or None.

    Only chats without a chat template are in question. One system message for all rows says nothing about any
    of them; where it differs, it is part of the question.

    Raises:
        DataError: If system messages differ and `include_system` is off.
    """
    if encoder.chat is not None or encoder.config.include_system:
        return None
    first: Example | None = None
    for example in examples:
        if example.messages is None:
            continue
        first = first or example
        if example.system != first.system:
            raise DataError(
                f"{example.source}: its system message differs from that of {first.source}, so it cannot "
                "be left out. Set include_system=true to put it before the text view, or use a tokenizer "
                "with a chat template."
            )
    if first is None or first.system is None:
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


def _cut_view(ids: list[int] | None, lost: int, max_length: int) -> list[int] | None:
    return None if ids is None else ids[: min(max(len(ids) - lost, 1), max_length)]


def longest_part(pair: Pair) -> int:
    """Return the length of the row, or of a view beside it that is longer."""
    return max(len(pair), len(pair.text_view_ids or ()), len(pair.code_view_ids or ()))


def _nothing_to_render(example: Example) -> DataError:
    return DataError(
        f"{example.source}: jepa_views=rendered needs rows of two views, but the row is one text. Expected a question "
        "and an answer. Set jepa_views=prefix, or give the row a code (code_column)."
    )


def _empty(example: Example, view: str) -> EmptyViewError:
    return EmptyViewError(
        f"{example.source}: the {view} view is empty or blank. Expected text in both views. Correct the "
        "row, or set on_empty=drop to leave such rows out."
    )


def _overflow_text(example: Example, pair: Pair, max_length: int) -> str:
    for name, ids in (("text", pair.text_view_ids), ("code", pair.code_view_ids)):
        if len(pair) <= max_length and ids is not None and len(ids) > max_length:
            return (
                f"{example.source}: the {name} view beside the row has {len(ids)} tokens, max_length is {max_length}. "
                "Raise max_length, or set on_overflow to drop or truncate."
            )
    return (
        f"{example.source}: the row has {len(pair)} tokens (text {len(pair.text_ids)}, bridge "
        f"{len(pair.bridge_ids)}, code with its end token {len(pair.code_ids)}), max_length is "
        f"{max_length}. Raise max_length, or set on_overflow to drop or truncate."
    )
