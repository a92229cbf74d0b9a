"""A row drawn as text: roles, labels and view ends can be read without colour, in 80 columns."""

from __future__ import annotations

import random
import re

import pytest
import torch

from llm_jepa.data.config import DataConfig
from llm_jepa.data.encode import PairEncoder
from llm_jepa.data.encoded_pairs import encode_examples
from llm_jepa.data.example import Example
from llm_jepa.data.inspect import display_width, escape, inspect_pair, inspect_rows, show_token, wrap_words
from llm_jepa.objective import FusedCollator, JEPAConfig, Pair
from llm_jepa.objective.config import CHOICES
from llm_jepa.objective.documents import IGNORED

DOG = Example("0 1", "\\d", source="rows.jsonl:1")


def draw(tokenizer, *examples: Example, colour: bool = False, **settings) -> str:
    encoder = PairEncoder(tokenizer, DataConfig())
    encoded = encode_examples(examples, encoder)
    return inspect_rows(encoded, tokenizer, JEPAConfig(**settings), colour=colour)


def test_a_row_is_drawn_with_its_roles_labels_and_view_ends(byte_tokenizer):
    """Everything that decides what the model learns from the row."""
    assert draw(byte_tokenizer, DOG, loss_on="code", jepa_k=2).splitlines() == [
        "rows.jsonl:1  7 tokens: text 3, bridge 1, code 2, end 1",
        "text     0 · 1",
        "bridge   <|sep|>",
        "code     \\ d",
        "end      <|end|>",
        "[PRED]   x2 at position 3, after the text, which is all it reads",
        "labels   3 of 7 tokens (loss_on=code): code and end",
        "views    Enc(Text) at position 2, '1'; Enc(Code) at code token 1, 'd'",
        "",
        "1 row, tokens per row: shortest 7, middle 7, longest 7",
    ]


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"jepa_k": 0}, "none (jepa_k=0)"),
        ({"jepa_lambda": 0.0}, "none: jepa_lambda=0"),
        ({"jepa_direction": "code_to_text"}, "x1 at position 2, after the code alone"),
        ({"jepa_direction": "both"}, "after the text, which is all it reads; x1 at position 2"),
        ({"loss_on": "all"}, "6 of 7 tokens (loss_on=all)"),
        ({"jepa_pred_position": "prepend"}, "x1 at position 0, before the text, in a document of their own"),
        ({"jepa_term": "stp"}, "none: jepa_term=stp reads states of the row itself"),
    ],
)
def test_the_settings_show(byte_tokenizer, settings, words):
    """Where [PRED] stands and what is labelled follow the configuration."""
    assert words in " ".join(draw(byte_tokenizer, DOG, **settings).split())


def test_colour_changes_nothing_but_the_colour(byte_tokenizer):
    """Without the ANSI codes the text is the same, and without colour there are none."""
    plain, coloured = draw(byte_tokenizer, DOG), draw(byte_tokenizer, DOG, colour=True)
    assert "\033" not in plain
    assert "\033[36m" in coloured
    assert re.sub("\033\\[[0-9;]*m", "", coloured) == plain


def test_no_line_is_wider_than_a_terminal(byte_tokenizer):
    """Long rows, wide characters, a source without spaces: all are broken to 80 columns."""
    wide = Example("犬" * 200 + "x" * 300, "y" * 300, source="folder/" * 30 + "rows.jsonl:1")
    encoder = PairEncoder(byte_tokenizer, DataConfig(max_length=5000))
    encoded = encode_examples([wide], encoder)
    lines = inspect_rows(encoded, byte_tokenizer, JEPAConfig()).splitlines()
    assert max(display_width(line) for line in lines) <= 80


@pytest.mark.parametrize("char", ["\x1b", "\x07", "\r", "\t", "\u202e", "\u2066", "\u200b", "\u2028", "\x9b", "\u00a0"])
def test_nothing_in_the_data_can_move_the_cursor_or_turn_the_writing(byte_tokenizer, char):
    """Terminal commands and bidi marks are shown by their number."""
    assert escape(f"a{char}b") == f"a<U+{ord(char):04X}>b"
    assert char not in draw(byte_tokenizer, Example(f"a{char}b", f"a{char}b", source=f"a{char}b"))


def test_what_is_shown_has_one_meaning():
    """The marks for a space and a line end are escaped where they stand in the data; backslashes stay."""
    assert escape("a·\n⏎\\n") == "a<U+00B7>⏎<U+23CE>\\n"


def test_words_are_wrapped_and_too_long_ones_broken():
    """No character is lost."""
    assert wrap_words(["ab", "cd", "ef"], indent=75) == ["ab cd", "ef"]
    assert wrap_words(["abcdefgh"], indent=77) == ["abc", "def", "gh"]
    assert wrap_words([], indent=0) == []


def test_a_row_of_one_text_has_no_bridge(byte_tokenizer):
    """Its views meet."""
    encoder = PairEncoder(byte_tokenizer, DataConfig())
    assert "bridge   (none)" in inspect_pair(encoder.encode(Example("0123")), byte_tokenizer, JEPAConfig())


# ---- the drawing is what the collator makes (promise 9) ----

LABELS = ("text", "bridge", "code", "end", "textview", "codeview", "[PRED]", "labels", "views", "group")


def parse(drawing: str) -> dict[str, list[str]]:
    """The words of each part of a drawn row, by its label; the first line is the head."""
    head, *lines = drawing.splitlines()
    parts, label = {"head": head.split()}, ""
    for line in lines:
        label = line[:9].strip() or label
        assert label in LABELS
        parts.setdefault(label, []).extend(line[9:].split())
    return parts


def random_case(stream: random.Random) -> tuple[Pair, JEPAConfig]:
    """A pair of any kind under any objective that has views, or none."""

    def ids(low: int, high: int) -> list[int]:
        return [stream.randrange(3, 90) for _ in range(stream.randint(low, high))]

    pair = Pair(ids(1, 8), [*ids(1, 7), 1], ids(0, 3), use_jepa=stream.random() < 0.9, use_ce=stream.random() < 0.9)
    pair.text_ids += [1] * (stream.random() < 0.3)  # the end token's id, in the text
    pair.text_view_ids = ids(1, 9) if stream.random() < 0.4 else None
    pair.code_view_ids = ids(1, 9) if stream.random() < 0.4 else None
    pair.other_code_ids = [*ids(1, 9), 1] if stream.random() < 0.2 else None
    names = ("jepa_target", "jepa_direction", "jepa_pred_position", "loss_on")
    settings = {name: stream.choice(CHOICES[name]) for name in names}
    settings |= {"jepa_k": stream.randint(0, 3), "jepa_lambda": stream.choice([0.0, 1.0, 1.0])}
    settings["train_end_token"] = stream.random() < 0.6
    if settings["jepa_k"] and settings["jepa_target"] != "shared":
        settings["jepa_detach_backbone"] = stream.random() < 0.3
    return pair, JEPAConfig(**settings)


def documents_in(rows) -> list[list[tuple[int, int, bool]]]:
    """The documents of laid out rows: id, position and whether it is [PRED], token by token."""
    found: dict[tuple[int, int], list[tuple[int, int, bool]]] = {}
    for row, column in rows.real.nonzero().tolist():
        cell = rows.input_ids[row, column].item(), rows.position_ids[row, column].item()
        found.setdefault((row, rows.documents[row, column].item()), []).append(
            (*cell, rows.is_pred[row, column].item())
        )
    return list(found.values())


def drawn_ends(words: list[str]) -> list[tuple[int, str]]:
    """Index and token of each view's end, as the drawing has them."""
    return [(int(at), token) for at, token in re.findall(r"(?:position|token) (\d+), '(\S+)'", " ".join(words))]


def test_the_drawing_is_what_the_collator_makes(byte_tokenizer):
    """For 400 random pairs and objectives: the same tokens, labels, [PRED]s and view ends as in the batch."""
    stream = random.Random(9)
    for case in range(400):
        pair, config = random_case(stream)
        batch = FusedCollator(config, pad_token_id=0)([pair])
        parts = parse(inspect_pair(pair, byte_tokenizer, config))

        def shown(ids):
            return [show_token(byte_tokenizer, token) for token in ids]

        own = batch.rows.input_ids[batch.is_own].tolist()
        drawn = [*parts["text"], *parts["bridge"], *parts["code"], *parts["end"]]
        assert [word for word in drawn if word != "(none)"] == shown(own), case
        assert parts["labels"][:3] == [str((batch.labels != IGNORED).sum().item()), "of", str(len(own))], case

        documents = [each for rows in (batch.rows, batch.probe_rows) if rows for each in documents_in(rows)]
        preds = [[at for _, at, is_pred in document if is_pred] for document in documents]
        places = re.findall(r"x(\d) at position (\d+)", " ".join(parts["[PRED]"]))
        assert sorted(places) == sorted((str(len(each)), str(each[0])) for each in preds if each), case

        if not batch.num_pairs or not batch.views:
            continue
        ends = dict(zip(("text", "code"), drawn_ends(parts["views"]), strict=True))
        for views in batch.views:
            rows = batch.rows if views.target_in_rows else batch.target_rows
            at = rows.position_ids.flatten()[views.target_at].item()
            token = rows.input_ids.flatten()[views.target_at].item()
            assert ends["code" if views.from_text else "text"] == (at, *shown([token])), case
            rows = batch.probe_rows or batch.rows
            read = rows.documents.flatten()[views.pred_at]
            document = (rows.documents == read) & ~rows.is_pred
            document &= torch.arange(len(rows.documents))[:, None] == views.pred_at // rows.documents.shape[1]
            source = rows.input_ids[document].tolist()
            name = "text" if views.from_text else "code"
            view = pair.text_view if views.from_text else pair.code_view
            assert source[: len(view)] == view and ends[name] == (len(view) - 1, *shown(view[-1:])), case


@pytest.mark.parametrize(
    ("loss_on", "words"),
    [
        (
            "all",
            "5 of 7 tokens (loss_on=all, train_end_token=false): all but the first, which nothing predicts, and end",
        ),
        ("code", "2 of 7 tokens (loss_on=code, train_end_token=false): code without end tokens"),
    ],
)
def test_end_tokens_that_are_not_trained_are_drawn_so(byte_tokenizer, loss_on, words):
    """As under `recipe: as_published`."""
    assert words in " ".join(draw(byte_tokenizer, DOG, loss_on=loss_on, train_end_token=False).split())


def test_a_row_without_a_term_is_drawn_without_read_outs(byte_tokenizer):
    drawing = inspect_pair(Pair([5, 6], [8, 1], use_jepa=False), byte_tokenizer, JEPAConfig())
    assert "views    none: the row has no JEPA term (use_jepa: false)" in drawing
