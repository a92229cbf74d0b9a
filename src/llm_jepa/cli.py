"""The command line: parsing and printing, nothing else.

Results go to standard output, whose last line is one JSON object; progress and log go to standard error.
Exit codes: 0 done, 1 the work failed, 2 the call, the configuration or the data was wrong, 3 a requested check
failed, 130 interrupted, 143 stopped by SIGTERM.
"""

from __future__ import annotations

import argparse
import errno
import json
import logging
import os
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from llm_jepa import __version__
from llm_jepa.errors import CheckFailedError, ConfigError, LLMJEPAError
from llm_jepa.processes import end_with_parent, is_main, join, leave, num_launched, on_main, rank, told

if TYPE_CHECKING:
    from llm_jepa.evaluation.evaluate import EvaluationConfig
    from llm_jepa.experiments.settings import RunConfig

WIDTH = 80
RETRIEVED = 5
INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM

# An OSError of one of these kinds is a wrong path in the call; any other (a full disk, say) is work that failed.
_WRONG_PATH = ("ENOENT", "EACCES", "EPERM", "ENOTDIR", "EISDIR", "EEXIST", "EROFS", "ENAMETOOLONG")
WRONG_PATH = frozenset(getattr(errno, name) for name in _WRONG_PATH)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    arguments = _parser().parse_args(argv)
    _be_quiet(arguments.debug)
    exit_code = _run(arguments)
    leave()  # not before an error has been dealt with and is gone: its traceback holds the trainer
    return exit_code


def _run(arguments: argparse.Namespace) -> int:
    try:
        with _sigterm_as_exit(), _one_voice():
            end_with_parent()
            _check_launch(arguments)
            _print_json(arguments.command(arguments))
    except KeyboardInterrupt:
        _print_parting("\nInterrupted.")
        return INTERRUPTED
    except SystemExit as stop:
        if stop.code == TERMINATED:
            _print_parting("Stopped.")
        return int(stop.code or 0)
    except BrokenPipeError:
        # The reader of a pipe has gone (`| head`). Python's flush at exit must not meet the broken pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return LLMJEPAError.exit_code
    except (LLMJEPAError, OSError) as error:
        if arguments.debug:
            raise
        message, exit_code = _describe(error)
        if not getattr(error, "told_by_main", False):
            _print_error(message if is_main() else f"process {rank()}: {message}")
        return exit_code
    return 0


@contextmanager
def _one_voice() -> Iterator[None]:
    """Let rank 0 alone write to standard output, and log, where several processes do one command."""
    if is_main():
        yield
        return
    log = logging.getLogger("llm_jepa")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            yield
    finally:
        log.setLevel(level)


def _check_launch(arguments: argparse.Namespace) -> None:
    """Refuse to do as often as there are processes what one does: only some commands share their work out."""
    if num_launched() > 1 and arguments.command not in (_train, _evaluate):
        raise told(
            ConfigError(
                f"{num_launched()} processes were started for one command, which only train and evaluate share out. "
                "Start it without torchrun or accelerate launch; `compare` takes --workers."
            )
        )


def _print_parting(word: str) -> None:
    if is_main():
        print(f"{word} What was written is kept; the same command goes on from there.", file=sys.stderr)


@contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    """Turn SIGTERM into SystemExit(143), which runs every `finally` on its way: no file stays half written."""

    def stop(*_: object) -> NoReturn:
        raise SystemExit(TERMINATED)

    if threading.current_thread() is not threading.main_thread():  # Python sets handlers in the main thread only
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _describe(error: LLMJEPAError | OSError) -> tuple[str, int]:
    """Return what to print of an error, and the exit code."""
    if isinstance(error, LLMJEPAError):
        return str(error), error.exit_code
    name = error.filename2 or error.filename  # of a renaming, the target: the other name is ours
    where = f"{name}: " if name else ""
    problem = (error.strerror or str(error)).rstrip(".")
    exit_code = ConfigError.exit_code if error.errno in WRONG_PATH else LLMJEPAError.exit_code
    return f"{where}{problem}. What was written before is kept; --debug shows where this happened.", exit_code


# ---- commands: each returns what its last line holds ----


def _compare(arguments: argparse.Namespace) -> dict[str, Any]:
    from llm_jepa.experiments.compare import open_experiment, run_experiment
    from llm_jepa.experiments.results import format_table

    settings = _settings(arguments)
    if arguments.seeds is not None:
        settings["seeds"] = _numbers("--seeds", arguments.seeds)
    if arguments.workers is not None:
        settings["workers"] = arguments.workers
    folder = arguments.out or Path("runs") / Path(arguments.config).stem
    experiment = open_experiment(settings, folder, dry_run=arguments.dry_run)
    if arguments.dry_run:
        for note in experiment.notes:
            print(textwrap.fill(note, WIDTH))
        jobs, seeds = experiment.jobs, experiment.config.seeds
        print(f"{len(jobs):,} runs: {len(experiment.runs):,} arms x {len(seeds)} seeds", end="")
        more = experiment.most_runs - len(jobs)
        print(f", then at most {more:,} of {' and '.join(experiment.config.compare_at[1:])}" if more else "")
        for job in jobs:
            print(f"  {job.name}")
        return {"dry_run": True, "runs": [job.name for job in jobs], "most_runs": experiment.most_runs}
    results = run_experiment(experiment, progress=sys.stderr.isatty())
    print(format_table(results))
    print(f"\nReport: {folder / 'report.html'}")
    return {
        "out": str(folder),
        "metric": results["metric"],
        "arms": {arm: {"mean": values["mean"], "n": values["n"]} for arm, values in results["arms"].items()},
        "verdicts": {each["arm"]: each["verdict"] for each in results["comparisons"]},
        "chosen": {arm: grid["chosen"] for arm, grid in results["grids"].items()},
    }


def _report(arguments: argparse.Namespace) -> dict[str, Any]:
    from llm_jepa.experiments.compare import summarise
    from llm_jepa.experiments.results import format_markdown, format_table

    results = summarise(arguments.folder)
    print(format_markdown(results) if arguments.markdown else format_table(results))
    return {"out": str(arguments.folder), "verdicts": {each["arm"]: each["verdict"] for each in results["comparisons"]}}


def _train(arguments: argparse.Namespace) -> dict[str, Any]:
    from llm_jepa.experiments.run import train_run

    run, arm, seed = _one_run(arguments)
    name = Path(arguments.config).stem + (f"-{arm}" if arm else "")
    folder = arguments.out or Path("runs") / f"{name}-s{seed}"
    report = train_run(run, seed, folder, progress=sys.stderr.isatty())
    shown: dict[str, Any] = {
        key: report[key]
        for key in dict.fromkeys(("exact_match", "starts_with", run.evaluation.metric, "num_rows", "num_steps"))
        if key in report
    }
    return {"run_dir": str(folder), "seed": seed, **shown, "alarm": report["alarm"]}


def _one_run(arguments: argparse.Namespace) -> tuple[RunConfig, str | None, int]:
    """Return settings, arm and seed of the run that `train` does; the arm is None where the file has no arms.

    The file may be one for `compare`: of its arms and seeds, those that are not chosen are chosen here, and said.
    """
    from llm_jepa.experiments.settings import ExperimentConfig, nearest, read_experiment, read_run

    settings = _settings(arguments)
    if arguments.allow_changed:
        settings["allow_changed"] = [*(settings.get("allow_changed") or []), *arguments.allow_changed]
    seed = settings.pop("seed", None)  # the config.yaml of a run has one
    own = {key: value for key, value in settings.items() if key in ExperimentConfig.__dataclass_fields__}
    arm = arguments.arm
    if arm is None and not {"arms", "grid"} & own.keys():
        experiment = read_experiment(own)[0]
        run = read_run(_without_experiment(settings))
    else:
        experiment, runs = read_experiment(settings)
        if (arm := arm or "jepa") not in runs:
            raise ConfigError(f"--arm {arm}: the arms are {', '.join(runs)}.{nearest(arm, runs)} Name one of them.")
        run = runs[arm]
    if arguments.seed is not None or seed is None:
        seed = experiment.seeds[0] if arguments.seed is None else arguments.seed
    if arguments.arm is None and arm and is_main():
        print(f"train  arm {arm} of {', '.join(experiment.arms)}; --arm names another", file=sys.stderr)
    return run, arm, _checked_seed(seed)


def _evaluate(arguments: argparse.Namespace) -> dict[str, Any]:
    from llm_jepa.evaluation.evaluate import evaluate
    from llm_jepa.evaluation.loading import load_run
    from llm_jepa.files import write_json_lines

    join()
    run = load_run(arguments.run)
    if arguments.predictions:  # before the work, so that a wrong path costs nothing
        arguments.predictions.parent.mkdir(parents=True, exist_ok=True)
    settings = _evaluation_settings(arguments, run.evaluation)
    metrics, records = evaluate(
        run.jepa, run.encoder, run.rows(arguments.data), settings, progress=sys.stderr.isatty() and is_main()
    )
    if arguments.predictions:
        on_main(write_json_lines, arguments.predictions, records)
    retrieval = metrics["retrieval"]
    print(f"{metrics['num_rows']:,} rows of {arguments.data}")
    print(f"exact match {metrics['exact_match']:.1%} | starts with {metrics['starts_with']:.1%}")
    for name in (name for name in settings.reported if name not in ("exact_match", "starts_with")):
        unknown, errors = metrics["num_unknown"][name], metrics["num_gold_errors"][name]
        print(f"{name} {metrics[name]:.1%} | unknown {unknown:,} | gold answers that cannot be used {errors:,}")
    print(f"retrieval among {retrieval['num_candidates']:,.0f} codes: recall@1 {retrieval['recall@1']:.1%} | ", end="")
    print(f"recall@10 {retrieval['recall@10']:.1%} | mrr {retrieval['mrr']:.3f}")
    return {"run_dir": str(arguments.run), "data": arguments.data, **metrics}


def _evaluation_settings(arguments: argparse.Namespace, own: EvaluationConfig) -> EvaluationConfig:
    """Return a run's settings with the scorers that the call adds."""
    from dataclasses import replace

    try:
        return replace(own, scorers=[*own.scorers, *arguments.scorer], databases=arguments.databases or own.databases)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _generate(arguments: argparse.Namespace) -> dict[str, Any]:
    from llm_jepa.evaluation.loading import load_run

    output = load_run(arguments.run).generate(arguments.text)
    print(output)
    return {"text": arguments.text, "output": output}


def _retrieve(arguments: argparse.Namespace) -> dict[str, Any]:
    from llm_jepa.data.generated import with_files
    from llm_jepa.data.inspect import escape
    from llm_jepa.evaluation.loading import load_run

    run = load_run(arguments.run)
    file = arguments.data or with_files(run.data, arguments.run / "data").test_file
    if file is None:
        raise ConfigError("This run has no test_file to take candidates from. Name a file with --data.")
    found = run.retrieve(arguments.text, run.rows(file), arguments.num)
    for cosine, code in found:
        print(f"{cosine:7.4f}  {escape(code)}")  # one line a code, whatever is in it
    return {"text": arguments.text, "candidates": file, "found": [{"cosine": c, "code": code} for c, code in found]}


def _analyze(arguments: argparse.Namespace) -> dict[str, Any]:
    from llm_jepa.analysis.runs import AnalysisConfig, analyze_runs
    from llm_jepa.analysis.tables import format_geometry, summary, write_geometry
    from llm_jepa.report.geometry_figures import plot_geometry

    if arguments.data and arguments.split:
        raise ConfigError("--data and --split both say which rows are read. Name one of them.")
    chosen = {
        "file": arguments.data,
        "split": arguments.split,
        "num_pairs": arguments.num,
        "reading": arguments.view,
        "ridge": arguments.ridge,
        "seed": arguments.seed,
    }
    config = AnalysisConfig(**{key: value for key, value in chosen.items() if value is not None})
    folder = arguments.out or arguments.runs[0].resolve().parent / "geometry"
    folder.mkdir(parents=True, exist_ok=True)  # before the work, so that a wrong path costs nothing
    geometry = analyze_runs(arguments.runs, config)
    write_geometry(geometry, folder)
    plot_geometry(geometry, folder)
    print(format_geometry(geometry))
    for note in geometry["notes"]:
        print()
        _print_hanging("note  ", note)
    print(f"\nFigures: {folder / 'embedding_map_enc.png'}, {folder / 'singular_values.png'}")
    return {
        "out": str(folder),
        **{key: geometry[key] for key in ("split", "file", "num_pairs", "num_codes", "reading", "ridge", "seed")},
        "runs": summary(geometry),
    }


def _export(arguments: argparse.Namespace) -> dict[str, Any]:
    from llm_jepa.report.run_export import is_run
    from llm_jepa.training.nanogpt_export import export

    if is_run(arguments.source) and arguments.to.suffix != ".pt":
        return _export_run(arguments)
    if arguments.merge:
        raise ConfigError("--merge is for the folder of a run that trained LoRA, written to a folder.")
    done = export(arguments.source, arguments.to, force=arguments.force)
    _print_hanging("wrote  ", f"{done['out']}: {done['parameters']:,} parameters, [PRED] {done['pred_token']}")
    if done["format"] == "transformers":
        _print_hanging("load   ", f'AutoModelForCausalLM.from_pretrained("{done["out"]}")')
        _print_hanging("note   ", "No tokenizer is in the folder: nanoGPT checkpoints hold none.")
    else:
        how = "--init_from=resume and --out_dir set to its folder, where they look for the name ckpt.pt, and the import"
        _print_hanging("load   ", f"nanoGPT's train.py or sample.py, with {how}")
        _print_hanging("       ", "from llm_jepa.nanogpt import GPTConfig, GPT")
        _print_hanging("note   ", "No tokenizer is in the file: nanoGPT checkpoints hold none.")
    return done


def _export_run(arguments: argparse.Namespace) -> dict[str, Any]:
    from llm_jepa.report.run_export import export_run

    exported = export_run(arguments.source, arguments.to, merge=arguments.merge, force=arguments.force)
    print(exported.pop("python"))
    print()
    print("\n".join(exported.pop("serve")))
    return exported


def _data_make(arguments: argparse.Namespace) -> dict[str, Any]:
    from llm_jepa.data.nlrx import generate_pairs, generate_transfer, generate_views, write_jsonl

    files = {arguments.out: arguments.num}
    if arguments.out == arguments.test_out:
        raise ConfigError(f"--out and --test-out are both {arguments.out}. Name two files.")
    if (arguments.test_out is None) != (arguments.num_test is None):
        raise ConfigError("--test-out and --num-test belong together: where the test rows go, and how many.")
    phrasing = arguments.phrasing
    made: dict[Path, Any]
    if arguments.test_out and phrasing == "both":
        raise ConfigError("--phrasing both makes view pairs, which have no regex to test on. Leave --test-out out.")
    if arguments.test_out:
        rows = generate_transfer(arguments.num, 0, arguments.num_test, arguments.seed, test_phrasing=phrasing)
        made = {arguments.out: rows["train"], arguments.test_out: rows["test"]}
        files[arguments.test_out] = arguments.num_test
    elif phrasing == "both":
        made = {arguments.out: generate_views(arguments.num, arguments.seed)}
    else:
        made = {arguments.out: generate_pairs(arguments.num, arguments.seed, phrasing=phrasing)}
    for path in made:
        if path.exists() and not arguments.force:
            raise ConfigError(f"{path} is there already. Choose another name, or write over it with --force.")
    for path, pairs in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_jsonl(pairs, path)
    return {"files": {str(path): count for path, count in files.items()}, "seed": arguments.seed}


def _data_inspect(arguments: argparse.Namespace) -> dict[str, Any]:
    from llm_jepa.data.inspect import inspect_rows
    from llm_jepa.data.loading import load_data
    from llm_jepa.experiments.settings import read_run

    settings = dict(_overrides(arguments)) | {"train_file": arguments.file, "validation_size": 0}
    if arguments.config:
        settings = _without_experiment(_read_settings(arguments.config)) | settings
        settings |= {"test_file": None, "validation_file": None}
    run = read_run(settings)
    data = load_data(run.data, run.jepa)
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    print(inspect_rows(data.train, data.tokenizer, run.jepa, num_rows=arguments.rows, colour=colour))
    if len(data.views):
        print(f"\nRows of views_file, {run.data.views_ratio:g} for each row above:\n")
        print(inspect_rows(data.views, data.tokenizer, run.jepa, num_rows=arguments.rows, colour=colour))
    for note in data.notes:
        print(textwrap.fill(note, WIDTH))
    views = {"views": data.summary["views"]} if "views" in data.summary else {}
    return {"file": arguments.file, **data.summary["train"], **views, "vocab_size": data.summary["vocab_size"]}


def _data_check(arguments: argparse.Namespace) -> dict[str, Any]:
    from llm_jepa.data.checks import check_files
    from llm_jepa.experiments.settings import read_run

    found = check_files(arguments.train, arguments.test, read_run(dict(_overrides(arguments))).data)
    print(f"train {found['train_rows']:,} rows | test {found['test_rows']:,} rows")
    print(f"{found['leaked_pairs']:,} test pairs stand in train too; {found['leaked_codes']:,} test codes do")
    print(f"{found['duplicate_rows']:,} training rows repeat an earlier one")
    for leak in found["first_leaks"]:
        _print_hanging("  leak       ", f"{leak['test']} = {leak['train']}")
    for repeat in found["first_duplicates"]:
        _print_hanging("  duplicate  ", f"{repeat['row']} = {repeat['repeats']}")
    if arguments.max_leak is not None and found["leaked_pairs"] > arguments.max_leak:
        _print_json(found)
        raise SystemExit(CheckFailedError.exit_code)
    return found


def _annotate(arguments: argparse.Namespace) -> dict[str, Any]:
    from llm_jepa.report.pdf_notes import annotate_pdf, read_notes

    if arguments.out.exists() and arguments.out.resolve() == Path(arguments.notes).resolve():
        raise ConfigError(f"--out {arguments.out} is the file of notes, which stays as it is. Choose another name.")
    result = annotate_pdf(
        arguments.file,
        read_notes(arguments.notes),
        arguments.out,
        force=arguments.force,
        skip_missing=arguments.skip_missing,
        max_seconds=arguments.max_seconds,
        max_memory_mib=arguments.max_memory,
    )
    if result["skipped"]:
        pages = ", ".join(map(str, result["skipped"]))
        skipped = f"Skipped {len(result['skipped'])} notes on pages that the file does not have: {pages}"
        print(_wrapper().fill(skipped), file=sys.stderr)
    counts = f"{result['notes']} notes | {result['pages']} pages, {result['inserted_pages']} of them inserted"
    print(f"{counts} | {result['bands']} pages grew to make room")
    return result


def _env(arguments: argparse.Namespace) -> dict[str, Any]:
    from llm_jepa.experiments.environment import describe_environment

    environment = describe_environment()
    for name, value in environment.items():
        pairs = [f"{key} {each}" for key, each in value.items()] if isinstance(value, dict) else []
        shown = ", ".join(pairs) if pairs else " ".join(value) if isinstance(value, list) else str(value)
        _print_hanging(f"{name:13}", shown)
    return environment


def _config(arguments: argparse.Namespace) -> dict[str, Any]:
    from llm_jepa.experiments.settings import PARTS, ExperimentConfig, describe_fields

    rows = describe_fields([ExperimentConfig, *PARTS.values()])
    for name, default, text in rows:
        print(f"{name}: {default}")
        print(textwrap.fill(text, WIDTH, initial_indent="    ", subsequent_indent="    "))
    return {"keys": len(rows), "also": "every other field of transformers.TrainingArguments by its own name"}


# ---- parsing ----


class _Parser(argparse.ArgumentParser):
    """argparse with our error messages, and no abbreviated flags: `--seed` is not `--seeds`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        _print_error(f"{message}. `{self.prog} --help` says more.")
        raise SystemExit(ConfigError.exit_code)


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def _text(text: str) -> str:
    """Return a text view of the command line; one without a token, or that is not UTF-8, has no embedding."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty; expected a text such as 'lines with a number'")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("it is not valid UTF-8") from None
    return text


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="llm-jepa",
        description="Train language models with LLM-JEPA, and learn honestly whether it helped.",
        epilog="`llm-jepa config` lists the keys of a CONFIG.yaml. Exit codes: 0 done, 1 the work failed, 2 the call, "
        "the config or the data was wrong, 3 a requested check failed, 130 interrupted, 143 stopped.",
    )
    parser.add_argument("--version", action="version", version=f"llm-jepa {__version__}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks and the log of transformers")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    compare = _add(commands, "compare", _compare, "train several arms with several seeds and compare them")
    _add_config(compare)
    compare.add_argument("--out", type=Path, metavar="DIR", help="folder of the experiment (runs/<config>)")
    compare.add_argument("--seeds", metavar="82,23,37", help="seeds, paired over the arms")
    compare.add_argument("--workers", type=int, metavar="N", help="runs at the same time")
    compare.add_argument(
        "--dry-run", action="store_true", help="check settings and data, print the runs, do none of them"
    )

    train = _add(commands, "train", _train, "train one arm with one seed")
    _add_config(train)
    train.add_argument("--arm", metavar="NAME", help="arm of the config, or a built-in one (jepa)")
    train.add_argument("--out", type=Path, metavar="DIR", help="folder of the run (runs/<config>-s<seed>)")
    train.add_argument(
        "--allow-changed",
        action="append",
        default=[],
        metavar="KEY",
        help="go on although KEY differs; may be repeated",
    )
    train.add_argument("--seed", type=int, metavar="N", help="seed of weights, order and dropout (the config's first)")

    report = _add(commands, "report", _report, "rebuild an experiment's tables and figures from its run folders")
    report.add_argument("folder", type=Path, metavar="DIR", help="folder of the experiment")
    report.add_argument("--markdown", action="store_true", help="print the table as Markdown")

    evaluate = _add(commands, "evaluate", _evaluate, "score a finished run on a file")
    evaluate.add_argument("run", type=Path, metavar="RUN", help="folder of the run")
    evaluate.add_argument("--data", required=True, metavar="FILE", help="rows to score on")
    evaluate.add_argument("--predictions", type=Path, metavar="FILE", help="write every answer there")
    evaluate.add_argument(
        "--scorer",
        action="append",
        default=[],
        metavar="NAME",
        help="score by this too (docs/scorers.md); may be repeated",
    )
    evaluate.add_argument("--databases", metavar="DIR", help="SQLite files for the scorer sql")

    generate = _add(commands, "generate", _generate, "answer one text")
    generate.add_argument("run", type=Path, metavar="RUN", help="folder of the run")
    generate.add_argument("text", type=_text, help="the text view")

    retrieve = _add(commands, "retrieve", _retrieve, "find the codes nearest to one text")
    retrieve.add_argument("run", type=Path, metavar="RUN", help="folder of the run")
    retrieve.add_argument("text", type=_text, help="the text view")
    retrieve.add_argument("--data", metavar="FILE", help="rows whose codes are searched (the run's test rows)")
    retrieve.add_argument("--num", type=_positive, default=RETRIEVED, metavar="N", help="codes to show")

    _add_analyze(commands)
    _add_annotate(commands)
    export = _add(commands, "export", _export, "write the model of a run as a plain folder; or convert nanoGPT's")
    export.add_argument("source", type=Path, metavar="SOURCE", help="a run; or a ckpt.pt, or a GPT-2 folder")
    export.add_argument("--to", type=Path, required=True, metavar="DEST", help="the folder, or the .pt file, to write")
    export.add_argument("--merge", action="store_true", help="merge the LoRA adapter of a run into its model")
    export.add_argument("--force", action="store_true", help="write over an earlier export")

    _add_data(commands)
    _add(commands, "env", _env, "show versions and hardware")
    _add(commands, "config", _config, "list the keys of a CONFIG.yaml")
    return parser


def _add_analyze(commands: Any) -> None:
    analyze = _add(commands, "analyze", _analyze, "measure the geometry of both views, for runs side by side")
    analyze.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run; several are compared")
    analyze.add_argument("--data", metavar="FILE", help="rows to look at, the same for all runs")
    analyze.add_argument("--split", choices=["test", "validation", "train"], help="rows of the runs' own (test)")
    analyze.add_argument("--num", type=_positive, metavar="N", help="pairs to look at, drawn by --seed (2000, or all)")
    analyze.add_argument(
        "--view",
        choices=["training", "published"],
        help="where views are read: as trained (default), or at the token before an answer, without [PRED]",
    )
    analyze.add_argument("--ridge", type=float, metavar="R", help="ridge of the linear map (0: least squares)")
    analyze.add_argument("--seed", type=int, metavar="S", help="seed of the draw, of shuffling and of t-SNE (0)")
    analyze.add_argument("--out", type=Path, metavar="DIR", help="folder to write (geometry/ beside the first RUN)")


def _add_annotate(commands: Any) -> None:
    annotate = _add(commands, "annotate", _annotate, "write reading notes onto a paper's PDF, in a copy of it")
    annotate.add_argument("file", type=Path, metavar="IN.pdf", help="the PDF, which is only read")
    annotate.add_argument("--notes", required=True, metavar="NOTES.yaml", help="the notes, or llm-jepa-v1: ours")
    annotate.add_argument("--out", type=Path, required=True, metavar="OUT.pdf", help="the file to write")
    annotate.add_argument("--force", action="store_true", help="write over a file that is there")
    annotate.add_argument("--skip-missing", action="store_true", help="leave out notes on pages that are not there")
    annotate.add_argument("--max-seconds", type=_positive, default=8, metavar="S", help="time for the work (8)")
    annotate.add_argument("--max-memory", type=_positive, default=448, metavar="MIB", help="memory for it (448)")


def _add_data(commands: Any) -> None:
    data = commands.add_parser("data", help="make, inspect and check data").add_subparsers(
        required=True, metavar="COMMAND"
    )
    make = _add(data, "make", _data_make, "generate pairs")
    make.add_argument("kind", choices=["nlrx"], help="nlrx: descriptions and regular expressions")
    make.add_argument("--out", type=Path, required=True, metavar="FILE", help="the file to write")
    make.add_argument("--num", type=int, required=True, metavar="N", help="number of pairs")
    make.add_argument("--seed", type=int, default=0, metavar="S", help="seed; the same gives the same file")
    make.add_argument("--test-out", type=Path, metavar="FILE", help="also test pairs, whose codes are not in FILE")
    make.add_argument("--num-test", type=int, metavar="N", help="number of test pairs")
    make.add_argument(
        "--phrasing",
        choices=["plain", "colloquial", "both"],
        default="plain",
        help="words of the descriptions (with --test-out, of the test pairs); both: pairs of two phrasings, no regex",
    )
    make.add_argument("--force", action="store_true", help="write over a file that is there")

    inspect = _add(data, "inspect", _data_inspect, "show rows as the model sees them")
    inspect.add_argument("file", metavar="FILE", help="a file of rows")
    inspect.add_argument("--config", metavar="CONFIG.yaml", help="settings to read it with")
    inspect.add_argument("--rows", type=_positive, default=3, metavar="N", help="rows to show")
    _add_set(inspect)

    check = _add(data, "check", _data_check, "find duplicates, and test pairs that leaked into train")
    check.add_argument("train", metavar="TRAIN", help="a file of rows")
    check.add_argument("test", metavar="TEST", help="a file of rows")
    check.add_argument("--max-leak", type=int, metavar="N", help="exit with 3 if more test pairs than this leaked")
    _add_set(check)


def _add(commands: Any, name: str, command: Callable[[argparse.Namespace], Any], text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(command=command)
    # Also behind the command, where people write it. The default is left to the one before the command.
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks")
    return parser


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG.yaml", help="settings; `llm-jepa config` lists the keys")
    _add_set(parser)


def _add_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set", action="append", default=[], metavar="key=value", help="override one key; may be repeated"
    )


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    return _read_settings(arguments.config) | dict(_overrides(arguments))


def _read_settings(path: str) -> dict[str, Any]:
    from llm_jepa.experiments.settings import read_yaml

    return read_yaml(path)


def _without_experiment(settings: dict[str, Any]) -> dict[str, Any]:
    from llm_jepa.experiments.settings import ExperimentConfig

    return {key: value for key, value in settings.items() if key not in ExperimentConfig.__dataclass_fields__}


def _overrides(arguments: argparse.Namespace) -> list[tuple[str, Any]]:
    from llm_jepa.experiments.settings import parse_override

    return [parse_override(text) for text in arguments.set]


def _numbers(flag: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"{flag} {text!r}: expected whole numbers, such as {flag} 82,23,37.") from None


def _checked_seed(seed: Any) -> int:
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ConfigError(f"seed={seed!r}: expected a whole number from 0 to 2**32 - 1.")
    return seed


# ---- printing ----


def _print_json(result: dict[str, Any]) -> None:
    """Print the last line; what is nan or infinite, which JSON does not have, is null."""
    result = json.loads(json.dumps(result), parse_constant=lambda _: None)
    print(json.dumps(result, ensure_ascii=False), flush=True)


def _print_hanging(label: str, text: str) -> None:
    """Print a label with its text beside it, at most `WIDTH` columns wide where the words allow it."""
    wrap = _wrapper(initial_indent=label, subsequent_indent=" " * len(label))
    print(wrap.fill(text))


def _print_error(message: str) -> None:
    first, *rest = message.split("\n")
    wrap = _wrapper(initial_indent="llm-jepa: ")
    print(wrap.fill(first), file=sys.stderr)
    for line in rest:
        print(line, file=sys.stderr)


def _wrapper(**options: Any) -> textwrap.TextWrapper:
    """Return what wraps text but leaves paths in one piece, which a terminal can then open."""
    return textwrap.TextWrapper(WIDTH, break_long_words=False, break_on_hyphens=False, **options)


def _be_quiet(debug: bool) -> None:
    """Log our own lines to standard error, and leave the libraries' chatter and telemetry out."""
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
    logging.getLogger("llm_jepa").setLevel(logging.DEBUG if debug else logging.INFO)
    for name in ("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        os.environ.setdefault(name, "1")
    if debug:
        return
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    for name in (
        "huggingface_hub",
        "datasets",
        "httpx",
        "bitsandbytes",
    ):  # of every retry of a hub that is not there, say
        logging.getLogger(name).setLevel(logging.ERROR)
    import warnings

    warnings.filterwarnings("ignore", module="torch|transformers|accelerate")
