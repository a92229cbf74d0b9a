"""The encoded rows of a split: what happened to each example, and the checks that every row must pass."""

from __future__ import annotations

import hashlib
import logging
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from llm_jepa.errors import DataError
from llm_jepa.objective.config import JEPAConfig
from llm_jepa.objective.layout import IGNORED, FusedCollator, Pair
from llm_jepa.progress import tracked

from .digest import bytes_of
from .encode import EmptyViewError, PairEncoder
from .example import Example
from .lazy_rows import Joined, LazySequence, StoredExamples
from .rows import keep_readable

logger = logging.getLogger(__name__)

_NUM_LABELLED = 100  # rows whose labels are checked before training; all labels are made by the same rule


@dataclass
class PairFacts:
    """Lengths and counts of many pairs, without the pairs.

    Attributes:
        lengths: Tokens of each pair's row.
        longest: Tokens of the longest row, or of a view apart from its row if that is longer; 0 without rows.
        longest_code: Tokens of the longest answer, end token included; 0 without rows.
        num_jepa, num_ce: Number of pairs that have a JEPA term, and that are under cross-entropy.
    """

    lengths: array = field(default_factory=lambda: array("i"))
    longest: int = 0
    longest_code: int = 0
    num_jepa: int = 0
    num_ce: int = 0

    def add(self, pair: Pair) -> None:
        self.lengths.append(len(pair))
        self.longest = max(self.longest, longest_part(pair))
        self.longest_code = max(self.longest_code, len(pair.code_ids))
        self.num_jepa += pair.use_jepa
        self.num_ce += pair.use_ce


@dataclass(eq=False, repr=False)
class StoredPairs(LazySequence[Pair]):
    """Pairs of rows that stay in their file. Each is read and encoded when it is requested.

    `facts` and `sha256`, the hash of all pairs, are known from the pass that checked them.
    """

    examples: StoredExamples
    encoder: PairEncoder
    facts: PairFacts
    sha256: str
    marks: dict[str, bool]

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of each pair's row."""
        return self.facts.lengths

    def __len__(self) -> int:
        return len(self.examples)

    def _make(self, place: int) -> Pair:
        pair, _ = encode_one(self.examples[place], self.encoder)
        assert pair is not None, "the row was kept when the file was read"
        return mark(pair, self.marks)


@dataclass
class EncodedPairs:
    """Pairs of one split, and what happened to the other rows: `rows_in == len(pairs) + dropped.total()`.

    Attributes:
        pairs: Token ids, none longer than `max_length`.
        examples: The texts that they encode, in the same order.
        rows_in: Examples before any was left out.
        dropped: Examples left out, by reason: `empty`, `overflow`.
        truncated: Pairs that were cut to `max_length`; they are among `pairs`.
    """

    pairs: Sequence[Pair] = field(default_factory=list)
    examples: Sequence[Example] = field(default_factory=list)
    rows_in: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    truncated: int = 0

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def facts(self) -> PairFacts:
        """Lengths and counts of the pairs. Pairs that stay on disk are not read for this."""
        if isinstance(self.pairs, StoredPairs):
            return self.pairs.facts
        facts = PairFacts()
        for pair in self.pairs:
            facts.add(pair)
        return facts


def row_lengths(pairs: Sequence[Pair]) -> Sequence[int]:
    """Return the number of tokens of each pair's row; pairs that have `lengths` are not encoded for this."""
    if isinstance(pairs, Joined):
        return [length for part in pairs.parts for length in row_lengths(part)]
    known = getattr(pairs, "lengths", None)
    return [len(pair) for pair in pairs] if known is None else known


def longest_part(pair: Pair) -> int:
    """Return the length of the row, or of a view apart from it if that is longer."""
    return max(len(pair), len(pair.text_view_ids or ()), len(pair.code_view_ids or ()))


def encode_examples(examples: Sequence[Example], encoder: PairEncoder, **marks: bool) -> EncodedPairs:
    """Encode examples under the encoder's policies for empty and over-long rows, and check the result.

    Rows that stay on disk are encoded once, to check them; only their lengths and hash are kept.
    `marks` are fields that all pairs get, such as `use_ce=False`; no field is set to true.

    Raises:
        DataError: If a row is empty or too long and its policy is `error`, if a row cannot be encoded, or if
            some row does not end with its end token.
    """
    check_system_messages(examples, encoder)
    encoded = EncodedPairs(rows_in=len(examples))
    kept = _encode_each(tracked(examples, "encode", "rows"), encoder, encoded, marks)
    if not isinstance(examples, StoredExamples):
        places_and_pairs = list(kept)
        encoded.pairs = [pair for _, pair in places_and_pairs]
        encoded.examples = [examples[place] for place, _ in places_and_pairs]
        return encoded
    places, facts, sha256 = array("q"), PairFacts(), hashlib.sha256()
    for place, pair in kept:
        places.append(place)
        facts.add(pair)
        sha256.update(bytes_of(pair))
    encoded.examples = stored = examples.take(places)
    encoded.pairs = StoredPairs(stored, encoder, facts, sha256.hexdigest(), marks)
    return encoded


def encode_rows(rows: Iterable[Mapping[str, Any]], encoder: PairEncoder, name: str = "rows") -> list[Pair]:
    """Encode rows that are in memory (of a `datasets.Dataset`, say) as rows of a file are encoded.

    The `DataConfig` of the encoder says what happens to rows that are too long, empty or broken. In messages, `name:17`
    is the 17th row.

    Raises:
        DataError: If a row cannot be used and its policy is `error`, or no row is left.
    """
    numbered = ((f"{name}:{number}", dict(row)) for number, row in enumerate(rows, start=1))
    encoded = encode_examples(keep_readable(numbered, encoder.config, name).examples, encoder)
    if encoded.dropped:
        left_out = (encoded.dropped.total(), encoded.rows_in, list_counts(encoded.dropped))
        logger.warning("%s: %d of %d rows left out: %s", name, *left_out)
    if encoded.truncated:
        logger.warning("%s: %d rows cut to %d tokens", name, encoded.truncated, encoder.config.max_length)
    if not len(encoded):
        text = f"{name}: all of its {encoded.rows_in} rows are left out. Expected at least one."
        raise DataError("no_rows_left", text)
    return list(encoded.pairs)


def list_counts(dropped: Mapping[str, int]) -> str:
    """Return the reasons for which rows were dropped, each with its number of rows."""
    return ", ".join(f"{reason} {count}" for reason, count in dropped.items())


def _encode_each(
    examples: Iterable[Example], encoder: PairEncoder, account: EncodedPairs, marks: dict[str, bool]
) -> Iterator[tuple[int, Pair]]:
    """Check and yield place and pair of each example that is kept; count the others in `account`."""
    for place, example in enumerate(examples):
        pair, fate = encode_one(example, encoder)
        if pair is None:
            account.dropped[fate] += 1
            continue
        account.truncated += fate == "truncated"
        check_special_tokens(pair, example, encoder)
        yield place, mark(pair, marks)


def encode_one(example: Example, encoder: PairEncoder) -> tuple[Pair | None, str]:
    """Return the pair of an example with `kept` or `truncated`; or None with the reason why the row is dropped."""
    config = encoder.config
    try:
        pair = encoder.encode(example)
    except EmptyViewError:
        if config.on_empty == "error":
            raise
        return None, "empty"
    if longest_part(pair) <= config.max_length:
        return pair, "kept"
    if config.on_overflow == "error":
        raise DataError("row_too_long", _overflow_text(example, pair, config.max_length))
    if config.on_overflow == "drop":
        return None, "overflow"
    return encoder.truncate(example, pair, config.max_length), "truncated"


def mark(pair: Pair, marks: dict[str, bool]) -> Pair:
    false: dict[str, Any] = {name: False for name, value in marks.items() if not value}
    return replace(pair, **false) if false else pair


def check_special_tokens(pair: Pair, example: Example, encoder: PairEncoder) -> None:
    """Raise a DataError if a row has its end token elsewhere than at its end, or begins with two begin tokens."""
    end_id = encoder.end_id(example)
    if pair.code_ids[-1] != end_id or end_id in pair.code_ids[:-1]:
        name = encoder.tokenizer.convert_ids_to_tokens(end_id)
        raise DataError(
            "end_token_misplaced",
            f"{example.source}: the end token {name!r} must be the last token of the row, and nowhere else in the "
            "answer. The tokenizer turns plain text into it; use a tokenizer that does not.",
        )
    begin = encoder.tokenizer.bos_token_id
    for ids in (pair.text_ids, pair.text_view_ids, pair.code_view_ids):
        if begin is not None and ids is not None and ids[:2] == [begin, begin]:
            raise DataError(
                "begin_token_repeated",
                f"{example.source}: the row begins with two begin tokens {encoder.tokenizer.bos_token!r}, but a model "
                "expects one. The chat template writes both: remove one from it.",
            )


def check_labels(encoded: EncodedPairs, encoder: PairEncoder, jepa: JEPAConfig) -> None:
    """Raise a DataError if, in the layout of training, the last label of one of the first rows is not the end token.

    If padding and end are the same token, a collator that hides padding by its id hides the end token too. Then the
    rows are right, but the model never learns to stop.
    """
    if not jepa.train_end_token:
        return
    collate = FusedCollator(replace(jepa, jepa_lambda=0.0, jepa_gamma=1.0), encoder.pad_id)
    for pair, example in zip(encoded.pairs[:_NUM_LABELLED], encoded.examples[:_NUM_LABELLED], strict=True):
        if not pair.use_ce:
            continue
        trained = [label for label in collate([pair]).labels.flatten().tolist() if label != IGNORED]
        if trained[-1:] != [encoder.end_id(example)]:
            raise DataError(
                "end_token_not_trained",
                f"{example.source}: the end token is not under cross-entropy, so the model would never learn to "
                "stop. This is a fault of the program: please report it, with the tokenizer's name.",
            )


def check_system_messages(examples: Iterable[Example], encoder: PairEncoder) -> str | None:
    """Return a sentence about the system message that is left out of chats without a chat template, or None.

    One system message for all rows says nothing about any of them. If it differs, it is part of the question.

    Raises:
        DataError: If system messages differ and `include_system` is false.
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
                "system_differs",
                f"{example.source}: its system message differs from that of {first.source}, so it cannot "
                "be left out. Set include_system=true to put it before the text view, or use a tokenizer "
                "with a chat template.",
            )
    if first is None or first.system is None:
        return None
    return f"The system message, the same in all rows, is left out: {first.system!r}."


def _overflow_text(example: Example, pair: Pair, max_length: int) -> str:
    found = (
        f"row has {len(pair)} tokens (text {len(pair.text_ids)}, bridge {len(pair.bridge_ids)}, code with its end "
        f"token {len(pair.code_ids)})"
    )
    for name, ids in (("code", pair.code_view_ids), ("text", pair.text_view_ids)):
        if len(pair) <= max_length and ids is not None and len(ids) > max_length:
            found = f"{name} view apart from the row has {len(ids)} tokens"
    advice = "Raise max_length, or set on_overflow to drop or truncate."
    return f"{example.source}: the {found}, max_length is {max_length}. {advice}"
