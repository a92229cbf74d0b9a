"""A row drawn as text: roles, labels and view ends can be read without colour, in 80 columns."""

from __future__ import annotations

import pytest

from llm_jepa.data.config import DataConfig
from llm_jepa.data.encode import PairEncoder, encode_examples
from llm_jepa.data.inspect import display_width, escape, inspect_pair, inspect_rows, wrap_words
from llm_jepa.data.rows import Example
from llm_jepa.objective.config import JEPAConfig

DOG = Example("0 1", "\\d", source="rows.jsonl:1")


def draw(tokenizer, *examples: Example, colour: bool = False, **settings) -> str:
    encoder = PairEncoder(tokenizer, DataConfig())
    encoded = encode_examples(examples, encoder, encoder.config)
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
    import re

    plain, coloured = draw(byte_tokenizer, DOG), draw(byte_tokenizer, DOG, colour=True)
    assert "\033" not in plain
    assert "\033[36m" in coloured
    assert re.sub("\033\\[[0-9;]*m", "", coloured) == plain


def test_no_line_is_wider_than_a_terminal(byte_tokenizer):
    """Long rows, wide characters, a source without spaces: all are broken to 80 columns."""
    wide = Example("犬" * 200 + "x" * 300, "y" * 300, source="folder/" * 30 + "rows.jsonl:1")
    encoder = PairEncoder(byte_tokenizer, DataConfig(max_length=5000))
    encoded = encode_examples([wide], encoder, encoder.config)
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
