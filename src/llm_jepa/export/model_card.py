"""The card of an exported model: what it is, its data and training, its results, its cost and its limits.

It is made from the files of the run folder and, if the run is part of an experiment, from the experiment's
results.json. It computes no result of its own, and names no path of the machine that it was made on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from huggingface_hub import ModelCardData

from llm_jepa import __version__
from llm_jepa.data.context import Context
from llm_jepa.experiments.results import Results
from llm_jepa.experiments.sentences import answer_of, comparison_sentences
from llm_jepa.progress import duration
from llm_jepa.report.content import splits_of
from llm_jepa.report.figures import OTHER_SCORES
from llm_jepa.report.markdown import bullets, escaped, fenced, table
from llm_jepa.report.terminal import outcome_rows, test_title
from llm_jepa.runs.folder import ExperimentFolder, RunFolder, run_name
from llm_jepa.yaml_loading import dump_yaml

from .serving import ENCODER, EVALUATOR, Exported, python_snippet, server_commands

MARK = "<!-- made by llm-jepa export -->"
NUM_LOOKS = 8

# Settings that name files; a card shows the last part of the name.
PATHS = (
    *("train_file", "validation_file", "test_file", "test_files", "views_file", "pseudo_label_gold_file"),
    *("model_name_or_path", "tokenizer_name_or_path", "databases", "plugins"),
)
CURVES = {
    "ce_loss": "cross-entropy",
    "jepa_loss": "JEPA distance",
    "eval_ce_loss": "held-out cross-entropy",
    "monitor/retrieval@1": "held-out retrieval@1",
}


def model_card(run: Path, model: Exported, name: str) -> str:
    """Return the card of a model as Markdown, with the header for the hub; `run` is the folder of a finished run."""
    if model.base is not None and Path(model.base).is_absolute():
        model = replace(model, base=_short_name(model.base))
    files = RunFolder(run)
    settings, report, data = files.settings(), files.evaluation(), files.data()
    results, run_folder = _experiment(run), run.resolve().name
    parts = [
        _header(model),
        MARK,
        f"# {escaped(name)}",
        _introduction(settings, model),
        "## Use",
        *_uses(model, name, Context(**data["context"])),
        _data(data),
        _training(files.environment(), settings, report),
        _curves(files.metrics() if files.metrics_file.is_file() else []),
        _results(report, results, run_folder),
        _cost(report, results, run_folder),
        _limits(settings, report, results, model),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _uses(model: Exported, name: str, context: Context) -> list[str]:
    if model.kind == "encoder":
        added = " The tokenizer adds what every training row has before the text." if context.messages else ""
        return [
            "`encode_query` is for what is asked (the text side), `encode_document` for what is searched (the code "
            "side). The two differ: give each text to the one that is meant for it. Both take the bare text, without "
            f"a chat template, prompt or `[PRED]`.{added} The similarity is the cosine.",
            "To find the code of a text:\n\n" + fenced(ENCODER.format(folder=name), "python"),
            "To measure retrieval, with `queries`, `corpus` (dictionaries of id and text) and `relevant_docs` (the "
            "ids of the right codes of each query):\n\n" + fenced(EVALUATOR.format(folder=name), "python"),
        ]
    return [
        _context(context),
        "As a program, with transformers alone:\n\n" + fenced(python_snippet(model, name), "python"),
        "As a server, and a request to it:\n\n" + fenced("\n".join(server_commands(model, name)), "sh"),
    ]


def _header(model: Exported) -> str:
    """Return the YAML header. It links a base model only if that is on the hub, not in a folder."""
    is_on_hub = model.base and not model.base.startswith((".", "~")) and model.base.count("/") == 1
    tags = ["lora"] if model.base else []
    library, task = "peft" if model.kind == "adapter" else "transformers", "text-generation"
    if model.kind == "encoder":
        library, task = "sentence-transformers", "sentence-similarity"
        tags = [library, "feature-extraction"]
    base = model.base if is_on_hub else None
    data = ModelCardData(library_name=library, pipeline_tag=task, tags=["llm-jepa", *tags], base_model=base)
    return f"---\n{data.to_yaml()}\n---"


def _introduction(settings: Mapping[str, Any], model: Exported) -> str:
    what = {
        "model": "A causal language model",
        "merged": "A causal language model, with its LoRA adapter merged in",
        "adapter": "A LoRA adapter of a causal language model",
        "encoder": "A text encoder, made of the layers of a causal language model",
    }[model.kind]
    source = settings.get("model_name_or_path")
    start = f"`{_short_name(source)}`" if source else f"random weights, preset `{settings.get('model', 'nano')}`"
    kept = " Its vocabulary and tokenizer are unchanged." if source and model.kind != "encoder" else ""
    how = "with LLM-JEPA ([arXiv 2509.14252](https://arxiv.org/abs/2509.14252))"
    if settings.get("jepa_lambda", 1.0) == 0:
        how = "on next-token prediction alone (`jepa_lambda: 0`)"
    return f"{what}, trained from {start} {how} by llm-jepa {__version__}.{kept}"


def _context(context: Context) -> str:
    """Return what all training rows have around a question; empty if there is nothing."""
    parts = []
    if context.messages:
        said = "\n".join(f"{message['role']}: {message['content']}" for message in context.messages)
        parts.append(f"Every training row has this before the question, and the lines below send it:\n\n{fenced(said)}")
    if context.system_differs:
        parts.append("The training rows have different system messages. The lines below send none: add yours.")
    for words, begins in ((context.text_prefix, "begins"), (context.text_suffix, "ends")):
        if words:
            parts.append(f"Every training text {begins} with these words, and yours should too:\n\n{fenced(words)}")
    return "\n\n".join(parts)


def _data(data: Mapping[str, Any]) -> str:
    rows = [["split", "rows kept", "rows read", "left out"]]
    for split, counts in splits_of(data.get("summary", {})).items():
        if counts.get("rows_in") and not split.startswith("views"):
            dropped = ", ".join(f"{count:,} {why}" for why, count in counts.get("dropped", {}).items()) or "none"
            rows.append([split, f"{counts['kept']:,}", f"{counts['rows_in']:,}", dropped])
    hashes = data.get("sha256", {})
    files = [f"- `{_code(PurePath(name).name)}`, sha256 `{value[:16]}`" for name, value in hashes.items()]
    notes = [f"- {escaped(note)}" for note in data.get("notes", [])]
    return "\n\n".join(["## Data", table(rows), "\n".join(files + notes)]).rstrip()


def _training(environment: Mapping[str, Any], settings: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    given = {key: value for key, value in settings.items() if value is not None}
    shown = {key: _short_names(value) if key in PATHS else value for key, value in given.items()}
    text = fenced(dump_yaml(shown, allow_unicode=True).rstrip(), "yaml")
    packages = environment.get("packages", {})
    versions = ", ".join(f"{key} {packages[key]}" for key in ("torch", "transformers", "peft") if packages.get(key))
    device = environment.get("device")
    where = f" on {escaped(str(environment['cpu'] if device == 'cpu' else device))}" if device else ""
    took = f"{report['num_steps']:,} steps{where}" + (f", with {versions}." if versions else ".")
    return f"## Training\n\nEvery setting that was given; all others have their default:\n\n{text}\n\n{took}"


def _curves(log: Sequence[Mapping[str, Any]]) -> str:
    """Return the curves as a table of a few steps. Each value is the last one logged up to that step."""
    steps = sorted({line["step"] for line in log if any(line.get(key) is not None for key in CURVES)})
    if not steps:
        return ""
    places = sorted({round(place * (len(steps) - 1) / (NUM_LOOKS - 1)) for place in range(NUM_LOOKS)})
    keys = [key for key in CURVES if any(line.get(key) is not None for line in log)]
    rows = [["step", *(CURVES[key] for key in keys)]]
    for step in (steps[place] for place in places):
        until = [line for line in log if line["step"] <= step]
        values = [[line[key] for line in until if line.get(key) is not None] for key in keys]
        rows.append([f"{step:,}", *(f"{each[-1]:.3f}" if each else "" for each in values)])
    return "## Curves\n\n" + table(rows)


def _results(report: Mapping[str, Any], results: Results | None, name: str) -> str:
    lines = ["## Results"]
    if "num_rows" in report:
        names = {"exact_match": "exact match", "starts_with": "starts with"} | {name: name for name in OTHER_SCORES}
        scores = ", ".join(f"{text} {_percent(report[name])}" for name, text in names.items() if name in report)
        found = report["retrieval"]
        lines.append(
            f"On {report['num_rows']:,} test rows: {scores}. Text-to-code retrieval: recall@1 "
            f"{_percent(found['recall@1'])} among {found['num_candidates']:,.0f} codes."
        )
    elif report.get("validation"):
        lines.append(
            f"There were no test rows. Cross-entropy on validation rows: {report['validation']['ce_loss']:.3f} a token."
        )
    else:
        lines.append("There were no test rows and no validation rows: how well it answers was not measured.")
    if results is not None:
        answer = answer_of(results)
        lines.append(
            f"This is run `{_code(name)}` of an experiment. {escaped(answer.question)} **{escaped(answer.short)}**"
        )
        lines.append(escaped(answer.sentence))
        for each in (results, *results.other_tests.values()):
            lines += [escaped(test_title(each)), table(outcome_rows(each)), bullets(comparison_sentences(each.main))]
        lines.append(bullets(results.notes))
    return "\n\n".join(line for line in lines if line)


def _cost(report: Mapping[str, Any], results: Results | None, name: str) -> str:
    cost, trained, total = report["cost"], report["num_trained_parameters"], report["num_parameters"]
    # The times that have passed; those of a run that was stopped are the sum over its parts.
    times = {name: duration(report[f"{name}_time_s"]) for name in ("training", "evaluation", "total")}
    lines = [
        f"Training took {times['training']}, with its evaluations and checkpoints; evaluating and saving it "
        f"{times['evaluation']}; the whole run {times['total']}."
    ]
    if cost["step_time_s"] is not None:
        flops = f"{cost['flops_per_step']:.3g} FLOPs a batch"
        lines.append(f"A step took {cost['step_time_s']:.3g} s (median), and {flops}.")
    share = f", {trained:,} of them trained" if 0 < trained < total else ""
    lines.append(f"{total:,} parameters{share}.")
    arm = results and results.arms.get(name.rsplit("-s", 1)[0])
    if results and arm and arm.cost.step_time_ratio is not None:
        ratio, baseline = arm.cost.step_time_ratio, _code(results.baseline)
        lines.append(f"A step takes {ratio:.2f} times as long as one of `{baseline}`.")
    return "## Cost\n\n" + "\n".join(f"- {line}" for line in lines)


def _limits(settings: Mapping[str, Any], report: Mapping[str, Any], results: Results | None, model: Exported) -> str:
    lines = []
    alarm = report["alarm"]
    if alarm and alarm["alarmed"]:
        recovered = " At the last check it had recovered." if alarm["recovered"] else ""
        lines.append(f"The collapse alarm went off: {escaped(alarm['reason'])}{recovered}")
    if results is None:
        lines.append("One run with one seed. Another seed gives other numbers, and nothing was compared.")
    lines.append("Scored only on the rows above, with greedy answers. Other data or tasks were not measured.")
    if model.kind == "adapter":
        lines.append(f"It works only together with its model, `{_code(_short_name(model.base))}`.")
    if not settings.get("train_end_token", True):
        stops = "It was never trained to stop (`train_end_token: false`)"
        lines.append(f"{stops}: the answer is only the start of what it writes.")
    if settings.get("quantization", "none") != "none":
        bits = "It was trained on base weights in four bits."
        lines.append(f"{bits} With the full weights, as here, answers differ a little.")
    if model.kind == "encoder":
        lines += [
            "It cannot write answers, because it has no language-model head.",
            "It cannot embed a text with another system message or other turns than those of all training rows. "
            "`llm-jepa embed` can.",
        ]
    else:
        lines.append(
            "`[PRED]` and the objective are not included, because answers do not use them. They are in the run, for "
            "retrieval and further training."
        )
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _experiment(run: Path) -> Results | None:
    """Return the results of the experiment that the run is part of; None if there is none."""
    found = ExperimentFolder(run.resolve().parent).results()
    if found is None:
        return None
    results = Results.from_json(found)
    names = {run_name(each.arm, each.seed) for each in results.runs}
    return results if run.resolve().name in names else None


# ---- how it is written ----


def _code(text: object) -> str:
    """Return a text so that it can be a span of code."""
    return "".join(char if char.isprintable() and char not in "`|" else "?" for char in str(text))


def _short_name(value: Any) -> str:
    """Return a file's name without its folders; return a name on the hub whole."""
    text = str(value)
    is_path = text.startswith((".", "/", "~")) or Path(text).exists() or PurePath(text).suffix in (".jsonl", ".json")
    return PurePath(text).name if is_path else text


def _short_names(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _short_name(each) for name, each in value.items()}
    return [_short_name(each) for each in value] if isinstance(value, list) else _short_name(value)


def _percent(share: float | None) -> str:
    return "not measured" if share is None else f"{100 * share:.1f}%"
