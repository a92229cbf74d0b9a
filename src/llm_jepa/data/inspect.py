"""Rows as the model will read them, drawn as text: the role of each token, and which tokens are trained on.

Pure functions that return strings of at most `WIDTH` columns; the command line prints them. Each token is
shown with its spaces as `·`. Characters that move the cursor or change the direction of writing are escaped.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from llm_jepa.objective.config import JEPAConfig
from llm_jepa.objective.documents import IGNORED, Document, Role, Where, documents_of
from llm_jepa.objective.pair import Pair
from llm_jepa.progress import WIDTH

from .encoded_pairs import EncodedPairs

_LABEL_WIDTH = 9
_RESET = "\033[0m"
_COLOURS = {
    "text": "\033[36m",
    "bridge": "\033[90m",
    "code": "\033[32m",
    "textview": "\033[36m",
    "codeview": "\033[32m",
    "end": "\033[1;33m",
    "[PRED]": "\033[35m",
}


def inspect_rows(
    encoded: EncodedPairs,
    tokenizer: PreTrainedTokenizerBase,
    jepa: JEPAConfig,
    *,
    num_rows: int = 3,
    colour: bool = False,
) -> str:
    """Draw the first rows of a split, with a line about the lengths of all rows.

    `jepa` says which tokens are labelled, and where [PRED] is. `colour` colours the roles with ANSI codes.
    """
    drawn = [inspect_pair(pair, tokenizer, jepa, colour=colour) for pair in encoded.pairs[:num_rows]]
    return "\n\n".join([*drawn, describe_lengths(encoded.pairs)])


def inspect_pair(pair: Pair, tokenizer: PreTrainedTokenizerBase, jepa: JEPAConfig, *, colour: bool = False) -> str:
    """Draw one row: its tokens by role, what is labelled, and where each view is read.

    Without colour it looks like this, positions from 0:

        train.jsonl:17  8 tokens: text 4, bridge 1, code 2, end 1
        text     lines ·with ·a ·dog
        bridge   <|sep|>
        code     .*dog .*
        end      <|end|>
        [PRED]   x1 at position 4, after the text, which is all it reads
        labels   3 of 8 tokens (loss_on=code): code and end
        views    Enc(Text) at position 3, '·dog'; Enc(Code) at code token 1, '.*'

    Views apart from the row (jepa_views=rendered, or columns of their own) are drawn below its end, each as a whole,
    as `textview` and `codeview`.
    """
    documents = documents_of(pair, jepa)
    read = documents_of(pair, jepa.with_views())  # what evaluation during training reads, also with jepa_lambda=0
    own = documents[0].tokens
    code_from = len(own) - len(pair.code_ids)
    spans = {
        "text": own[: len(pair.text_ids)],
        "bridge": own[len(pair.text_ids) : code_from],
        "code": own[code_from:-1],
        "end": own[-1:],
    }
    counts = ", ".join(f"{role} {len(ids)}" for role, ids in spans.items())
    lines = wrap_words([*escape(pair.source or "row").split(" "), "", f"{len(own)} tokens: {counts}"], indent=0)
    for label, ids in spans.items():
        lines += _labelled(label, [show_token(tokenizer, token) for token in ids] or ["(none)"], colour=colour)
    for view in ("text", "code"):
        if (found := _view(read, view)) is not None and found[0].tokens not in (own, spans[view]):
            lines += _labelled(f"{view}view", [show_token(tokenizer, each) for each in found[0].tokens], colour=colour)
    lines += _labelled("[PRED]", _pred_sentence(pair, documents, jepa).split(" "), colour=colour)
    lines += _labelled("labels", _label_sentence(pair, documents[0], jepa).split(" "))
    lines += _labelled("views", _view_sentence(pair, read, tokenizer).split(" "))
    if pair.group is not None:
        lines += _labelled("group", escape(pair.group).split(" "))
    return "\n".join(lines)


def describe_lengths(pairs: Sequence[Pair]) -> str:
    """Return one line about the lengths of all rows, in tokens."""
    if not pairs:
        return "0 rows"
    lengths = sorted(len(pair) for pair in pairs)
    rows = "1 row" if len(pairs) == 1 else f"{len(pairs):,} rows"
    shortest, middle, longest = lengths[0], lengths[len(lengths) // 2], lengths[-1]
    return f"{rows}, tokens per row: shortest {shortest}, middle {middle}, longest {longest}"


def show_token(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """Return one token as visible text; a part of a character is shown as it is in the vocabulary."""
    text = str(tokenizer.decode([token], clean_up_tokenization_spaces=False))
    if not text or "\ufffd" in text:
        text = str(tokenizer.convert_ids_to_tokens(token))
    return escape(text).replace(" ", "·")


def escape(text: str) -> str:
    """Replace every character that is not visible by its number: controls, bidi marks, unusual spaces.

    Backslashes stay as they are, because regexes have many of them; a line end is `⏎`.

    >>> print(escape("a\\n\\tb\\u202ec"))
    a⏎<U+0009>b<U+202E>c
    """
    return "".join(_visible(char) for char in text)


def wrap_words(words: Sequence[str], indent: int) -> list[str]:
    """Join words with spaces into lines of at most `WIDTH - indent` columns; a longer word is broken."""
    room = WIDTH - indent
    lines: list[str] = []
    for word in words:
        if lines and display_width(f"{lines[-1]} {word}") <= room:
            lines[-1] += f" {word}"
            continue
        lines.append("")
        for char in word:
            if display_width(lines[-1] + char) > room:
                lines.append("")
            lines[-1] += char
    return lines


def display_width(text: str) -> int:
    """Return the columns that a text takes in a terminal."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def _visible(char: str) -> str:
    if char == "\n":
        return "⏎"
    # Our own two marks are escaped too if they are in the data, so that nothing shown has two meanings.
    return char if char.isprintable() and char not in "·⏎" else f"<U+{ord(char):04X}>"


def _labelled(label: str, words: list[str], *, colour: bool = False) -> list[str]:
    """Put a label before the first line and align the others under it. Colour is added last, as it has no width."""
    lines = wrap_words(words, indent=_LABEL_WIDTH)
    heads = [label.ljust(_LABEL_WIDTH)] + [" " * _LABEL_WIDTH] * (len(lines) - 1)
    if colour and label in _COLOURS:
        lines = [f"{_COLOURS[label]}{line}{_RESET}" for line in lines]
    return [head + line for head, line in zip(heads, lines, strict=True)]


def _pred_sentence(pair: Pair, documents: Sequence[Document], jepa: JEPAConfig) -> str:
    if jepa.uses_tube:
        return f"none: jepa_term={jepa.jepa_term} reads states of the row itself"
    if not jepa.uses_views:
        return "none: jepa_lambda=0 encodes no view"
    if not pair.use_jepa:
        return "none: the row is under cross-entropy alone (use_jepa: false)"
    if jepa.jepa_k == 0:
        return "none (jepa_k=0): Pred(x) = Enc(x)"
    sentences = []
    for document in documents:
        place, view = f"x{len(document.pred)} at position {document.pred.start}", _called(document, pair)
        if len(document.pred) and document.pred_leads:
            sentences.append(f"{place}, before {view}, in a document of their own")
        elif len(document.pred):
            sentences.append(f"{place}, after {view}, which is all it reads")
    return "; ".join(sentences)


def _called(document: Document, pair: Pair) -> str:
    """Return the name of the view that a document begins with."""
    if document.role[0] is Role.TEXT:
        is_own = document.where is Where.OWN or document.tokens == pair.text_ids
        return "the text" if is_own else "the text view"
    return "the code alone" if document.tokens == pair.code_ids[:-1] else "the code view"


def _label_sentence(pair: Pair, own: Document, jepa: JEPAConfig) -> str:
    counts = f"{sum(label != IGNORED for label in own.labels)} of {len(own.tokens)} tokens"
    if not pair.use_ce:
        return f"{counts}: the row feeds the JEPA term alone (views_cross_entropy: false)"
    if jepa.loss_on == "code" and jepa.train_end_token:
        return f"{counts} (loss_on=code): code and end"
    if jepa.loss_on == "code":
        return f"{counts} (loss_on=code, train_end_token=false): code without end tokens"
    if jepa.train_end_token:
        return f"{counts} (loss_on=all): all but the first, which nothing predicts"
    return f"{counts} (loss_on=all, train_end_token=false): all but the first, which nothing predicts, and end tokens"


def _view(documents: Sequence[Document], name: str) -> tuple[Document, int] | None:
    """Return the document that holds a view, and the index of the view's last token in it; None if there is none."""
    for document in documents:
        if name in document.read_as:
            return document, document.read_as[name]
    for document in documents:  # a view that is only read with [PRED]
        if f"{name}_pred" in document.read_as:
            return document, len(document.tokens) - 1
    return None


def _view_sentence(pair: Pair, documents: Sequence[Document], tokenizer: PreTrainedTokenizerBase) -> str:
    text, code = _view(documents, "text"), _view(documents, "code")
    if text is None or code is None:
        return "none: the row has no JEPA term (use_jepa: false)"
    text_apart = _called(text[0], pair) == "the text view"
    code_apart = _called(code[0], pair) == "the code view"
    places = []
    for name, (document, at), place in (
        ("Enc(Text)", text, "text view token" if text_apart else "position"),
        ("Enc(Code)", code, "code view token" if code_apart else "code token"),
    ):
        places.append(f"{name} at {place} {at}, '{show_token(tokenizer, document.tokens[at])}'")
    beside = ". Views beside the row are rows of their own." if text_apart or code_apart else ""
    return "; ".join(places) + beside
