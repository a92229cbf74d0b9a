"""`llm-jepa export RUN --to DIR`: the model of a finished run, with its card, as a folder that stands alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from llm_jepa.data.encode import PairEncoder
from llm_jepa.data.tokenizer import decode_ids
from llm_jepa.errors import ConfigError
from llm_jepa.files import put_in_place, staged_beside, write_whole
from llm_jepa.runs.folder import RunFolder
from llm_jepa.runs.trained_run import load_run_encoder, read_context, read_run_settings
from llm_jepa.training.adapters import ADAPTER_CONFIG
from llm_jepa.training.resume import digest_tokenizer

from .model_card import MARK, model_card
from .model_folder import export_weights
from .serving import Exported, python_snippet, server_commands

CARD = "README.md"

# What an export may hold: `force` removes a folder of these that has our card, and no other.
_EXPORTED = re.compile(
    r"README\.md|config\.json|generation_config\.json|(model|adapter_model)[\w.-]*\.safetensors(\.index\.json)?"
    r"|adapter_config\.json|tokenizer[\w.]*|special_tokens_map\.json|added_tokens\.json|vocab\.\w+|merges\.txt"
    r"|chat_template\.\w+|additional_chat_templates|processor_config\.json"
    r"|modules\.json|router_config\.json|sentence_bert_config\.json|config_sentence_transformers\.json"
    r"|\d_\w+|(query|document)_\d_\w+"
)


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run with a model that `export_run` takes."""
    return any((RunFolder(folder).model / name).is_file() for name in ("config.json", ADAPTER_CONFIG))


def export_run(run: str | Path, to: str | Path, *, merge: bool = False, force: bool = False) -> dict[str, Any]:
    """Write the model of a finished run as a folder that any transformers program serves, with a model card.

    Vocabulary and tokenizer are those that the model came with; `generation_config.json` names every token that
    ended an answer. A model without adapter, or with `merge`, is whole; otherwise the folder is a PEFT adapter.

    Args:
        run: The folder of a finished run. It is only read.
        to: The folder to write. Folders above it are made if need be.
        merge: Merge a LoRA adapter into its model.
        force: Write over an earlier export of that name.

    Returns:
        `run`, `out`, `kind` ("model", "merged" or "adapter"), `base` (of an adapter), `max_logit_difference` (of a
        merged model, else None), and `python` and `serve`, the lines that answer a text and that start a server.

    Raises:
        ConfigError: If `run` is no finished run, its tokenizer is another, or `to` is taken or touches the run.
        DataError: If the model is damaged, or an adapter's base is not to be found.
        LLMJEPAError: If a merged model differs from its adapter. Nothing is left at `to`.
    """
    folder, out = RunFolder(Path(run)), Path(to)
    check_finished(folder)
    check_out(folder, out, force=force)
    encoder = load_run_encoder(folder)
    out.parent.mkdir(parents=True, exist_ok=True)
    with staged_beside(out.resolve()) as beside:
        written = export_weights(
            folder.model,
            beside,
            encoder.tokenizer,
            end_ids=encoder.end_ids,
            pad_id=encoder.pad_id,
            merge=merge,
        )
        model = _describe(folder, beside, written, encoder)
        write_whole(beside / CARD, model_card(folder.path, model, out.resolve().name))
        put_in_place(beside, out.resolve())
    return {
        "run": str(run),
        "out": str(to),
        "max_logit_difference": None,
        **written,
        "python": python_snippet(model, str(to)),
        "serve": server_commands(model, str(to)),
    }


def _describe(run: RunFolder, folder: Path, written: dict[str, Any], encoder: PairEncoder) -> Exported:
    """Gather what the commands depend on, from the run and from what was written."""
    is_adapter = written["kind"] == "adapter"
    context = read_context(run, encoder.config)
    # For some kinds of models AutoTokenizer puts a class of its own in the place of a generic one, which cuts text
    # otherwise; the card must not name a class that reads other tokens than the model has learned.
    found = digest_tokenizer(AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False))
    return Exported(
        kind=written["kind"],
        base=written["base"],
        lora_r=json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))["r"] if is_adapter else None,
        tokenizer_class="AutoTokenizer" if found == digest_tokenizer(encoder.tokenizer) else "PreTrainedTokenizerFast",
        is_chat=context.is_chat,
        chat_template_kwargs=dict(encoder.config.chat_template_kwargs),
        messages=context.messages,
        bridge_ids=tuple(encoder.bridge_ids),
        bridge=decode_ids(encoder.tokenizer, list(encoder.bridge_ids)),
        end_ids=tuple(encoder.end_ids),
        shown_end_ids=[each for each in encoder.end_ids if encoder.tokenizer.decode([each], skip_special_tokens=True)],
        max_new_tokens=int(run.data()["max_new_tokens"]),
    )


def check_finished(run: RunFolder) -> None:
    """Refuse a folder that is no run, or one that is not finished."""
    read_run_settings(run)
    if missing := run.missing:
        raise ConfigError(
            f"{run} holds no {missing[0]}: the run is not finished. The same `train` command finishes it."
        )


def check_out(run: RunFolder, out: Path, *, force: bool) -> None:
    """Refuse a destination that touches the run or is taken by something that no export wrote."""
    real, source = out.resolve(), run.path.resolve()
    if real == source or source in real.parents or real in source.parents:
        raise ConfigError(f"--to {out} and the run {run} are one inside the other. Choose another --to.")
    if not out.exists() and not out.is_symlink():
        return
    if not force:
        raise ConfigError(f"{out} is there already. Choose another name, or write over it with --force.")
    if out.is_symlink() or not out.is_dir():
        raise ConfigError(f"{out} is no folder: --force does not replace it. Choose another --to.")
    card = out / CARD
    if not card.is_file() or MARK not in card.read_text(encoding="utf-8", errors="replace"):
        raise ConfigError(f"{out} was not written by `llm-jepa export`: --force does not replace it.")
    if other := sorted(each.name for each in out.iterdir() if not _EXPORTED.fullmatch(each.name)):
        raise ConfigError(
            f"{out} holds {', '.join(other[:3])}, which no export wrote, and --force would remove it. Choose another "
            "--to."
        )
