"""Commands on data: `data make`, `data split`, `data inspect`, `data check`."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_jepa.errors import CheckFailedError, ConfigError, DataError
from llm_jepa.files import expanded
from llm_jepa.standard_error import only_errors

from .parsing import add_command, add_set, overrides, positive, read_call, run_of, without_experiment
from .printing import print_closing, print_hanging

if TYPE_CHECKING:
    from llm_jepa.data.encoded_pairs import EncodedPairs
    from llm_jepa.runs.settings import RunConfig


def register(commands: Any) -> None:
    """Add the commands of this module to the parser."""
    data = commands.add_parser("data", help="make, split, inspect and check data")
    data = data.add_subparsers(required=True, metavar="COMMAND")
    make = add_command(data, "make", _data_make, "generate pairs")
    make.add_argument("kind", choices=["nlrx"], help="nlrx: descriptions and regular expressions")
    text = "the file to write; its ending says the format (.jsonl)"
    make.add_argument("--out", type=expanded, required=True, metavar="FILE", help=text)
    make.add_argument("--num", type=positive, required=True, metavar="N", help="number of pairs")
    make.add_argument("--seed", type=int, default=0, metavar="S", help="seed; the same seed gives the same file")
    text = "also write test pairs to this file; no code is in both"
    make.add_argument("--test-out", type=expanded, metavar="FILE", help=text)
    make.add_argument("--num-test", type=positive, metavar="N", help="number of test pairs")
    text = "style of the descriptions (with --test-out, only of the test pairs); both: pairs of two phrasings, no regex"
    make.add_argument("--phrasing", choices=["plain", "colloquial", "both"], default="plain", help=text)
    text = "share of each colloquial description that is in colloquial words; the rest is plain (default 1: all)"
    make.add_argument("--colloquial-share", type=float, default=1.0, metavar="X", help=text)
    make.add_argument("--force", action="store_true", help="overwrite an existing file")

    split = add_command(data, "split", _data_split, "split one file into train and test; equal pairs stay together")
    split.add_argument("file", metavar="FILE", help="a file of rows, a pattern, or a folder")
    split.add_argument("--num-test", type=positive, required=True, metavar="N", help="rows of the test file")
    text = "folder of the two files, train and test, in the format of FILE"
    split.add_argument("--out", type=expanded, required=True, metavar="DIR", help=text)
    split.add_argument("--seed", type=int, default=0, metavar="S", help="seed; another seed chooses other test rows")
    split.add_argument("--force", action="store_true", help="overwrite existing files")
    add_set(split)

    inspect = add_command(data, "inspect", _data_inspect, "show rows as the model sees them")
    inspect.add_argument("file", metavar="FILE", help="a file of rows")
    text = "settings to read FILE with; its training rows are shown as in training"
    inspect.add_argument("--config", metavar="CONFIG.yaml", help=text)
    inspect.add_argument("--arm", metavar="NAME", help="arm of the config whose rows are shown")
    inspect.add_argument("--rows", type=positive, default=3, metavar="N", help="rows to show")
    add_set(inspect)

    check = add_command(data, "check", _data_check, "find duplicates, leaks, and what training would refuse")
    check.add_argument("train", metavar="TRAIN", help="a file of rows")
    check.add_argument("test", metavar="TEST", help="a file of rows")
    check.add_argument("--config", metavar="CONFIG.yaml", help="settings to read them with")
    check.add_argument("--max-leak", type=int, metavar="N", help="exit with 3 if more test pairs than this leaked")
    add_set(check)


def _data_make(arguments: argparse.Namespace) -> dict[str, Any]:
    from llm_jepa.data.formats import check_ending, write_file
    from llm_jepa.data.nlrx import generate_pairs, generate_transfer, generate_views

    if arguments.out == arguments.test_out:
        raise ConfigError("file_repeated", f"--out and --test-out are both {arguments.out}. Name two files.")
    if (arguments.test_out is None) != (arguments.num_test is None):
        raise ConfigError("setting_missing", "--test-out and --num-test need each other. Give both, or neither.")
    phrasing, share = arguments.phrasing, arguments.colloquial_share
    if share != 1 and phrasing == "plain":
        text = "--colloquial-share needs colloquial rows. Add --phrasing colloquial or both, or remove it."
        raise ConfigError("setting_missing", text)
    made: dict[Path, Any]
    if arguments.test_out and phrasing == "both":
        text = "--phrasing both makes view pairs, which have no regex to test on. Remove --test-out and --num-test."
        raise ConfigError("settings_conflict", text)
    if arguments.test_out:
        options = {"test_phrasing": phrasing, "colloquial_share": share}
        rows = generate_transfer(arguments.num, 0, arguments.num_test, arguments.seed, **options)
        made = {arguments.out: rows["train"], arguments.test_out: rows["test"]}
    elif phrasing == "both":
        made = {arguments.out: generate_views(arguments.num, arguments.seed, colloquial_share=share)}
    else:
        made = {arguments.out: generate_pairs(arguments.num, arguments.seed, phrasing=phrasing, colloquial_share=share)}
    for path in made:
        check_ending(path)
        if path.exists() and not arguments.force:
            text = f"{path} exists already. Choose another name, or overwrite it with --force."
            raise ConfigError("file_exists", text)
    for path, pairs in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, map(asdict, pairs))
        print_hanging("wrote  ", f"{path}: {len(pairs):,} pairs")
    return {"files": {str(path): len(pairs) for path, pairs in made.items()}, "seed": arguments.seed}


def _data_split(arguments: argparse.Namespace) -> dict[str, Any]:
    from llm_jepa.data.splits import split_file
    from llm_jepa.runs.settings import read_run

    config = read_run(overrides(arguments)).data
    options = {"seed": arguments.seed, "force": arguments.force}
    made = split_file(arguments.file, arguments.num_test, arguments.out, config, **options)
    for name, count in made.items():
        print(f"{count:7,} rows  {arguments.out / name}")
    return {"out": str(arguments.out), "files": made, "seed": arguments.seed}


def _data_inspect(arguments: argparse.Namespace) -> dict[str, Any]:
    from llm_jepa.data.inspect import inspect_rows

    settings = read_call(arguments)
    if settings.get("train_file") is None:  # then the file itself is read as the training rows
        settings |= {"train_file": arguments.file, "validation_size": 0, "validation_file": None}
        settings |= {"test_file": None, "test_files": None}
    run, _, seed = run_of(settings, arguments.arm)
    rows, views, tokenizer, counts, notes = _inspected_rows(arguments.file, run, seed)
    shown = {"num_rows": arguments.rows, "colour": sys.stdout.isatty() and "NO_COLOR" not in os.environ}
    print(inspect_rows(rows, tokenizer, run.jepa, **shown))
    if views is not None:
        print(f"\nRows of views_file, {run.data.views_ratio:g} for each row above:\n")
        print(inspect_rows(views, tokenizer, run.jepa, **shown))
    for note in notes:
        print_hanging("", note)
    return {"file": arguments.file, **counts, "vocab_size": len(tokenizer)}


def _inspected_rows(file: str, run: RunConfig, seed: int) -> tuple[EncodedPairs, EncodedPairs | None, Any, Any, Any]:
    """Return the rows of a file as the run reads them, with its tokenizer, and view rows that are trained with them.

    Leaks and validation rows are left out of training rows, and the tokenizer is trained on the same rows as in a run.
    """
    from llm_jepa.data.prepare import load_data, load_rows
    from llm_jepa.data.shuffled_views import shuffle_code_views
    from llm_jepa.runs.build_trainer import pretrained_tokenizer

    with only_errors():  # the notes are printed after the rows
        data = load_data(run.data, run.jepa, pretrained_tokenizer(run))
    splits = {"validation": run.data.validation_file, "test": run.data.test_file, "views": run.data.views_file}
    splits |= {"train": run.data.train_files[0]} if len(run.data.train_files) == 1 else {}
    same = expanded(file).resolve()
    name = next((split for split, each in splits.items() if each and expanded(each).resolve() == same), None)
    if name is None:
        rows = load_rows(file, data.encoder)
        counts = {"rows_in": rows.rows_in, "kept": len(rows), "dropped": rows.dropped, "truncated": rows.truncated}
        return rows, None, data.tokenizer, counts, []
    rows, counts = getattr(data, name), data.summary[name]
    if run.data.shuffle_views and name in ("train", "views"):
        rows = replace(rows, pairs=shuffle_code_views(rows.pairs, seed))
    has_views = name == "train" and len(data.views) > 0
    if has_views:
        counts = counts | {"views": data.summary["views"]}
    return rows, data.views if has_views else None, data.tokenizer, counts, data.notes


def _data_check(arguments: argparse.Namespace) -> dict[str, Any]:
    from llm_jepa.data.data_check import check_files
    from llm_jepa.runs.settings import read_run

    settings = read_call(arguments, train_file=arguments.train, test_file=arguments.test, test_files=None)
    run = read_run(settings if arguments.config is None else without_experiment(settings))
    found = check_files(arguments.train, arguments.test, run.data)
    _print_check(found)
    data, refused = _loaded(run)
    if refused is not None:
        print_closing(found | {"refused": str(refused)}, "", as_json=arguments.json)
        raise refused
    training, found["epochs"] = run.training_arguments("unused"), None
    if training.max_steps > 0:  # then it decides how often one process sees each training row
        num_seen = training.max_steps * training.train_batch_size * training.gradient_accumulation_steps
        found["epochs"] = num_seen / len(data.train)
        epochs = f"max_steps={training.max_steps} is {found['epochs']:.2f} epochs. All arms see the same rows in the"
        few = "same order. Below 1 epoch some rows are never seen; with many epochs the model memorises rows."
        print_hanging("", f"{epochs} {few}")
    if arguments.max_leak is not None and found["leaked_pairs"] > arguments.max_leak:
        print_closing(found, "", as_json=arguments.json)
        raise SystemExit(CheckFailedError.exit_code)
    return found


def _loaded(run: RunConfig) -> tuple[Any, DataError | ConfigError | None]:
    """Return the data of a run, or the first error that training on these rows would raise."""
    from llm_jepa.data.prepare import load_data
    from llm_jepa.runs.build_trainer import check_answers, pretrained_tokenizer

    try:
        with only_errors():  # the notes on the rows were printed before
            data = load_data(run.data, run.jepa, pretrained_tokenizer(run))
            check_answers(run, data)
    except (DataError, ConfigError) as error:
        return None, error
    return data, None


PLACES = (
    ("leak", "first_leaks", "="),
    ("near leak", "first_leaks_normalised", "~"),
    ("duplicate", "first_duplicates", "="),
    ("near", "first_duplicates_normalised", "~"),
    ("conflict", "first_conflicts", "against"),
    ("conflict", "first_test_conflicts", "against"),
    ("conflict", "first_conflicts_normalised", "against"),
    ("conflict", "first_test_conflicts_normalised", "against"),
    ("alike", "first_near_rows", "~"),
    ("alike", "first_near_test_rows", "~"),
)


def _print_check(found: dict[str, Any]) -> None:
    """Print the counts of a check, their effect on a comparison, and the first places of each kind."""
    from llm_jepa.data.data_check import describe_findings

    print(f"train {found['train_rows']:,} rows | test {found['test_rows']:,} rows")
    for sentence, effect in describe_findings(found):
        print_hanging("", sentence)
        if effect:
            print_hanging("    ", effect)
    for source in found["first_empty"]:
        print_hanging("  empty      ", source)
    for label, key, word in PLACES:
        for one, other in (place.values() for place in found[key]):
            print_hanging(f"  {label:11}", f"{one} {word} {other}")
    if found["near_note"]:
        print_hanging("note  ", found["near_note"])
