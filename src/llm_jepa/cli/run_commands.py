"""Commands that use a finished run: `evaluate`, `generate`, `embed`, `retrieve`, `analyze`, `export`."""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import TYPE_CHECKING, Any

from llm_jepa.errors import ConfigError
from llm_jepa.files import expanded
from llm_jepa.processes import is_main, join, on_main

from .parsing import Command, add_command, positive, text_view, utf8
from .printing import print_hanging

if TYPE_CHECKING:
    from llm_jepa.data.context import Context

# The options of `analyze` that do not have the name of their field of AnalysisConfig.
RENAMED = {"file": "data", "num_pairs": "num", "reading": "view"}


def register(commands: Any) -> None:
    """Add the commands of this module to the parser."""
    evaluate = add_command(commands, "evaluate", _evaluate, "score a finished run on a file", shared_out=True)
    evaluate.add_argument("run", type=expanded, metavar="RUN", help="folder of the run")
    evaluate.add_argument("--data", required=True, metavar="FILE", help="rows to score on")
    evaluate.add_argument("--predictions", type=expanded, metavar="FILE", help="write every answer to this file")
    text = "also score by this (docs/scorers.md); may be repeated"
    evaluate.add_argument("--scorer", action="append", default=[], metavar="NAME", help=text)
    evaluate.add_argument("--databases", metavar="DIR", help="SQLite files for the scorer sql")

    _add_asking(commands, "generate", _generate, "answer one text")

    embed = add_command(commands, "embed", _embed, "write the embeddings of a file's texts or codes", main_file="{out}")
    embed.add_argument("run", type=expanded, metavar="RUN", help="folder of the run")
    embed.add_argument("file", metavar="FILE", help="pairs, or rows with one column")
    embed.add_argument("--out", type=expanded, required=True, metavar="FILE", help="the .parquet or .npy file to write")
    embed.add_argument("--side", choices=["text", "code"], default="text", help="the side that is embedded (text)")
    embed.add_argument("--column", metavar="NAME", help="column of FILE that holds this side")
    embed.add_argument("--batch-size", type=positive, default=128, metavar="N", help="rows in one forward pass (128)")
    embed.add_argument("--force", action="store_true", help="overwrite an existing file")

    retrieve = _add_asking(commands, "retrieve", _retrieve, "find the codes nearest to one text")
    retrieve.add_argument("--data", metavar="FILE", help="pairs, or only codes, to search (the run's test rows)")
    retrieve.add_argument("--column", metavar="NAME", help="column of --data that holds the codes")
    retrieve.add_argument("--num", type=positive, default=5, metavar="N", help="codes to show")

    _add_analyze(commands)
    text = "write the model of a run as a plain folder; or convert a GGUF file or a nanoGPT checkpoint"
    export = add_command(commands, "export", _export, text, main_file="{out}")
    text = "a run; or a .gguf file, a ckpt.pt, or a GPT-2 folder"
    export.add_argument("source", type=expanded, metavar="SOURCE", help=text)
    export.add_argument("--to", type=expanded, required=True, metavar="DEST", help="the folder or .pt file to write")
    text = "the format: a transformers folder (model), or the run's embedding as a folder for "
    text += "sentence-transformers (encoder); gguf explains how to make a GGUF file"
    export.add_argument("--as", dest="kind", choices=["model", "encoder", "gguf"], default="model", help=text)
    export.add_argument("--merge", action="store_true", help="merge the LoRA adapter of a run into its model")
    export.add_argument("--force", action="store_true", help="overwrite an earlier export")


def _add_asking(commands: Any, name: str, command: Command, text: str) -> argparse.ArgumentParser:
    """Add a command that asks a run one text."""
    parser = add_command(commands, name, command, text)
    parser.add_argument("run", type=expanded, metavar="RUN", help="folder of the run")
    parser.add_argument("text", type=text_view, help="the text view")
    system = "system message instead of the default, the one that all training rows have; '' for none"
    parser.add_argument("--system", type=utf8, metavar="TEXT", help=system)
    return parser


def _add_analyze(commands: Any) -> None:
    text = "measure the geometry of both views, for one run or several"
    analyze = add_command(commands, "analyze", _analyze, text, main_file="{out}/report.html")
    analyze.add_argument("runs", type=expanded, nargs="+", metavar="RUN", help="folder of a run; several are compared")
    analyze.add_argument("--data", dest="file", metavar="FILE", help="rows to measure on, the same for all runs")
    analyze.add_argument("--split", choices=["test", "validation", "train"], help="the runs' own rows to use (test)")
    text = "pairs to use, drawn by --seed (2000, or all)"
    analyze.add_argument("--num", dest="num_pairs", type=positive, metavar="N", help=text)
    text = "where views are read: as in training (default), or at the token before an answer, without [PRED]"
    analyze.add_argument("--view", dest="reading", choices=["training", "published"], help=text)
    analyze.add_argument("--ridge", type=float, metavar="R", help="ridge of the linear map (0: least squares)")
    analyze.add_argument("--seed", type=int, metavar="S", help="seed of the draw, of shuffling and of t-SNE (0)")
    text = "folder to write (geometry/ next to the first RUN)"
    analyze.add_argument("--out", type=expanded, metavar="DIR", help=text)


def _evaluate(arguments: argparse.Namespace) -> dict[str, Any]:
    from dataclasses import replace

    from llm_jepa.evaluation.evaluate import check_golds, evaluate
    from llm_jepa.files import write_json_lines
    from llm_jepa.runs.trained_run import load_run

    join()
    run = load_run(arguments.run)
    if arguments.predictions:  # before the work, so that a wrong path is found early
        arguments.predictions.parent.mkdir(parents=True, exist_ok=True)
    own, databases = run.evaluation, arguments.databases or run.evaluation.databases
    settings = replace(own, scorers=[*own.scorers, *arguments.scorer], databases=databases)
    rows = run.rows(arguments.data)
    for note in check_golds(run.encoder, rows, settings, "given"):  # before the answers, which take long
        print_hanging("note  ", note)
    metrics, records = evaluate(run.jepa, run.encoder, rows, settings, progress=sys.stderr.isatty() and is_main())
    if arguments.predictions:
        on_main(write_json_lines, arguments.predictions, records)
    retrieval = metrics["retrieval"]
    print(f"{metrics['num_rows']:,} rows of {arguments.data}")
    print(f"exact match {metrics['exact_match']:.1%} | starts with {metrics['starts_with']:.1%}")
    for name in (name for name in settings.reported if name not in ("exact_match", "starts_with")):
        unknown, errors = metrics["num_unknown"][name], metrics["num_gold_errors"][name]
        print(f"{name} {metrics[name]:.1%} | unknown {unknown:,} | gold answers that cannot be used {errors:,}")
    if metrics["num_empty"]:
        print(f"{metrics['num_empty']:,} answers are empty")
    if retrieval["num_queries"]:
        print(f"retrieval among {retrieval['num_candidates']:,.0f} codes: recall@1 {retrieval['recall@1']:.1%}", end="")
        print(f" | recall@10 {retrieval['recall@10']:.1%} | mrr {retrieval['mrr']:.3f}")
    else:
        print("retrieval: not measured, because no row has a JEPA term (use_jepa is false in all)")
    if arguments.predictions:
        print_hanging("Main file: ", str(arguments.predictions))
    return {"run_dir": str(arguments.run), "data": arguments.data, **metrics}


def _generate(arguments: argparse.Namespace) -> dict[str, Any]:
    from llm_jepa.runs.trained_run import load_run

    run = load_run(arguments.run)
    output = run.generate(arguments.text, system=arguments.system)
    print(output)
    if not output.strip():
        print("note   the answer is empty: the model generates the end token first", file=sys.stderr)
    return {"text": arguments.text, "system": _system(arguments, run.context), "output": output}


def _system(arguments: argparse.Namespace, context: Context) -> str | None:
    """Return the system message that was sent, for the last line of the output."""
    return context.system if arguments.system is None else arguments.system or None


def _embed(arguments: argparse.Namespace) -> dict[str, Any]:
    from llm_jepa.evaluation.embed import check_out, write_embeddings
    from llm_jepa.evaluation.evaluate import view_texts
    from llm_jepa.runs.trained_run import load_run

    check_out(arguments.out, force=arguments.force)  # before the work
    run = load_run(arguments.run)
    rows = run.rows_of_side(arguments.file, arguments.side, arguments.column)
    embeddings = run.embed(rows, arguments.side, batch_size=arguments.batch_size, progress=sys.stderr.isatty())
    texts = [views[arguments.side == "code"] for views in view_texts(run.encoder, rows)]
    write_embeddings(arguments.out, embeddings, [each.source for each in rows.examples], texts)
    num, dim = embeddings.shape
    print_hanging("wrote  ", f"{arguments.out}: {num:,} embeddings of {dim:,} numbers, {arguments.side} side")
    if left_out := rows.rows_in - num:
        print_hanging("note   ", f"{left_out:,} of {rows.rows_in:,} rows are left out, by the run's settings (on_...).")
    return {"out": str(arguments.out), "side": arguments.side, "num": num, "dim": dim, "left_out": left_out}


def _retrieve(arguments: argparse.Namespace) -> dict[str, Any]:
    from llm_jepa.data.inspect import escape
    from llm_jepa.runs.trained_run import load_run

    run = load_run(arguments.run)
    if arguments.column and not arguments.data:
        text = "--column names a column of --data. Name a file with --data, or remove --column."
        raise ConfigError("setting_missing", text)
    file = arguments.data or run.test_file()
    if arguments.data:
        rows = run.rows_of_side(file, "code", arguments.column)
    else:
        rows = run.rows(file, limit=run.data.max_test_rows)
    found = run.retrieve(arguments.text, rows, arguments.num, system=arguments.system)
    for cosine, code in found:
        print(f"{cosine:7.4f}  {escape(code)}")  # one line a code, whatever is in it
    return {
        "text": arguments.text,
        "system": _system(arguments, run.context),
        "candidates": file,
        "found": [{"cosine": c, "code": code} for c, code in found],
    }


def _analyze(arguments: argparse.Namespace) -> dict[str, Any]:
    from llm_jepa.geometry.geometry_tables import format_geometry, summary, write_geometry
    from llm_jepa.geometry.runs_geometry import AnalysisConfig, analyze_runs
    from llm_jepa.report.geometry_report import write_analysis_report
    from llm_jepa.runs.environment import describe_environment

    if arguments.file and arguments.split:
        raise ConfigError("settings_conflict", "--data and --split both set the rows to read. Give one of them.")
    fields = AnalysisConfig.__dataclass_fields__
    given = {field: value for field in fields if (value := getattr(arguments, field)) is not None}
    config = AnalysisConfig(**given)
    options = [word for field, value in given.items() for word in (f"--{RENAMED.get(field, field)}", str(value))]
    command = shlex.join(["llm-jepa", "analyze", *map(str, arguments.runs), *options])
    folder = arguments.out or arguments.runs[0].resolve().parent / "geometry"
    folder.mkdir(parents=True, exist_ok=True)  # before the work, so that a wrong path is found early
    geometry = analyze_runs(arguments.runs, config)
    write_geometry(geometry, folder)
    write_analysis_report(geometry, folder, command, describe_environment())
    print(format_geometry(geometry))
    for note in geometry["notes"]:
        print()
        print_hanging("note  ", note)
    print()
    return {
        "out": str(folder),
        **{key: geometry[key] for key in ("split", "file", "num_pairs", "num_codes", "reading", "ridge", "seed")},
        "runs": summary(geometry),
    }


def _export(arguments: argparse.Namespace) -> dict[str, Any]:
    from llm_jepa.export.export_run import is_run
    from llm_jepa.nanogpt.convert import export

    if arguments.kind == "gguf":
        text = "llm-jepa cannot write GGUF files. Export the plain folder (with --merge for LoRA), and run llama.cpp's "
        raise ConfigError("format_not_writable", f"{text}script on it: python convert_hf_to_gguf.py DIR.")
    if is_run(arguments.source) and arguments.to.suffix != ".pt":
        return _export_run(arguments)
    if arguments.kind == "encoder":
        text = "--as encoder needs the folder of a run as SOURCE, and a folder as --to. Change both, or remove --as."
        raise ConfigError("settings_conflict", text)
    if arguments.merge:
        text = "--merge needs the folder of a run with LoRA as SOURCE, and a folder as --to. Change both, or remove it."
        raise ConfigError("settings_conflict", text)
    if arguments.source.suffix == ".gguf":
        return _export_gguf(arguments)
    done = export(arguments.source, arguments.to, force=arguments.force)
    print_hanging("wrote  ", f"{done['out']}: {done['parameters']:,} parameters, [PRED] {done['pred_token']}")
    what = "folder" if done["format"] == "transformers" else "file"
    note = f"No tokenizer is in the {what}: nanoGPT checkpoints hold none."
    if done["format"] == "transformers":
        print_hanging("load   ", f'AutoModelForCausalLM.from_pretrained("{done["out"]}")')
    elif done["format"] == "stock":
        how = "with --out_dir set to its folder, if it is called ckpt.pt"
        print_hanging("load   ", f"nanoGPT's sample.py as it is, {how}")
        note = "[PRED] is in the file beside it, where GPT.from_checkpoint finds it."
    else:
        how = "--init_from=resume and --out_dir set to its folder, where they look for the name ckpt.pt, and the import"
        print_hanging("load   ", f"nanoGPT's train.py or sample.py, with {how}")
        print_hanging("       ", "from llm_jepa.nanogpt import GPTConfig, GPT")
    print_hanging("note   ", note)
    return done


def _export_gguf(arguments: argparse.Namespace) -> dict[str, Any]:
    from llm_jepa.training.gguf_files import convert_gguf

    if arguments.force:
        text = "--force has no effect where a GGUF file is exported. Remove it, and choose a --to that does not exist."
        raise ConfigError("settings_conflict", text)
    done = convert_gguf(arguments.source, arguments.to)
    print_hanging("wrote  ", f"{done['out']}: {done['parameters']:,} parameters, with the tokenizer")
    for note in done["notes"]:
        print_hanging("note   ", note)
    return done


def _export_run(arguments: argparse.Namespace) -> dict[str, Any]:
    from llm_jepa.export.encoder_folder import export_encoder
    from llm_jepa.export.export_run import export_run

    if arguments.kind == "model":
        exported = export_run(arguments.source, arguments.to, merge=arguments.merge, force=arguments.force)
        print(exported.pop("python"), "", *exported.pop("serve"), sep="\n")
        return exported
    if arguments.merge:
        text = "--merge has no effect with --as encoder: an adapter is always merged. Remove --merge."
        raise ConfigError("setting_without_effect", text)
    exported = export_encoder(arguments.source, arguments.to, force=arguments.force)
    print(exported.pop("python"))
    print()
    print_hanging("checked  ", f"against the run's own embeddings: largest difference {exported['max_difference']:.1e}")
    return exported
