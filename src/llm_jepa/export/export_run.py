"""`llm-jepa export RUN --to DIR`: the model of a finished run, with its card, as a folder that needs nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from llm_jepa.data.context import Context
from llm_jepa.data.encode import PairEncoder
from llm_jepa.data.tokenizer import decode_ids
from llm_jepa.errors import ConfigError
from llm_jepa.files import put_in_place, staged_beside, write_whole
from llm_jepa.runs.folder import RunFolder
from llm_jepa.runs.trained_run import load_run_encoder, read_run_settings
from llm_jepa.training.adapters import ADAPTER_CONFIG
from llm_jepa.training.resume import digest_tokenizer

from .model_card import MARK, model_card
from .model_folder import export_weights
from .serving import Exported, python_snippet, server_commands

CARD = "README.md"

# What an export may hold. `force` removes only a folder with our card that holds nothing else.
_EXPORTED = re.compile(
    r"README\.md|config\.json|generation_config\.json|(model|adapter_model)[\w.-]*\.safetensors(\.index\.json)?"
    r"|adapter_config\.json|tokenizer[\w.]*|special_tokens_map\.json|added_tokens\.json|vocab\.\w+|merges\.txt"
    r"|chat_template\.\w+|additional_chat_templates|processor_config\.json"
    r"|modules\.json|router_config\.json|sentence_bert_config\.json|config_sentence_transformers\.json"
    r"|\d_\w+|(query|document)_\d_\w+"
)


def is_run(folder: Path) -> bool:
    """Whether a folder is a run with a model that `export_run` can export."""
    return any((RunFolder(folder).model / name).is_file() for name in ("config.json", ADAPTER_CONFIG))


def export_run(run: str | Path, to: str | Path, *, merge: bool = False, force: bool = False) -> dict[str, Any]:
    """Write the model of a finished run as a folder that any program for transformers can load, with a model card.

    Vocabulary and tokenizer are the model's own; `generation_config.json` names every token that ended an answer in
    training. If the run has a LoRA adapter and `merge` is false, the folder is a PEFT adapter.

    `force` overwrites an earlier export of the name `to`. The run is only read.

    Returns:
        `run`, `out`, `kind` ("model", "merged" or "adapter"), `base` (of an adapter), `max_logit_difference` (of a
        merged model, else None), `python` (lines that answer a text), and `serve` (lines that start a server).

    Raises:
        ConfigError: If `run` is not a finished run, its tokenizer has changed, or `to` exists already, or is in the run
            or around it.
        DataError: If the model is damaged, or an adapter's base cannot be found.
        LLMJEPAError: If a merged model differs from its adapter. Nothing is left at `to`.
    """
    folder, out = RunFolder(Path(run)), Path(to)
    check_call(folder, out, force=force)
    encoder = load_run_encoder(folder)
    out.parent.mkdir(parents=True, exist_ok=True)
    with staged_beside(out.resolve()) as beside:
        written = export_weights(folder.model, beside, encoder, merge=merge)
        model = _describe(folder, beside, written, encoder)
        write_whole(beside / CARD, model_card(folder.path, model, out.resolve().name))
        put_in_place(beside, out.resolve())
    lines = {"python": python_snippet(model, str(to)), "serve": server_commands(model, str(to))}
    return {"run": str(run), "out": str(to), "max_logit_difference": None, **written, **lines}


def _describe(run: RunFolder, folder: Path, written: dict[str, Any], encoder: PairEncoder) -> Exported:
    """Collect what the commands depend on, from the run and from what was written."""
    is_adapter = written["kind"] == "adapter"
    context = Context(**run.data()["context"])
    # For some kinds of models AutoTokenizer uses a class of its own instead of the generic one, and splits text in
    # another way. The card must not name a class that reads other tokens than the model has learned.
    found = digest_tokenizer(AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False))
    return Exported(
        kind=written["kind"],
        base=written["base"],
        lora_r=json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))["r"] if is_adapter else None,
        tokenizer_class="AutoTokenizer" if found == digest_tokenizer(encoder.tokenizer) else "PreTrainedTokenizerFast",
        is_chat=context.is_chat,
        chat_template_kwargs=dict(encoder.config.chat_template_kwargs),
        messages=context.messages,
        bos_ids=tuple(encoder.bos_ids),
        bridge_ids=tuple(encoder.bridge_ids),
        bridge=decode_ids(encoder.tokenizer, list(encoder.bridge_ids)),
        end_ids=tuple(encoder.end_ids),
        shown_end_ids=[each for each in encoder.end_ids if encoder.tokenizer.decode([each], skip_special_tokens=True)],
        max_new_tokens=int(run.data()["max_new_tokens"]),
    )


def check_call(run: RunFolder, out: Path, *, force: bool) -> None:
    """Refuse what is not a finished run; and a destination in the run or around it, or one that exists.

    With `force`, a destination that is an earlier export is accepted.
    """
    read_run_settings(run)
    if missing := run.missing:
        text = f"{run} has no {missing[0]}: the run is not finished. The same `train` command finishes it."
        raise ConfigError("run_not_finished", text)
    real, source = out.resolve(), run.path.resolve()
    if real == source or source in real.parents or real in source.parents:
        text = f"--to {out} and the run {run} are the same, or one is inside the other. Choose another --to."
        raise ConfigError("output_is_input", text)
    if not out.exists() and not out.is_symlink():
        return
    if not force:
        raise ConfigError("file_exists", f"{out} exists already. Choose another name, or overwrite it with --force.")
    if out.is_symlink() or not out.is_dir():
        text = f"{out} is not a folder, so --force does not replace it. Choose another --to."
        raise ConfigError("not_a_folder", text)
    card = out / CARD
    if not card.is_file() or MARK not in card.read_text(encoding="utf-8", errors="replace"):
        text = f"{out} was not written by `llm-jepa export`, so --force does not replace it. Choose another --to."
        raise ConfigError("not_an_export", text)
    if other := sorted(each.name for each in out.iterdir() if not _EXPORTED.fullmatch(each.name)):
        what = ", ".join(other[:3])
        text = f"{out} has {what}, which no export wrote. --force would remove it. Choose another --to."
        raise ConfigError("not_an_export", text)
