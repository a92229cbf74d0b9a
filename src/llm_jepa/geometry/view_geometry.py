"""The geometry of two views' embeddings: matrices in, numbers out; no file, no model.

A holds the text's side and B the code's, one row for each pair. Sources: LLM-JEPA (arXiv 2509.14252), section 4.2 and
Table 14: the singular values of A - B, and how well a linear map takes A to B; Figures 3, 4 and 6: both views in a
plane. The paper does not state the number of pairs, the split, the norm or the centring. Here all of them are stated,
and each number has a control that distinguishes a match from a collapse: see docs/geometry.md.

Letters: N pairs, C hidden size, M pairs in the map. Everything is computed in float64 except the cosines, which the
monitors of training (`training/monitors.py`) and retrieval compute in float32.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.linalg import lstsq
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.model_selection import GroupKFold
from threadpoolctl import threadpool_limits
from torch import Tensor

from llm_jepa.data.shuffled_views import exchange
from llm_jepa.errors import ConfigError, DataError
from llm_jepa.evaluation.retrieval import retrieval_metrics
from llm_jepa.objective.distances import unit
from llm_jepa.training.monitors import ROUNDING, effective_rank, embedding_monitors, looks_collapsed
from llm_jepa.training.view_embeddings import first_of_each

TOP = 100  # singular values that are kept: Table 14 averages the top 100
NUM_FOLDS = 5  # parts of the pairs, each held out in turn while the map is fitted on the other four fifths (our choice)
MAP_PAIRS = 300  # pairs in the map (our choice): 600 points can be distinguished on a page, and t-SNE takes seconds
PERPLEXITY = 30  # of t-SNE: scikit-learn's default; with fewer than 90 points, a third of their number
MIN_PAIRS = 4  # with fewer pairs the numbers mean nothing

FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "raw": lambda states: states,
    "centred": lambda states: states - states.mean(0),
    "unit": unit,
}
"""What is done to each view, (N, C), before subtraction: nothing; its mean is subtracted; rows get length 1."""


@dataclass
class Spectrum:
    """Singular values of A - B, largest first.

    Attributes:
        top: The first `TOP` of them, or min(N, C) if that is less.
        mean_top: Their mean; for the form `raw` this is Table 14's number. It grows with the square root of N.
        shuffled_top: The same of A - B', where B' holds the codes of other pairs. If it is as small as `top`, the
            values are small for another reason than a match of the views.
        shuffled_mean_top: Their mean.
    """

    top: list[float]
    mean_top: float
    shuffled_top: list[float]
    shuffled_mean_top: float


@dataclass
class LinearMap:
    """How well one matrix X takes A to B, on pairs that it was not fitted on.

    All errors are Frobenius norms, relative to B's, over all pairs, each of which was held out once; pairs of the same
    code are held out together. A number that cannot be measured is None, and `reason` says why.

    Attributes:
        num_fit: Pairs fitted on, in the fold that has the fewest.
        rank: Directions of A that are larger than rounding, in the fold that has the fewest.
        ridge: Weight of ||X||^2, in units of A's mean squared singular value; 0 is least squares.
        error: ||A X - B|| / ||B||.
        shuffled_error: The same with the codes of other pairs, in both parts: what X learns without a match.
        mean_error: The same of a constant, the mean of B's rows that were fitted on, which does not use A.
        centred_error: ||(A - mean A) X - (B - mean B)|| / ||B - mean B||, with the means of the pairs fitted on. 1 is
            no better than the constant, and more than 1 is overfitting.
        centred_shuffled_error: The same for codes of other pairs.
        residual: min_X ||A X - B|| over all pairs, fitted and measured on the same: absolute, Frobenius.
        residual_spectral: The same, in the norm of the largest singular value.
        reason: Why numbers are missing, as a sentence; None if none is missing.
    """

    num_fit: int
    rank: int
    ridge: float
    error: float | None = None
    shuffled_error: float | None = None
    mean_error: float | None = None
    centred_error: float | None = None
    centred_shuffled_error: float | None = None
    residual: float | None = None
    residual_spectral: float | None = None
    reason: str | None = None


@dataclass
class EmbeddingMap:
    """Both views of some pairs, placed together in a plane; rows have length 1, because cosine compares directions.

    PCA keeps distances, so a collapse is a point. t-SNE has no scale: it spreads out a collapse as well, and groups
    that are far apart may be placed near each other.

    Attributes:
        places: Which of the pairs, (M,).
        pca_text, pca_code: (M, 2).
        pca_explained: Share of the variance on each of the two axes; None if all points are equal.
        tsne_text, tsne_code: (M, 2); None if all points are equal, up to rounding.
        perplexity: Of t-SNE.
        cosines: Of each pair's two views, (M,).
    """

    places: list[int]
    pca_text: list[list[float]]
    pca_code: list[list[float]]
    pca_explained: list[float] | None
    tsne_text: list[list[float]] | None
    tsne_code: list[list[float]] | None
    perplexity: float
    cosines: list[float]


@dataclass
class ViewGeometry:
    """Everything about one text side and one code side.

    Attributes:
        num_pairs: N.
        num_codes: Distinct codes among them.
        num_dims: C.
        monitors: What `embedding_monitors` returns for all pairs, without `retrieval@1` (see `retrieval`), and
            `effective_rank_text`.
        retrieval: What `retrieval_metrics` returns, among the distinct codes.
        looks_collapsed: Whether these pairs have all three signs of a collapse (`monitors.looks_collapsed`).
        spectra: For each of `FORMS`.
        linear_map: The map from A to B; None if it was not asked for.
        embedding_map: Both views in a plane.
    """

    num_pairs: int
    num_codes: int
    num_dims: int
    monitors: dict[str, float]
    retrieval: dict[str, float]
    looks_collapsed: bool
    spectra: dict[str, Spectrum]
    linear_map: LinearMap | None
    embedding_map: EmbeddingMap


def view_geometry(
    text: Tensor,
    code: Tensor,
    groups: Tensor | None = None,
    *,
    ridge: float = 0.0,
    seed: int = 0,
    map_pairs: int = MAP_PAIRS,
    fits_map: bool = True,
) -> ViewGeometry:
    """Measure everything about one text side and one code side.

    Args:
        text: A, (N, C).
        code: B, (N, C).
        groups: Integers, (N,): pairs of equal number have the same code. Default: every pair's code is its own.
        ridge: See `LinearMap`.
        seed: Used to shuffle codes, to choose the parts held out, and for t-SNE.
        map_pairs: Most pairs in the map; they are spread evenly over the rows.
        fits_map: Fit the linear map too, which takes longest where C is large (6 s at 500 pairs of 896 features).

    Raises:
        ConfigError: If the shapes do not fit, or `ridge` is negative or not finite.
        DataError: If a value is not finite, or there are fewer than `MIN_PAIRS` pairs or than two different codes.
    """
    text, code = text.detach().cpu(), code.detach().cpu()
    groups = torch.arange(len(text)) if groups is None else groups.cpu()
    monitors = embedding_monitors(text, code, groups)  # checks shapes and values
    first = first_of_each(groups)
    if len(text) < MIN_PAIRS or len(first) < 2:
        raise DataError(
            "too_few_rows",
            f"{len(text)} pairs of {len(first)} different codes: expected at least {MIN_PAIRS} pairs and 2 codes, so "
            "that a match can be compared with other pairs. Take more rows.",
        )
    # For each pair the row whose code replaces its own, as in the control `jepa_shuffled`.
    others = torch.tensor(exchange(groups.tolist(), seed))
    collapsed = looks_collapsed(monitors)
    monitors.pop("retrieval@1")  # `retrieval_metrics` has it too, computed with other rounding
    return ViewGeometry(
        num_pairs=len(text),
        num_codes=len(first),
        num_dims=text.shape[1],
        monitors=monitors | {"effective_rank_text": effective_rank(text)},
        retrieval=retrieval_metrics(text, code[first], _places(groups, first)),
        looks_collapsed=collapsed,
        spectra={form: spectrum(text, code, others, form) for form in FORMS},
        linear_map=linear_map(text, code, code[others], groups, ridge, seed) if fits_map else None,
        embedding_map=embedding_map(text, code, seed, map_pairs),
    )


def spectrum(text: Tensor, code: Tensor, others: Tensor, form: str = "raw") -> Spectrum:
    """Return the singular values of A - B, and of A - B', in one of `FORMS`.

    `text` is A and `code` is B, (N, C); B' holds the rows `others` of B, (N,).
    """
    a, b = FORMS[form](text.double()), FORMS[form](code.double())
    top, shuffled_top = (torch.linalg.svdvals(a - each)[:TOP] for each in (b, b[others]))
    return Spectrum(top.tolist(), top.mean().item(), shuffled_top.tolist(), shuffled_top.mean().item())


def linear_map(
    text: Tensor, code: Tensor, other_code: Tensor, groups: Tensor, ridge: float = 0.0, seed: int = 0
) -> LinearMap:
    """Fit the map from A to B on part of the pairs, and measure it on the rest, each part in turn.

    `text` is A, `code` is B and `other_code` is B with the codes of other pairs, (N, C). Pairs of equal number in
    `groups`, (N,), are held out together; which of them, depends on `seed` and not on the order of the rows.

    Raises:
        ConfigError: If `ridge` is negative or not finite.
    """
    if not 0 <= ridge < math.inf:
        raise ConfigError("value_out_of_range", f"ridge={ridge}: expected a finite number, 0 or more.")
    a, b, c = (each.double().numpy() for each in (text, code, other_code))
    both = np.hstack([b, c])  # one factorisation serves the match and the control
    num_groups = len(np.unique(groups.numpy()))
    parts = GroupKFold(min(NUM_FOLDS, num_groups), shuffle=True, random_state=seed)
    folds = list(parts.split(a, groups=groups.numpy()))
    raw = [_held_out(a, both, fit, held, ridge, centre=False) for fit, held in folds]
    centred = [_held_out(a, both, fit, held, ridge, centre=True) for fit, held in folds]
    found = LinearMap(min(len(fit) for fit, _ in folds), min(each.rank for each in raw), ridge)
    if any(each.is_exact for each in raw):
        found.reason = (
            f"With {found.num_fit} pairs to fit on, and as many directions ({a.shape[1]} dimensions), A X = B has an "
            "exact solution whatever the pairs are. Take more pairs, or a ridge above 0."
        )
    else:
        found.error, found.shuffled_error = _relative(raw)
        constants = [b[held] - b[fit].mean(0) for fit, held in folds]
        found.mean_error = _norm(*constants) / _norm(b) if _norm(b) else None
    if any(each.rank == 0 for each in centred):
        found.reason = found.reason or "The rows of A, or of B, are all equal up to rounding: nothing is left to map."
    elif not any(each.is_exact for each in centred):
        found.centred_error, found.centred_shuffled_error = _relative(centred)
    whole, rank = _solve(a, b, ridge=0.0)
    if rank < len(a):
        rest = a @ whole - b
        found.residual, found.residual_spectral = _norm(rest), float(np.linalg.norm(rest, 2))
    return found


@dataclass
class _Fold:
    """One held-out part: B and B' there side by side, and what the map leaves of them, both (rows, 2 C)."""

    rank: int
    is_exact: bool
    rest: np.ndarray
    target: np.ndarray


def _held_out(
    a: np.ndarray, both: np.ndarray, fit: np.ndarray, held: np.ndarray, ridge: float, *, centre: bool
) -> _Fold:
    a_fit, a_held, both_fit, both_held = a[fit], a[held], both[fit], both[held]
    sizes = _norm(a_fit), _norm(both_fit)
    if centre:
        a_mean, both_mean = a_fit.mean(0), both_fit.mean(0)
        a_fit, a_held = a_fit - a_mean, a_held - a_mean
        both_fit, both_held = both_fit - both_mean, both_held - both_mean
    if _norm(a_fit) <= ROUNDING * sizes[0] or _norm(both_fit) <= ROUNDING * sizes[1]:
        return _Fold(0, False, both_held, both_held)
    x, rank = _solve(a_fit, both_fit, ridge, size=sizes[0])
    is_exact = ridge == 0 and rank + centre >= len(fit)  # subtracting a mean takes one equation away
    return _Fold(rank, is_exact, a_held @ x - both_held, both_held)


def _solve(a: np.ndarray, b: np.ndarray, ridge: float, size: float | None = None) -> tuple[np.ndarray, int]:
    """Return the X of least norm that minimises ||A X - B||^2 + w ||X||^2, and the rank of A that was used.

    Directions in which A is below rounding, `ROUNDING` of the states' own size, are not used: there float32 states are
    only rounding errors.
    """
    own, num_dims = _norm(a), a.shape[1]
    cut = ROUNDING * max(1.0, (size or own) / own) if own else 1.0
    if ridge:
        a = np.vstack([a, math.sqrt(ridge / num_dims) * own * np.eye(num_dims)])
        b = np.vstack([b, np.zeros((num_dims, b.shape[1]))])
    x, _, rank, _ = lstsq(a, b, cond=cut, check_finite=False)
    return x, int(rank)


def _relative(folds: list[_Fold]) -> list[float | None]:
    """Return what the maps leave of B, and of B', relative to the whole of it."""
    errors: list[float | None] = []
    for half in (0, 1):
        size = _norm(*(np.hsplit(each.target, 2)[half] for each in folds))
        errors.append(_norm(*(np.hsplit(each.rest, 2)[half] for each in folds)) / size if size else None)
    return errors


def _norm(*matrices: np.ndarray) -> float:
    return math.sqrt(sum(float(np.square(each).sum()) for each in matrices))


def embedding_map(text: Tensor, code: Tensor, seed: int = 0, map_pairs: int = MAP_PAIRS) -> EmbeddingMap:
    """Place both views of some pairs in a plane, together: by PCA, and by t-SNE.

    `text` is A and `code` is B, (N, C). At most `map_pairs` pairs are placed, spread evenly over the rows. t-SNE starts
    from PCA; `seed` is used by it alone.
    """
    num = min(map_pairs, len(text))
    places = np.unique(np.linspace(0, len(text) - 1, num).round().astype(int))
    points = unit(torch.cat([text[places], code[places]]).double()).numpy()  # (2 M, C)
    perplexity = min(float(PERPLEXITY), len(points) / 3)
    cosines = np.einsum("mc,mc->m", *np.split(points, 2)).round(6).tolist()  # (M,)
    if _norm(points - points.mean(0)) <= ROUNDING * _norm(points):
        zeros = np.zeros((len(places), 2)).tolist()
        return EmbeddingMap(places.tolist(), zeros, zeros, None, None, None, perplexity, cosines)
    pca = PCA(2, svd_solver="full")
    flat = pca.fit_transform(points)  # (2 M, 2)
    # One thread: more do not help with some hundred points, and on a busy machine they wait for each other for minutes.
    # With one, the picture does not depend on the number of threads.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as of points on a line: this is a picture, not a number
        curved = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(points)
    shares = pca.explained_variance_ratio_.tolist()
    return EmbeddingMap(places.tolist(), *_halves(flat), shares, *_halves(curved), perplexity, cosines)


def _halves(points: np.ndarray) -> tuple[Any, Any]:
    text, code = np.split(points.astype(float).round(6), 2)
    return text.tolist(), code.tolist()


def _places(groups: Tensor, first: Tensor) -> Tensor:
    """Return the place of each pair's own code among the distinct ones, (N,)."""
    place = {group: number for number, group in enumerate(groups[first].tolist())}
    return torch.tensor([place[group] for group in groups.tolist()])
