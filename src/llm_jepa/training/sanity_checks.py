"""Checks before the first step that there is something to train: a run that does nothing must not count as done."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

from llm_jepa.data.lazy_rows import Joined
from llm_jepa.errors import ConfigError, DataError
from llm_jepa.objective import LLMJEPA, Pair
from llm_jepa.objective.distances import IN_BATCH

from .adapters import PeftModel
from .arguments import JEPATrainingArguments
from .saving import MAX_SHARD_SIZE

logger = logging.getLogger(__name__)


def check_rows(name: str, rows: Any) -> None:
    """Refuse rows that are not pairs, such as those of a Dataset; in the loader the error would be hard to read."""
    if rows is None or (isinstance(rows, Sequence) and not len(rows)):
        return
    try:
        looked_at = rows if isinstance(rows, list | tuple) else [rows[0]]  # others may read each from a file
    except (TypeError, KeyError, IndexError):  # not a sequence
        looked_at = [None]
    strange = [type(row).__name__ for row in looked_at if not isinstance(row, Pair)]
    if strange:
        of_what = f", a row {strange[0]}" if looked_at[0] is not None else ""
        raise ConfigError(
            "wrong_type",
            f"{name} is of type {type(rows).__name__}{of_what}; expected a sequence of Pair, which holds token ids. "
            "Read files with llm_jepa.data.prepare.load_data and take its .train.pairs, or encode rows of text with "
            "llm_jepa.encode_rows and PairEncoder. With processing_class=, the trainer encodes a datasets.Dataset "
            "itself.",
        )


def check_combinations(jepa: LLMJEPA, args: JEPATrainingArguments, *, is_fsdp: bool) -> None:
    """Refuse settings that do not go together.

    Raises:
        ConfigError: If there are any; it names them.
    """
    if isinstance(jepa.model, PeftModel):
        if is_fsdp:
            raise ConfigError(
                "settings_conflict",
                "LoRA with FSDP is not supported yet. Use DDP: the gradients of an adapter are small.",
            )
        if args.max_shard_size != MAX_SHARD_SIZE:
            raise ConfigError(
                "setting_without_effect",
                f"max_shard_size={args.max_shard_size} has no meaning with LoRA: an adapter is one file. Remove it.",
            )
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

    Raises:
        DataError: If the rows leave nothing to train.
        ConfigError: If the settings leave nothing to train.
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
        _check_pairs(jepa, all_pairs)
        compared = rows if jepa.config.jepa_gather else arguments.train_batch_size
        if compared == 1 and not len(view_pairs):
            _check_alone(jepa)
    elif not jepa.config.uses_tube and not any(pair.use_ce for pair in all_pairs):
        raise DataError(
            "no_labels",
            "No training row has a label, and there is no JEPA term. Set use_ce, or set jepa_lambda above 0.",
        )
    if jepa.config.has_term:
        _check_weights(jepa, arguments, len(pairs) / rows)


def _check_pairs(jepa: LLMJEPA, pairs: Sequence[Pair]) -> None:
    """Make sure that the JEPA term has pairs, and that its distance has negatives if it needs them."""
    config = jepa.config
    first = next((pair for pair in pairs if pair.use_jepa), None)
    if first is None:
        logger.warning("no training row has a JEPA term, though jepa_lambda is %s (use_jepa)", config.jepa_lambda)
        return
    if config.jepa_distance in IN_BATCH:
        _check_negatives(config.jepa_distance, first, pairs)


def _check_negatives(distance: str, first: Pair, pairs: Sequence[Pair]) -> None:
    """Refuse rows without any negative, because all have the same code, the same text or the same group."""
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
        f"All training rows have the same {what}, so {distance} has no negatives to compare with. Set jepa_distance to "
        f"cosine, or check the {what} column.",
    )


def _check_alone(jepa: LLMJEPA) -> None:
    """Refuse batches of one row if the term compares the rows of a batch with each other."""
    config = jepa.config
    for name, value, is_empty in (
        ("jepa_distance", config.jepa_distance, config.jepa_distance in IN_BATCH),
        ("jepa_variance_weight", config.jepa_variance_weight, config.jepa_variance_weight > 0),
        ("jepa_covariance_weight", config.jepa_covariance_weight, config.jepa_covariance_weight > 0),
    ):
        if is_empty:
            what = "it" if name.endswith("_weight") else "the JEPA term"
            raise ConfigError(
                "batch_too_small",
                f"{name}={value} compares the pairs of a batch, but per_device_train_batch_size is 1: {what} would do "
                f"nothing. Use larger batches (gradient_accumulation_steps does not enlarge them), or another {name}.",
            )


def _check_weights(jepa: LLMJEPA, arguments: JEPATrainingArguments, batches: float) -> None:
    """Make sure that the JEPA term has weight in some step."""
    config = jepa.config
    whole = math.floor(batches) if arguments.dataloader_drop_last else math.ceil(batches)
    of_epoch = max(math.ceil(whole / arguments.gradient_accumulation_steps), 1)
    num_steps = arguments.max_steps if arguments.max_steps > 0 else math.ceil(of_epoch * arguments.num_train_epochs)
    if all(jepa.drops_term(step) for step in range(num_steps)):
        raise ConfigError(
            "term_never_used",
            f"The JEPA term has weight in none of the {num_steps} steps (jepa_loss_dropout="
            f"{config.jepa_loss_dropout}). Train more steps, or lower jepa_loss_dropout.",
        )
