"""Commands that train: `compare`, `report`, `train`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_jepa.files import expanded
from llm_jepa.processes import is_main
from llm_jepa.progress import WIDTH

from .parsing import add_command, add_config, read_call, run_of, seeds_in
from .printing import print_hanging

if TYPE_CHECKING:
    from llm_jepa.experiments.experiment import Experiment
    from llm_jepa.runs.settings import RunConfig

REPORT = "{out}/report.html"
QUICK = {
    "seeds": [82],
    "max_steps": 4,
    "generate_train": 200,
    "generate_test": 20,
    "validation_size": 20,
    "validation_generations": 4,
}
"""What `demo --quick` changes: enough to see that all parts work, too little for a result."""


def register(commands: Any) -> None:
    """Add the commands of this module to the parser."""
    compare = add_command(
        commands, "compare", _compare, "train several arms with several seeds and compare them", main_file=REPORT
    )
    add_config(compare)
    compare.add_argument("--out", type=expanded, metavar="DIR", help="folder of the experiment (runs/<config>)")
    compare.add_argument("--seeds", metavar="82,23,37", help="seeds, paired over the arms")
    compare.add_argument("--workers", type=int, metavar="N", help="runs at the same time")
    text = "check what the runs need, and print them with their cost; run nothing"
    compare.add_argument("--dry-run", action="store_true", help=text)

    demo = add_command(
        commands, "demo", _demo, "compare four arms on generated pairs: no data and no model needed", main_file=REPORT
    )
    demo.add_argument("--out", type=expanded, metavar="DIR", help="folder (runs/demo; with --quick runs/demo-quick)")
    text = "a few steps on a few pairs, under a minute; too few for a result"
    demo.add_argument("--quick", action="store_true", help=text)

    train = add_command(
        commands, "train", _train, "train one arm with one seed", shared_out=True, main_file="{run_dir}/eval.json"
    )
    add_config(train)
    train.add_argument("--arm", metavar="NAME", help="one of the config's arms; without arms, ntp or jepa")
    train.add_argument("--out", type=expanded, metavar="DIR", help="folder of the run (runs/<config>-s<seed>)")
    text = "continue a run although KEY differs; may be repeated"
    train.add_argument("--allow-changed", action="append", default=[], metavar="KEY", help=text)
    text = "seed of weights, order of rows and dropout (the config's first)"
    train.add_argument("--seed", type=int, metavar="N", help=text)

    report = add_command(
        commands, "report", _report, "rebuild an experiment's tables and figures from its run folders", main_file=REPORT
    )
    report.add_argument("folder", type=expanded, metavar="DIR", help="folder of the experiment")
    report.add_argument("--markdown", action="store_true", help="print the table as Markdown")


def _compare(arguments: argparse.Namespace) -> dict[str, Any]:
    settings = read_call(arguments)
    if arguments.seeds is not None:
        settings["seeds"] = seeds_in(arguments.seeds)
    if arguments.workers is not None:
        settings["workers"] = arguments.workers
    folder = arguments.out or Path("runs") / Path(arguments.config).stem
    return _compared(settings, folder, dry_run=arguments.dry_run)


def _demo(arguments: argparse.Namespace) -> dict[str, Any]:
    from importlib import resources

    from llm_jepa.runs.settings import read_yaml

    with resources.as_file(resources.files("llm_jepa.experiments") / "demo.yaml") as file:
        settings = read_yaml(file)
    folder = arguments.out or Path("runs", "demo-quick" if arguments.quick else "demo")
    return _compared(settings | (QUICK if arguments.quick else {}), folder)


def _compared(settings: dict[str, Any], folder: Path, *, dry_run: bool = False) -> dict[str, Any]:
    """Compare the arms of an experiment, print the table, and return the last line; a dry run prints only the runs."""
    from llm_jepa.experiments.compare import open_experiment, run_experiment
    from llm_jepa.report.experiment_report import write_experiment_report
    from llm_jepa.report.terminal import format_answer, format_table

    experiment = open_experiment(settings, folder, dry_run=dry_run)
    if dry_run:
        return _dry_run(experiment)
    results = run_experiment(experiment, progress=sys.stderr.isatty(), render=write_experiment_report)
    print(format_table(results))
    print(f"\n{format_answer(results)}\n")
    return {
        "out": str(folder),
        "metric": results.metric,
        "arms": {name: {"mean": arm.values.mean, "n": arm.values.n} for name, arm in results.arms.items()},
        "verdicts": results.verdicts,
        "chosen": {arm: grid.chosen for arm, grid in results.grids.items()},
    }


def _dry_run(experiment: Experiment) -> dict[str, Any]:
    """Print the runs and what they will take; return the last line."""
    jobs, seeds = experiment.jobs, experiment.config.seeds
    print(f"{len(jobs):,} runs: {len(experiment.runs):,} arms x {len(seeds)} seeds", end="")
    more = experiment.most_runs - len(jobs)
    print(f", then at most {more:,} of {' and '.join(experiment.config.compare_at[1:])}" if more else "")
    for job in jobs:
        print(f"  {job.name}")
    _print_estimates(experiment)
    return {
        "dry_run": True,
        "notes": experiment.notes,
        "runs": [job.name for job in jobs],
        "most_runs": experiment.most_runs,
        "estimates": {
            arm: {"epochs": e.epochs, "steps": e.steps, "flops": e.flops, "training_minutes": e.training_time_s / 60}
            for arm, e in experiment.estimates.items()
        },
    }


def _print_estimates(experiment: Experiment) -> None:
    from llm_jepa.progress import duration
    from llm_jepa.text_tables import text_table

    estimates, config = experiment.estimates, experiment.config
    if not estimates:
        return
    rows = [["a run of", "epochs", "steps", "FLOPs", "training"]]
    for arm, each in estimates.items():
        rows.append([arm, f"{each.epochs:.2f}", f"{each.steps:,}", f"{each.flops:.2g}", duration(each.training_time_s)])
    print()
    print(text_table(rows, WIDTH))
    left = [job for job in experiment.jobs if not job.folder.is_done and job.arm in estimates]
    total = sum(estimates[job.arm].training_time_s for job in left) / min(config.workers, len(left))
    count = f"{len(left)} run{'s' if len(left) > 1 else ''}"
    text = f"Training of {count}, {config.workers} at a time: about {duration(total)}. Evaluation is not included."
    print_hanging("", f"{text} Timed on two batches of each arm on this machine, as it is now.")


def _report(arguments: argparse.Namespace) -> dict[str, Any]:
    from llm_jepa.experiments.summary import summarise
    from llm_jepa.report.experiment_report import write_experiment_report
    from llm_jepa.report.markdown import format_markdown, only_bars
    from llm_jepa.report.terminal import format_answer, format_table

    results = summarise(arguments.folder)
    write_experiment_report(results, arguments.folder)
    if arguments.markdown:
        print(format_markdown(results, only_bars))
    else:
        print(f"{format_table(results)}\n\n{format_answer(results)}\n")
    return {"out": str(arguments.folder), "verdicts": results.verdicts}


def _train(arguments: argparse.Namespace) -> dict[str, Any]:
    from llm_jepa.runs.folder import run_name
    from llm_jepa.runs.run import train_run

    run, arm, seed = _one_run(arguments)
    name = Path(arguments.config).stem + (f"-{arm}" if arm else "")
    folder = arguments.out or Path("runs") / run_name(name, seed)
    report = train_run(run, seed, folder, progress=sys.stderr.isatty())
    shown: dict[str, Any] = {
        key: report[key]
        for key in dict.fromkeys(("exact_match", "starts_with", run.evaluation.metric, "num_rows", "num_steps"))
        if key in report
    }
    _print_run(report, run.evaluation.metric, folder)
    return {"run_dir": str(folder), "seed": seed, **shown, "alarm": report["alarm"]}


def _print_run(report: dict[str, Any], metric: str, folder: Path) -> None:
    """Print the scores of a run, how long it took, and where its model is."""
    from llm_jepa.progress import duration
    from llm_jepa.runs.folder import RunFolder

    if "exact_match" in report:
        names = dict.fromkeys(("exact_match", "starts_with", metric))
        scores = " | ".join(f"{name.replace('_', ' ')} {report[name]:.1%}" for name in names)
        print(f"{scores} | {report['num_rows']:,} test rows, {report['num_steps']:,} steps")
    else:
        print("There are no test rows, so nothing was answered.")
    print(" | ".join(f"{name} {duration(report[f'{name}_time_s'])}" for name in ("training", "evaluation", "total")))
    alarm = report["alarm"]
    if alarm is not None and alarm["alarmed"]:
        print_hanging("Collapse alarm: ", alarm["reason"])
    if (model := RunFolder(folder).model).is_dir():
        print_hanging("Model: ", str(model))


def _one_run(arguments: argparse.Namespace) -> tuple[RunConfig, str | None, int]:
    """Return settings, arm and seed of the run that `train` does; the arm is None if the file has no arms.

    The file may be one for `compare`. If the call does not name an arm or a seed, one is chosen here. A chosen arm is
    printed.
    """
    settings = read_call(arguments)
    if arguments.allow_changed:
        settings["allow_changed"] = [*(settings.get("allow_changed") or []), *arguments.allow_changed]
    if arguments.seed is not None:
        settings["seed"] = arguments.seed
    arm = arguments.arm or ("jepa" if {"arms", "grid"} & settings.keys() else None)
    run, experiment, seed = run_of(settings, arm)
    if arguments.arm is None and arm and is_main():
        print(f"train  arm {arm} of {', '.join(experiment.arms)}; --arm chooses another", file=sys.stderr)
    return run, arm, seed
