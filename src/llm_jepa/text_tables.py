"""Tables for a terminal."""

from __future__ import annotations

from collections.abc import Collection, Sequence

GAP = 2


def text_table(rows: Sequence[Sequence[str]], width: int, left: Collection[int] = (0,)) -> str:
    """Return rows as aligned columns, the first row a header; columns that are not in `left` are aligned to the right.

    If lines are longer than `width`, long names in the first column lose their middle, or a part nearer to one end, so
    that no two of them become equal. Where that needs more room, lines are longer.

    >>> print(text_table([["arm", "n", "verdict"], ["jepa_shuffled", "10", "worse"]], width=24, left=(0, 2)))
    arm           n  verdict
    ------------------------
    jepa_..fled  10  worse
    >>> print(text_table([["arm", "n"], ["jepa_shuffled", "3"], ["jepa_infonce_shuffled", "3"]], width=15))
    arm           n
    ---------------
    jepa_s..fled  3
    jepa_i..fled  3
    >>> print(text_table([["arm", "n"], ["term_jepa@flops", "3"], ["term_jepa_shuffled@flops", "3"]], width=12))
    arm        n
    ------------
    ..a@flops  3
    ..d@flops  3
    """
    columns = range(len(rows[0]))
    room = max(8, width - sum(max(len(row[column]) for row in rows) + GAP for column in columns[1:]))
    names = {row[0] for row in rows}
    short = next(filter(None, (_cut_names(names, each) for each in range(room, max(map(len, names))))), {})
    rows = [[short.get(row[0], row[0]), *row[1:]] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in columns]
    lines = []
    for row in rows:
        cells = [f"{row[column]:{'<' if column in left else '>'}{widths[column]}}" for column in columns]
        lines.append((" " * GAP).join(cells).rstrip())
    lines.insert(1, "-" * (sum(widths) + GAP * (len(widths) - 1)))
    return "\n".join(lines)


def _cut_names(names: Collection[str], room: int) -> dict[str, str] | None:
    """Return the names in at most `room` characters, cut at the first place where all stay different, if any."""
    middle = (room - 2) // 2
    for tail in (*range(middle, -1, -1), *range(middle + 1, room - 1)):
        short = {name: cut_in_the_middle(name, room, tail) for name in names}
        if len(set(short.values())) == len(short):
            return short
    return None


def cut_in_the_middle(text: str, room: int, tail: int | None = None) -> str:
    """Shorten a name to `room` characters. Both ends are kept, because names differ there; the last has `tail`.

    >>> cut_in_the_middle("jepa_infonce_shuffled", 12), cut_in_the_middle("jepa_infonce_shuffled", 12, tail=2)
    ('jepa_..ffled', 'jepa_inf..ed')
    """
    if len(text) <= room:
        return text
    tail = (room - 2) // 2 if tail is None else tail
    return f"{text[: room - 2 - tail]}..{text[len(text) - tail :]}"
