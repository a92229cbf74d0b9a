"""Checks before the first step that there is something to train: a run that does nothing must not count as done."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from llm_jepa.data.lazy_rows import Joined
from llm_jepa.errors import ConfigError, DataError
from llm_jepa.objective import LLMJEPA, JEPAConfig, Pair
from llm_jepa.objective.distances import IN_BATCH

from .adapters import PeftModel
from .arguments import JEPATrainingArguments
from .saving import MAX_SHARD_SIZE

logger = logging.getLogger(__name__)


def check_arguments(args: Any) -> None:
    """Refuse arguments of another class, which lack our settings, and whose defaults are not ours."""
    if not isinstance(args, JEPATrainingArguments):
        text = f"args is of type {type(args).__name__}. Expected llm_jepa.JEPATrainingArguments, which has every field"
        raise ConfigError("wrong_type", f"{text} of transformers.TrainingArguments.")


def check_rows(name: str, rows: Any) -> None:
    """Refuse rows that are not pairs, such as those of a Dataset; in the loader the error would be hard to read."""
    if isinstance(rows, Sequence) and not len(rows):
        return
    try:
        looked_at = rows if isinstance(rows, list | tuple) else [rows[0]]  # others may read each from a file
    except (TypeError, KeyError, IndexError, NotImplementedError):  # not a sequence
        looked_at = [None]
    strange = next((row for row in looked_at if not isinstance(row, Pair)), looked_at[0])
    if not isinstance(strange, Pair):
        of_what = "" if strange is None else f", a row {type(strange).__name__}"
        raise ConfigError(
            "wrong_type",
            f"{name} is of type {type(rows).__name__}{of_what}; expected a sequence of Pair, which holds token ids. "
            "Read files with llm_jepa.data.prepare.load_data and take its .train.pairs, or encode rows of text with "
            "llm_jepa.encode_rows and PairEncoder. With processing_class=, the trainer encodes a datasets.Dataset "
            "itself.",
        )


def check_combinations(jepa: LLMJEPA, args: JEPATrainingArguments, *, is_fsdp: bool) -> None:
    """Raise ConfigError for settings that do not go together."""
    if isinstance(jepa.model, PeftModel):
        if is_fsdp:
            text = "LoRA with FSDP is not supported yet. Use DDP: the gradients of an adapter are small."
            raise ConfigError("settings_conflict", text)
        if args.max_shard_size != MAX_SHARD_SIZE:
            text = f"max_shard_size={args.max_shard_size} has no meaning with LoRA: an adapter is one file. Remove it."
            raise ConfigError("setting_without_effect", text)
    if args.fp16 and args.device.type == "cpu":
        raise ConfigError(
            "device_not_capable",
            "fp16=True needs a GPU; on this CPU everything would be in float32. Remove fp16, or set "
            "precision: bf16 with use_cpu: true.",
        )
    if is_fsdp and jepa.config.jepa_detach_backbone:
        raise ConfigError(
            "settings_conflict",
            "jepa_detach_backbone with FSDP is not supported: sharded parameters cannot be frozen for a part of a "
            "step. Use DDP.",
        )


def check_work(
    jepa: LLMJEPA, arguments: JEPATrainingArguments, pairs: Sequence[Pair], view_pairs: Sequence[Pair]
) -> None:
    """Make sure that a run has steps and labelled tokens, and that its JEPA term, if it has weight, can do something.

    It is a DataError if the rows leave nothing to train, and a ConfigError if the settings do.
    """
    rows = arguments.train_batch_size * arguments.world_size
    if not len(pairs):
        raise DataError("no_rows", "There is no training row. Expected at least one.")
    if arguments.dataloader_drop_last and len(pairs) < rows:
        raise ConfigError(
            "batch_too_large",
            f"dataloader_drop_last=true leaves no batch: there are {len(pairs)} training rows, and a batch has {rows}. "
            "Lower per_device_train_batch_size, or remove dataloader_drop_last.",
        )
    all_pairs = Joined(pairs, view_pairs) if len(view_pairs) else pairs
    if jepa.config.uses_views:
        _check_pairs(jepa.config, all_pairs)
        compared = rows if jepa.config.jepa_gather else arguments.train_batch_size
        if compared == 1 and not len(view_pairs):
            _check_alone(jepa.config)
    elif not jepa.config.uses_tube and not any(pair.use_ce for pair in all_pairs):
        text = "No training row has a label, and there is no JEPA term. Set use_ce, or set jepa_lambda above 0."
        raise DataError("no_labels", text)
    num_steps = arguments.num_steps(len(pairs))
    if jepa.config.has_term and all(jepa.drops_term(step) for step in range(num_steps)):
        raise ConfigError(
            "term_never_used",
            f"The JEPA term has weight in none of the {num_steps} steps (jepa_loss_dropout="
            f"{jepa.config.jepa_loss_dropout}). Train more steps, or lower jepa_loss_dropout.",
        )


def _check_pairs(config: JEPAConfig, pairs: Sequence[Pair]) -> None:
    """Warn if no row has a JEPA term. Refuse rows without any negative, if the distance needs some."""
    first = next((pair for pair in pairs if pair.use_jepa), None)
    if first is None:
        logger.warning("no training row has a JEPA term, though jepa_lambda is %s (use_jepa)", config.jepa_lambda)
    if first is None or config.jepa_distance not in IN_BATCH:
        return
    same = {"code", "text"} | ({"group"} if first.group is not None else set())
    for pair in pairs:
        if pair.use_jepa:
            equal = {"code": first.code_view == pair.code_view, "text": first.text_view == pair.text_view}
            same &= {name for name, is_equal in (equal | {"group": first.group == pair.group}).items() if is_equal}
        if not same:  # usually at the second row, so that a large file is not read whole
            return
    what = min(same)
    raise DataError(
        "no_negatives",
        f"All training rows have the same {what}, so {config.jepa_distance} has no negatives to compare with. Set "
        f"jepa_distance to cosine, or check the {what} column.",
    )


def _check_alone(config: JEPAConfig) -> None:
    """Refuse batches of one row if the term compares the rows of a batch with each other."""
    needs_others = {
        "jepa_distance": config.jepa_distance in IN_BATCH,
        "jepa_variance_weight": config.jepa_variance_weight > 0,
        "jepa_covariance_weight": config.jepa_covariance_weight > 0,
    }
    for name in (name for name, needed in needs_others.items() if needed):
        what = "it" if name.endswith("_weight") else "the JEPA term"
        raise ConfigError(
            "batch_too_small",
            f"{name}={getattr(config, name)} compares the pairs of a batch, but per_device_train_batch_size is 1: "
            f"{what} would do nothing. Use larger batches (gradient_accumulation_steps does not enlarge them), or "
            f"another {name}.",
        )
