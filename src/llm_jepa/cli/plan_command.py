"""The command that says how many seeds and test rows an effect needs: `plan`."""

from __future__ import annotations

import argparse
import math
from functools import partial
from typing import TYPE_CHECKING, Any

from llm_jepa.errors import ConfigError
from llm_jepa.files import expanded
from llm_jepa.progress import WIDTH

from .parsing import add_command, add_config, read_call
from .printing import print_hanging

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llm_jepa.experiments.experiment import ExperimentConfig
    from llm_jepa.experiments.seeds_needed import Spread

    Needed = Callable[[float, float], int | None]  # seeds that an effect needs at a standard deviation, both in points

MORE_ROWS = (1, 2, 4, 8)  # the sizes of the test file that are planned for, as multiples of the pilot's


def register(commands: Any) -> None:
    """Add the command of this module to the parser."""
    plan = add_command(commands, "plan", _plan, "say how many seeds and test rows an effect needs")
    add_config(plan)
    plan.add_argument("--effect", type=float, required=True, metavar="2.0", help="the true difference, in points")
    spread = plan.add_mutually_exclusive_group(required=True)
    spread.add_argument("--pilot", type=expanded, metavar="FOLDER", help="folder of a compare with finished runs")
    text = "standard deviation of the paired differences, in points"
    spread.add_argument("--std", type=float, metavar="1.5", help=text)
    plan.add_argument("--power", type=float, default=0.8, metavar="0.8", help="chance that it is shown (0.8)")


def _plan(arguments: argparse.Namespace) -> dict[str, Any]:
    from llm_jepa.experiments.experiment import read_experiment
    from llm_jepa.experiments.seeds_needed import seeds_needed, spreads_of
    from llm_jepa.experiments.statistics import ALPHA, points_in_words

    for flag, example in (("effect", 2.0), ("std", 1.5)):
        value = getattr(arguments, flag)
        if value is not None and not 0 < value < 100:
            text = f"--{flag} {value}: expected points, between 0 and 100, such as --{flag} {example}."
            raise ConfigError("value_out_of_range", text)
    if not 0.05 < arguments.power < 1:
        text = f"--power {arguments.power}: expected a chance between 0.05 and 1, such as --power 0.8."
        raise ConfigError("value_out_of_range", text)
    config, runs = read_experiment(read_call(arguments), trains=False)
    count = (len(config.arms) - 1) * len(next(iter(runs.values())).data.test_sets)
    if not count:
        text = f"{arguments.config} has only one arm, so nothing is compared. Add an arm."
        raise ConfigError("nothing_to_compare", text)
    if arguments.pilot is not None and config.baseline not in runs:
        text = f"The baseline {config.baseline} is a grid, but --pilot needs a baseline of one cell. "
        raise ConfigError("settings_conflict", f"{text}Set the spread instead: --std 1.5.")
    spreads = []
    if arguments.pilot is not None:
        metric = runs[config.baseline].evaluation.metric
        spreads = spreads_of(arguments.pilot, list(runs), config.baseline, metric)
    print_hanging(
        "",
        f"To show an effect of {points_in_words(arguments.effect)} with a chance of {arguments.power:.0%} or more: "
        f"paired t-test over seeds, two-sided {ALPHA:g}, Holm over {count} comparison{'s' if count > 1 else ''} "
        f"(planned for p below {ALPHA / count:.2g}).",
    )
    print()
    needed = partial(seeds_needed, num_comparisons=count, power=arguments.power)
    found = _of_pilot(arguments, config, spreads, needed) if spreads else _of_std(arguments, config, needed)
    return {"effect_points": arguments.effect, "power": arguments.power, "num_comparisons": count, **found}


def _of_std(arguments: argparse.Namespace, config: ExperimentConfig, needed: Needed) -> dict[str, Any]:
    seeds = needed(arguments.effect, arguments.std)
    of_std = f"With a standard deviation of {arguments.std:g} points between paired differences"
    print_hanging("", f"{of_std}: {_shown(seeds)} seeds.")
    _print_margin(config, {"": arguments.std}, needed)
    of_rows = "--std does not say which part of the deviation more rows would reduce. --pilot FOLDER does."
    print_hanging("", f"Test rows: {of_rows}")
    _print_few([seeds])
    return {"std_points": arguments.std, "seeds": seeds}


def _of_pilot(
    arguments: argparse.Namespace, config: ExperimentConfig, spreads: Sequence[Spread], needed: Needed
) -> dict[str, Any]:
    from llm_jepa.text_tables import text_table

    num_rows = spreads[0].num_rows
    sizes = [num_rows * each for each in MORE_ROWS]
    arms: dict[str, Any] = {}
    rows = [["arm", "n", "sd, 95% interval", "of rows", f"{num_rows:,} rows", *(f"{each:,}" for each in sizes[1:])]]
    for spread in spreads:
        stds = {size: std for size in sizes if (std := spread.std_at(size)) is not None}
        seeds = {size: needed(arguments.effect, 100 * std) for size, std in stds.items()}
        of_rows = None if spread.noise_std is None else 100 * spread.noise_std / math.sqrt(num_rows)
        low, high = (100 * end for end in spread.ci)
        sd = f"{100 * spread.std:.2f} [{low:.2f}, {high:.2f}]"
        cells = [_shown(seeds[size]) if size in seeds else "-" for size in sizes]
        rows.append([spread.arm, str(spread.n), sd, "-" if of_rows is None else f"{of_rows:.2f}", *cells])
        arms[spread.arm] = {
            "pilot_seeds": spread.n,
            "std_points": 100 * spread.std,
            "std_ci95_points": [low, high],
            "rows_std_points": of_rows,
            "seeds": {str(size): each for size, each in seeds.items()},
        }
    print(text_table(rows, WIDTH))
    print()
    print_hanging(
        "",
        "n, sd: seeds of the pilot, and the standard deviation of their paired differences, in points. Right: seeds "
        "needed with so many test rows.",
    )
    _print_rows(spreads)
    _print_margin(config, {each.arm: 100 * (each.std_at(num_rows) or each.std) for each in spreads}, needed)
    if lacking := [arm for arm in config.arms if arm != config.baseline and arm not in arms]:
        print_hanging("", f"Without two paired runs in the pilot: {', '.join(lacking)}.")
    _print_few([seeds for each in arms.values() for seeds in each["seeds"].values()])
    return {"pilot": str(arguments.pilot), "num_rows": num_rows, "arms": arms}


def _print_rows(spreads: Sequence[Spread]) -> None:
    """Print the effect of more test rows, as far as it is known."""
    if any(each.noise_std is None for each in spreads):
        needs = "it needs predictions.jsonl of all runs, on the same rows"
        print_hanging("", f"'-' means that the effect of more test rows is unknown: {needs}.")
    shared = [100 * each.row_std / math.sqrt(each.num_rows) for each in spreads if each.row_std is not None]
    if shared:
        print_hanging(
            "",
            "of rows: the part of sd that is noise of single answers. More test rows reduce it, and more seeds average "
            "it out. The choice of test rows shifts all seeds in the same way, here by up to "
            f"{max(shared):.2f} points (sd). No interval over seeds shows this shift; only more rows reduce it.",
        )


def _print_margin(config: ExperimentConfig, stds: dict[str, float], needed: Needed) -> None:
    """Print how many seeds the margin of the config needs; `stds` in points, by arm."""
    from llm_jepa.experiments.statistics import points_in_words

    if config.margin is None:
        return
    seeds = ", ".join(f"{arm} {_shown(needed(config.margin, std))}".strip() for arm, std in stds.items())
    shown = f"'not worse by more than {points_in_words(config.margin)}'"
    print_hanging("", f"To show {shown} of an arm that equals the baseline: {seeds} seeds.")


def _print_few(seeds: Sequence[int | None]) -> None:
    """Warn if a plan has few seeds."""
    from llm_jepa.experiments.sentences import FEW_SEEDS

    if any(each is not None and each < FEW_SEEDS for each in seeds):
        why = "with fewer, results rest only on the assumed normal distribution"
        print_hanging("", f"Use at least {FEW_SEEDS} seeds: {why}.")


def _shown(seeds: int | None) -> str:
    from llm_jepa.experiments.seeds_needed import MOST_SEEDS

    return f"over {MOST_SEEDS:,}" if seeds is None else f"{seeds:,}"
