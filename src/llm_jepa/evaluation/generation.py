"""Greedy answers to many prompts, in batches, with a key-value cache."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby, takewhile
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationConfig

from llm_jepa.errors import DataError
from llm_jepa.objective.backbone import evaluating
from llm_jepa.processes import gather, turns, world_size
from llm_jepa.progress import Progress
from llm_jepa.training.sharding import is_sharded

STRIDE = 16
"""After so many tokens, answers that have ended leave their batch; each time costs a copy of the others' cache."""


def generate_greedy(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    end_ids: Sequence[int],
    pad_id: int,
    max_new_tokens: int,
    batch_size: int = 256,
    progress: bool = False,
) -> list[list[int]]:
    """Return the most likely continuation of each prompt, token by token, without the end token.

    Prompts of similar length share a batch, padded on the left. The answers are returned in the order of the prompts.
    The model's own generation settings (sampling, penalties, limits) are not used. Every STRIDE tokens, answers that
    have ended leave their batch. Several processes divide the batches among them, and each gets all answers, so every
    process must call it. The batches, and so the answers, are those of a single process. If the model has learned
    positions (GPT-2), an answer also ends where these end.

    Args:
        model: A transformers causal language model.
        prompts: Token ids of each prompt; none may be empty.
        end_ids: Tokens that end an answer.
        pad_id: Id that fills padding.
        max_new_tokens: Where longer answers are cut.
        batch_size: Prompts in a batch.
        progress: As `bar` of `Progress`.

    Raises:
        DataError: If a prompt leaves no position for an answer.
    """
    settings = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=list(end_ids),
        pad_token_id=pad_id,
        use_cache=True,
        return_dict_in_generate=True,
    )
    ends = set(end_ids)
    positions = learned_positions(model) or math.inf
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    # Answers that end at the last position do so in a batch of prompts of one length: shorter ones have more room.
    groups = [list(each) for _, each in groupby(order, lambda n: min(max_new_tokens, positions - len(prompts[n])))]
    batches = [each[start : start + batch_size] for each in groups for start in range(0, len(each), batch_size)]
    own: dict[int, list[int]] = {}
    with evaluating(model), Progress("answer", len(prompts), "rows", bar=progress) as shown:
        for turn, is_own in turns(len(batches)):
            numbers = batches[turn]
            rows = _generate_batch(model, [prompts[number] for number in numbers], settings)
            if is_own:
                rows = [list(takewhile(lambda token: token not in ends, row)) for row in rows]
                own |= dict(zip(numbers, rows, strict=True))
            shown.set(min(shown.done + len(numbers) * world_size(), len(prompts)))
    answers = {number: answer for share in gather(own) for number, answer in share.items()}
    return [answers[number] for number in range(len(prompts))]


def _generate_batch(model: Any, prompts: list[Sequence[int]], settings: GenerationConfig) -> list[list[int]]:
    width = max(len(prompt) for prompt in prompts)
    positions = learned_positions(model)
    if positions is not None and width + settings.max_new_tokens > positions:
        if width >= positions:
            raise DataError(
                "prompt_too_long",
                f"A prompt has {width} tokens, and the model has {positions} positions: none is left for an answer. "
                "Shorten the prompt.",
            )
        settings = GenerationConfig(**settings.to_diff_dict() | {"max_new_tokens": positions - width})
    pad_id = settings.pad_token_id
    device = next(model.parameters()).device
    padding = [width - len(prompt) for prompt in prompts]
    rows = [[pad_id] * left + list(prompt) for left, prompt in zip(padding, prompts, strict=True)]
    ids = torch.tensor(rows, device=device)  # (B, T)
    real = torch.tensor([[0] * left + [1] * (width - left) for left in padding], device=device)  # (B, T)
    with _settings_put_aside(model):
        if is_sharded(model):  # a process whose answers have ended continues until all have
            output = model.generate(input_ids=ids, attention_mask=real, generation_config=settings, synced_gpus=True)
            return output.sequences[:, width:].tolist()
        return _generate_and_drop(model, ids, real, settings)


def _generate_and_drop(model: Any, ids: Tensor, real: Tensor, settings: GenerationConfig) -> list[list[int]]:
    """Return the answers to a batch, (B, T); a row whose answer has ended is removed from the batch and the cache."""
    ends, left = set(settings.eos_token_id), settings.max_new_tokens
    answers: list[list[int]] = [[] for _ in ids]
    rows, cache = list(range(len(ids))), None
    while True:
        step = GenerationConfig(**settings.to_diff_dict() | {"max_new_tokens": min(left, STRIDE)})
        output = model.generate(input_ids=ids, attention_mask=real, generation_config=step, past_key_values=cache)
        written = output.sequences[:, ids.shape[1] :].tolist()
        for row, tokens in zip(rows, written, strict=True):
            answers[row] += tokens
        left -= step.max_new_tokens
        going = [place for place, tokens in enumerate(written) if ends.isdisjoint(tokens)]
        if left == 0 or not going:
            return answers
        kept = torch.tensor(going, device=ids.device)
        real = F.pad(real, (0, output.sequences.shape[1] - real.shape[1]), value=1)[kept]
        ids, cache = output.sequences[kept], output.past_key_values
        if len(going) < len(rows):
            # A kind of cache that cannot be cut is computed again from the prompts and the answers so far.
            cache = _cut_cache(cache, kept)
            rows = [rows[place] for place in going]


def _cut_cache(cache: Any, kept: Tensor) -> Any:
    """Return the cache of the rows `kept`; None if it is of a kind that cannot be cut."""
    if not hasattr(cache, "batch_select_indices"):
        return None
    cache.batch_select_indices(kept)
    return cache


def learned_positions(model: Any) -> int | None:
    """Return how many position vectors a model has learned; None if it computes them or has none (RoPE, ALiBi)."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    most = getattr(inner.config, "max_position_embeddings", None)
    words = inner.get_input_embeddings()
    tables = [each for each in inner.modules() if isinstance(each, nn.Embedding) and each is not words]
    # OPT and similar models have two more rows than positions.
    return most if most and any(most <= each.num_embeddings <= most + 2 for each in tables) else None


@contextmanager
def _settings_put_aside(model: Any) -> Iterator[None]:
    """Remove the model's own generation settings within the context.

    transformers takes from them whatever the settings of a call leave open. With many models of the hub, a repetition
    penalty would be applied to answers that should be greedy.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    own = inner.generation_config
    inner.generation_config = GenerationConfig()
    try:
        yield
    finally:
        inner.generation_config = own
