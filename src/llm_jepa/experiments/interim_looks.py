"""How often the results were looked at, and with which seeds.

Whoever adds seeds because of what the first ones showed has more chances to see a difference than a p-value counts:
with looks at 3 and at 6 seeds, 9 in 100 comparisons of equals show one, not 5. Each look is written down, so that the
report can say so.
"""

from __future__ import annotations

from collections.abc import Iterable

from llm_jepa.runs.folder import ExperimentFolder


def note_look(folder: ExperimentFolder, seeds: Iterable[int]) -> list[str]:
    """Write down that results of these seeds were made; return a sentence if others were looked at before.

    Seeds that came later are told, and so are those that are gone: both let one choose by what was seen.

    Args:
        folder: Of the experiment.
        seeds: Those that something was compared at.
    """
    seen, looks = sorted(seeds), folder.looks()
    if seen and seen not in looks:
        looks.append(seen)
        folder.write_looks(looks)
    notes = []
    if earlier := [look for look in looks if set(look) < set(seen)]:
        told = " and ".join(str(len(look)) for look in earlier)
        notes.append(f"Seeds were added after results had been looked at, with {told} of these {len(seen)}.")
    if gone := sorted({seed for look in looks for seed in look} - set(seen)):
        told = ", ".join(map(str, gone))
        notes.append(f"Results were looked at with seeds that are not among these: {told}.")
    if notes:
        notes[-1] += (
            " If that was for what they showed, p-values and intervals promise too much; seeds named beforehand do not "
            "have that flaw."
        )
    return notes
