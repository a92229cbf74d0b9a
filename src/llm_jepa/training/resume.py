"""What a run that continues from a checkpoint must have in common with the run that wrote it.

A resumed run is equal, bit for bit, to one that was never stopped only if settings, rows and tokenizer are the same.
The stock Trainer accepts any difference, and silently ignores a new learning rate. Here each difference is named and
refused, unless the user accepts it by its name; then it takes effect.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from llm_jepa.data.digest import digest_rows
from llm_jepa.errors import ConfigError
from llm_jepa.objective import JEPAConfig, Pair

from .arguments import JEPATrainingArguments

# Settings of transformers on which the next step depends. Those that only say when to evaluate, log or save are not
# among them.
ARGUMENTS = (
    *("learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "max_steps", "num_train_epochs"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "seed", "data_seed", "train_sampling_strategy"),
    *("optim", "optim_args", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm"),
    *("bf16", "fp16", "tf32", "gradient_checkpointing"),
)


def describe_run(
    args: JEPATrainingArguments, config: JEPAConfig, pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerBase | None
) -> dict[str, Any]:
    """Return the facts of a run, by name, as JSON values."""
    facts: dict[str, Any] = {name: _plain(getattr(args, name)) for name in ARGUMENTS}
    if args.max_steps > 0:
        facts["num_train_epochs"] = None  # only max_steps decides when the run ends
    if args.packing:
        facts |= {"packing": True, "pack_length": args.pack_length}
    if args.dataloader_drop_last:
        facts["dataloader_drop_last"] = True
    if args.sum_micro_batches:
        facts["sum_micro_batches"] = True
    own = {"train_rows": describe_rows(pairs), "tokenizer": digest_tokenizer(tokenizer)}
    return facts | config.to_dict() | {"num_processes": args.world_size} | own


def describe_rows(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return the number of rows and their sha256."""
    return {"number": len(pairs), "sha256": digest_rows(pairs)}


def check_resume(before: dict[str, Any], now: dict[str, Any], allowed: Collection[str], where: str) -> list[str]:
    """Compare the facts of a checkpoint with those of a run that would continue from it.

    Returns:
        The names of the differences, all of which are `allowed`.

    Raises:
        ConfigError: If other facts differ; it names each of them, and the checkpoint (`where`).
    """
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    refused = [name for name in names if name not in allowed]
    if refused:
        lines = [f"  {name} was {_short(before.get(name))} and is {_short(now.get(name))}" for name in refused]
        flags = " ".join(f"--allow-changed {name}" for name in refused)
        first = f"{where} was written by a run with other settings or data:"
        last = f"Go back to these, choose another --out, or accept the change with {flags}."
        raise ConfigError("settings_changed", "\n".join([first, *lines, last]))
    return names


def digest_tokenizer(tokenizer: PreTrainedTokenizerBase | None) -> str | None:
    """Return the sha256 of a tokenizer: of how it splits text, its special tokens and its chat template."""
    if tokenizer is None:
        return None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        cuts = repr(sorted(tokenizer.get_vocab().items()))
    else:  # the padding and truncation of the last call are kept there too, but are no part of the tokenizer
        settings = json.loads(backend.to_str())
        cuts = json.dumps({key: each for key, each in settings.items() if key not in ("padding", "truncation")})
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):  # by name; their order is that in which a folder lists its files
        template = dict(sorted(template.items()))
    special = repr(sorted((name, str(token)) for name, token in tokenizer.special_tokens_map.items()))
    return hashlib.sha256("\0".join([cuts, special, str(template)]).encode("utf-8", "surrogatepass")).hexdigest()


def _plain(value: Any) -> Any:
    """Return a setting as a JSON value; an enumeration as its value."""
    value = getattr(value, "value", value)
    return value if isinstance(value, bool | int | float | str | dict | list) or value is None else str(value)


def _short(value: Any) -> str:
    if isinstance(value, dict) and "sha256" in value:
        return f"{value['number']:,} rows of sha256 {value['sha256'][:12]}"
    return repr(value) if not isinstance(value, str) or len(value) < 40 else f"sha256 {value[:12]}"
