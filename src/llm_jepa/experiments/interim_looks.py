"""Records interim looks: how often the results were made, and with which seeds.

A user who adds seeds because of the first results has more chances to see a difference than a p-value assumes. With
looks at 3 and at 6 seeds, 9 of 100 comparisons of equal arms show a difference, not 5. Each look is recorded, so that
the report can mention it.
"""

from __future__ import annotations

from collections.abc import Iterable

from llm_jepa.runs.folder import ExperimentFolder


def note_look(folder: ExperimentFolder, seeds: Iterable[int]) -> list[str]:
    """Record that results of these seeds were made; return sentences if earlier results had other seeds.

    Seeds that were added later and seeds that were removed are both reported: in both cases a user may have chosen the
    seeds because of earlier results.
    """
    seen, looks = sorted(seeds), folder.looks()
    if seen and seen not in looks:
        looks.append(seen)
        folder.write_looks(looks)
    notes = []
    if earlier := [look for look in looks if set(look) < set(seen)]:
        counts = " and ".join(str(len(look)) for look in earlier)
        notes.append(f"Seeds were added after results had been made with {counts} of these {len(seen)} seeds.")
    if gone := sorted({seed for look in looks for seed in look} - set(seen)):
        listed = ", ".join(map(str, gone))
        notes.append(f"Earlier results had seeds that are not among these: {listed}.")
    if notes:
        notes[-1] += (
            " If the seeds were changed because of those results, p-values and intervals promise too much. Seeds that "
            "are set in advance do not have this flaw."
        )
    return notes
