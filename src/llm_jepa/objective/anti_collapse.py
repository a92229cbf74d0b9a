"""Terms on the embeddings themselves that become large in a collapse (when all views are the same vector).

They are in-batch terms: their value depends on which pairs share a micro-batch (with `jepa_gather`, the micro-batches
of all processes), and accumulation adds no pair to them. Each is a mean over its features or directions, in float32,
with a finite gradient everywhere. Letters: N embeddings of a batch, C features, M directions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .distances import full_precision
from .schedule import SIGREG, generator

# VICReg's own values (arXiv 2105.04906, section 4): the wanted standard deviation, and what keeps the slope of the root
# finite.
GAMMA, EPSILON = 1.0, 1e-4

# Where the characteristic functions are compared: 17 points from -5 to 5 (LeJEPA, arXiv 2511.08544, Algorithm 1).
# Both integrands are even, so the 9 points from 0, counted twice, give the same sum.
T_MAX, NUM_POINTS = 5.0, 9

NUM_DIRECTIONS = 256  # M, drawn in each optimizer step


def variance_term(embeddings: Tensor) -> Tensor:
    """Mean over features of max(0, GAMMA - sqrt(Var + EPSILON)); VICReg, Eq. 1 and 2.

    Args:
        embeddings: (N, C). With fewer than 2 there is no variance, and the term is 0.
    """
    if len(embeddings) < 2:
        return embeddings.sum() * 0  # 0 with a gradient, because other processes may wait for it
    spread = (embeddings.var(0) + EPSILON).sqrt()  # (C,)
    return F.relu(GAMMA - spread).mean()


def covariance_term(embeddings: Tensor) -> Tensor:
    """Sum of the squared off-diagonal entries of the covariance, (C, C), divided by C; VICReg, Eq. 3 and 4.

    Args:
        embeddings: (N, C). With fewer than 2 there is no covariance, and the term is 0.
    """
    if len(embeddings) < 2:
        return embeddings.sum() * 0
    centred = embeddings - embeddings.mean(0)
    covariance = centred.T @ centred / (len(embeddings) - 1)  # (C, C)
    diagonal = torch.eye(len(covariance), dtype=torch.bool, device=covariance.device)
    return covariance.masked_fill(diagonal, 0).square().sum() / len(covariance)


def sigreg_term(embeddings: Tensor, directions: Tensor) -> Tensor:
    """Sketched isotropic Gaussian regularisation: mean over directions of the Epps-Pulley statistic of the projections.

    T = N * integral of |ecf(t) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt, where ecf(t) is the mean of exp(i t x) over the N
    projections x, by the trapezoid rule. It is small if the embeddings are N(0, I), and grows with N if they are not.
    Source: LeJEPA, arXiv 2511.08544, section 4 and Algorithm 1.

    Args:
        embeddings: (N, C).
        directions: Unit vectors, (C, M).
    """
    if len(embeddings) == 0:
        return embeddings.sum() * 0
    t = torch.linspace(0, T_MAX, NUM_POINTS, device=embeddings.device, dtype=embeddings.dtype)
    gaussian = torch.exp(-t.square() / 2)
    angles = (embeddings @ directions)[:, :, None] * t  # (N, M, points)
    error = (angles.cos().mean(0) - gaussian).square() + angles.sin().mean(0).square()  # (M, points)
    statistic = 2 * torch.trapezoid(error * gaussian, t, dim=-1) * len(embeddings)  # (M,)
    return statistic.mean()


def random_directions(number: int, size: int, seed: int, step: int) -> Tensor:
    """Return unit vectors in columns, (size, number), the same in every process: a function of (seed, step)."""
    return F.normalize(torch.randn(size, number, generator=generator(seed, step, SIGREG)), dim=0)


class AntiCollapse:
    """The anti-collapse terms of a run.

    Args:
        weights: Weight of each term by name (variance, covariance, sigreg); those of weight 0 are not computed.
        seed: The run's seed.
    """

    def __init__(self, weights: dict[str, float], seed: int) -> None:
        self.weights = {name: weight for name, weight in weights.items() if weight > 0}
        self.seed = seed

    def __call__(self, sides: Sequence[Tensor], step: int) -> dict[str, Tensor]:
        """Return each term, without its weight, as the mean over the sides that have gradients.

        Args:
            sides: Predictions, and targets if they have gradients, (N, C) each.
            step: Number of the optimizer step, from which sigreg draws its directions.
        """
        sides = [full_precision(side) for side in sides]
        terms = {}
        for name in self.weights:
            if name == "variance":
                each = [variance_term(side) for side in sides]
            elif name == "covariance":
                each = [covariance_term(side) for side in sides]
            else:
                directions = random_directions(NUM_DIRECTIONS, sides[0].shape[1], self.seed, step).to(sides[0])
                each = [sigreg_term(side, directions) for side in sides]
            terms[name] = torch.stack(each).mean()
        return terms

    def weighted(self, terms: dict[str, Tensor]) -> Tensor | float:
        """Return the weighted sum of the terms that `__call__` returned; 0.0 if there are none."""
        return sum((self.weights[name] * term for name, term in terms.items()), 0.0)
