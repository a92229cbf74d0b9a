"""Records interim looks: how often the results were made, with which seeds and which baseline.

A user who adds seeds because of the first results has more chances to see a difference than a p-value assumes. With
looks at 3 and at 6 seeds, 9 of 100 comparisons of equal arms show a difference, not 5. Each look is recorded, so that
the report can mention it. A baseline that was exchanged for a weaker one is mentioned too.
"""

from __future__ import annotations

from collections.abc import Iterable

from llm_jepa.runs.folder import ExperimentFolder, Look


def note_look(folder: ExperimentFolder, seeds: Iterable[int], baseline: str) -> list[str]:
    """Record that results of these seeds were made; return sentences if earlier ones had others, or another baseline.

    Seeds that were added later and seeds that were removed are both reported: in both cases a user may have chosen the
    seeds because of earlier results.
    """
    look: Look = {"seeds": sorted(seeds), "baseline": baseline}
    looks = folder.looks()
    if look["seeds"] and look not in looks:
        looks.append(look)
        folder.write_looks(looks)
    seen = set(look["seeds"])
    return [*_about_seeds(seen, [set(each["seeds"]) for each in looks]), *_about_baseline(baseline, looks)]


def _about_seeds(seen: set[int], looks: list[set[int]]) -> list[str]:
    notes = []
    earlier = list(dict.fromkeys(len(look) for look in looks if look < seen))
    if earlier:
        counts = " and ".join(map(str, earlier))
        notes.append(f"Seeds were added after results had been made with {counts} of these {len(seen)} seeds.")
    if gone := sorted(set().union(*looks) - seen):
        listed = ", ".join(map(str, gone))
        notes.append(f"Earlier results had seeds that are not among these: {listed}.")
    if notes:
        notes[-1] += (
            " If the seeds were changed because of those results, p-values and intervals promise too much. Seeds that "
            "are set in advance do not have this flaw."
        )
    return notes


def _about_baseline(baseline: str, looks: list[Look]) -> list[str]:
    others = list(dict.fromkeys(each["baseline"] for each in looks if each.get("baseline", baseline) != baseline))
    if not others:
        return []
    return [
        f"Earlier results had another baseline, {' and '.join(others)}; these have {baseline}. If it was changed "
        "because of those results, a weaker rival may have been chosen."
    ]
