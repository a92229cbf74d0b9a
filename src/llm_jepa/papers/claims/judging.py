"""Verdicts on the claims of a record: Holm's correction over each table, then each check by its rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from llm_jepa.experiments.statistics import holm

from .catalogue import Claim, read_catalogue
from .measures import SMALLEST_SAMPLE
from .plans import Plan, read_plans
from .records import Record, values_of
from .verdicts import Check, Outcome, Word, combine, judge, main_comparison


@dataclass(frozen=True)
class Judged:
    """A claim and what became of it.

    Attributes:
        claim: The claim.
        checks: What it says, part by part.
        outcomes: What came out of each.
    """

    claim: Claim
    checks: tuple[Check, ...]
    outcomes: tuple[Outcome, ...]

    @property
    def word(self) -> Word:
        """The verdict."""
        return combine(self.outcomes)

    @property
    def told(self) -> int:
        """The place of the part that gives the verdict."""
        return next(place for place, outcome in enumerate(self.outcomes) if outcome.word == self.word)


def judge_record(record: Record) -> dict[str, Judged]:
    """Return what became of each claim of a record, in the order of the catalogue."""
    plan = read_plans(record["scale"], record["recipe"])[record["experiment"]]
    wanted = set(record["claims"])
    checks = {claim: plan.checks[claim] for claim in read_catalogue() if claim in wanted}
    corrected = _corrected(record, checks)
    return {
        claim: Judged(
            read_catalogue()[claim],
            parts,
            tuple(
                _of_few_rows(record, part, judge(part, values_of(record, part.measure), corrected.get((claim, place))))
                for place, part in enumerate(parts)
            ),
        )
        for claim, parts in checks.items()
    }


def _of_few_rows(record: Record, part: Check, outcome: Outcome) -> Outcome:
    """Take the verdict back where it is of a handful of test rows: seeds do not vary these."""
    count = record.get("num_rows", {}).get(part.measure)
    if count is None or count >= SMALLEST_SAMPLE or outcome.word == "not run":
        return outcome
    reason = f"only {count} test rows are of this kind"
    return replace(outcome, word="inconclusive", reason=reason, smallest=None, falls_short=False)


def not_run(plan: Plan, claim: str) -> Judged:
    """Return a claim of a plan before anything was run."""
    parts = plan.checks[claim]
    return Judged(read_catalogue()[claim], parts, tuple(Outcome("not run", "no values") for _ in parts))


def _corrected(record: Record, checks: Mapping[str, tuple[Check, ...]]) -> dict[tuple[str, int], float | None]:
    """Return the p of every `gain`, corrected for the number of those of the same table in the record."""
    families: dict[str, dict[tuple[str, int], float | None]] = {}
    for claim, parts in checks.items():
        for place, part in enumerate(parts):
            found = main_comparison(part, values_of(record, part.measure)) if part.kind == "gain" else None
            if found is not None:
                families.setdefault(read_catalogue()[claim].family, {})[claim, place] = found.p_value
    corrected: dict[tuple[str, int], float | None] = {}
    for family in families.values():
        by_name = {f"{claim} {place}": p for (claim, place), p in family.items()}
        after = holm(by_name)
        corrected |= {key: after[f"{key[0]} {key[1]}"] for key in family}
    return corrected
