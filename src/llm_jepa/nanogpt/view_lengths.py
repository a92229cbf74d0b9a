"""Where the two views of a row are: how many of its tokens are text, and how many are code."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from llm_jepa.errors import ConfigError

MIN_VIEW = 2  # tokens; a view of one token has almost no meaning


def view_lengths(
    B: int, T: int, jepa_split: float, views: Tensor | Sequence[Sequence[int]] | None
) -> tuple[list[int], list[int]]:
    """Return the number of tokens of text and of code in each row.

    Args:
        B, T: Rows, and tokens of a row.
        jepa_split: Share of a row that is text, where `views` is None.
        views: Tokens of text and of code of each row, (B, 2), or None.

    Raises:
        ConfigError: If a share or a number is out of range; the text names the row.

    >>> view_lengths(1, 10, 0.25, None), view_lengths(2, 10, 0.5, [(3, 4), (0, 0)])
    (([2], [8]), ([3, 0], [4, 0]))
    """
    if views is None:
        if not 0 <= jepa_split <= 1:
            raise ConfigError(
                "value_out_of_range", f"jepa_split={jepa_split}: expected a share of the row, from 0 to 1."
            )
        text = max(MIN_VIEW, int(T * jepa_split))
        return [text] * B, [max(0, T - text)] * B
    pairs = views.tolist() if isinstance(views, Tensor) else [list(map(int, each)) for each in views]
    if len(pairs) != B or any(len(each) != 2 for each in pairs):
        raise ConfigError(
            "wrong_shape", f"views: expected two numbers for each of {B} rows, the tokens of text and of code."
        )
    for row, (text, code) in enumerate(pairs):
        if min(text, code) < 0 or text + code > T or (code >= MIN_VIEW and text == 0):
            raise ConfigError(
                "value_out_of_range",
                f"views: row {row} has {text} tokens of text and {code} of code; expected at least one of text, "
                f"and no more than {T} together, the length of the row.",
            )
    return [text for text, _ in pairs], [code for _, code in pairs]
