"""Semantic Tube Prediction: the final states along a row should form a straight path (arXiv 2602.22617).

No view is encoded, and there is no [PRED]. The term reads states of the next-token forward, with gradients through
all of them. For each pair and step, places are drawn once:

    stp             1 - cos(h_t - h_s, h_s - h_r),  r < s < t                                        (the paper's)
    stp_released    1 - cos(h_b - h_a, (h_a - h_first) + (h_last - h_b)),  first <= a < b <= last     (the code's)

where h are the states of the pair's own tokens, without the end token. Letters: P pairs with a term, C hidden size.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .distances import cosine_distance, full_precision
from .schedule import TUBE, mix

MIN_TOKENS = 3  # both forms need three different states


@dataclass
class Tubes:
    """Where the tokens of the P pairs that have a term are among the flattened states of the main rows.

    Attributes:
        starts: Index of each pair's first token.
        lengths: Number of each pair's tokens, without the end token.
        keys: A number for each pair's tokens, from which its places are drawn.
    """

    starts: list[int]
    lengths: list[int]
    keys: list[int]


def key_of(ids: Sequence[int]) -> int:
    """Return a number that depends only on a pair's tokens, not on the batch or the place of the pair in it."""
    return int.from_bytes(hashlib.blake2b(repr(list(ids)).encode(), digest_size=8).digest(), "big")


def draw_places(form: str, length: int, key: int, seed: int, step: int) -> tuple[int, ...]:
    """Return the places of one pair's term in one step, counted from its first token.

    It is a function of its arguments, so padding, order, packing and micro-batches have no effect. Two equal pairs of a
    step have the same places.

    Args:
        form: `stp`: three places; all triples are equally likely. `stp_released`: two places, the first one uniform,
            the second one uniform after it. If they are the first and the last token, both are drawn again, because
            nothing is left around the span (the default of the released code).
        length: Tokens of the pair, MIN_TOKENS or more.
        key: The result of `key_of`.
        seed: The run's seed.
        step: Number of the optimizer step.
    """
    stream = random.Random(mix(seed, step, TUBE + key))
    if form == "stp":
        return tuple(sorted(stream.sample(range(length), 3)))
    while True:
        start = stream.randrange(length - 1)
        end = stream.randrange(start + 1, length)
        if end - start < length - 1:
            return start, end


def tube_distances(form: str, states: Tensor, tubes: Tubes, seed: int, step: int) -> Tensor:
    """Return the term of each pair, (P,), in [0, 2].

    Args:
        form: `stp` or `stp_released`.
        states: Flattened states of the main rows, (B * T, C).
        tubes: Where the pairs are.
        seed: The run's seed.
        step: Number of the optimizer step.
    """
    places = []
    for start, length, key in zip(tubes.starts, tubes.lengths, tubes.keys, strict=True):
        drawn = draw_places(form, length, key, seed, step)
        within = drawn if form == "stp" else (0, *drawn, length - 1)
        places.append([start + place for place in within])
    number = 3 if form == "stp" else 4
    at = torch.tensor(places, dtype=torch.long).view(-1, number).to(states.device)
    points = full_precision(states[at])  # (P, 3 or 4, C)
    if form == "stp":
        first, middle, last = points.unbind(1)
        return cosine_distance(last - middle, middle - first)
    first, begin, end, last = points.unbind(1)
    return cosine_distance(end - begin, (begin - first) + (last - end))
