"""The distance d of Eq. 2 between predictions and targets.

Letters: B pairs, C hidden size. Every function takes predictions and targets of shape (B, C), computes in
float32 (or float64 if given), and returns one value per pair, (B,). Its gradient is finite everywhere, also at zero
vectors and at equal vectors.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from llm_jepa.errors import ConfigError

# After the final norm, states have a length near sqrt(C), so this minimum changes degenerate vectors only. It
# bounds the gradient of a cosine by 1/MIN_NORM = 1e3; that of `F.cosine_similarity` at zero reaches 1e8.
MIN_NORM = 1e-3

Distance = Callable[..., Tensor]

DISTANCES = ("cosine", "l2", "mse", "infonce", "infonce_symmetric")
IN_BATCH = ("infonce", "infonce_symmetric")  # distances of a pair that depend on the batch's other pairs

_registered: dict[str, Distance] = {}  # the user's own distances, by name
_declared: set[str] = set()  # names of such distances whose functions may be missing in this process


def full_precision(values: Tensor) -> Tensor:
    """Return the values in float32 or float64: losses are never computed in half precision."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def without_autocast(values: Tensor) -> torch.autocast:
    """Return a context in which products of float32 matrices stay in float32, even in mixed precision."""
    return torch.autocast(values.device.type, enabled=False)


def unit(vectors: Tensor) -> Tensor:
    """Return the vectors (..., C) scaled to length 1; those shorter than MIN_NORM are divided by MIN_NORM."""
    norms = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / norms.clamp(min=MIN_NORM)


def cosine_distance(pred: Tensor, target: Tensor) -> Tensor:
    """1 - cos(pred, target), in [0, 2]. The paper's choice (section 2.2)."""
    return 1 - (unit(pred) * unit(target)).sum(-1)


def l2_distance(pred: Tensor, target: Tensor) -> Tensor:
    """||pred - target||_2. Its gradient at equal vectors is 0."""
    return torch.linalg.vector_norm(pred - target, dim=-1)


def mse_distance(pred: Tensor, target: Tensor) -> Tensor:
    """Mean over the C features of (pred - target)^2."""
    return (pred - target).square().mean(-1)


def infonce_distance(
    pred: Tensor, target: Tensor, temperature: float, first: int = 0, alike: Tensor | None = None
) -> Tensor:
    """-log softmax of the matching target among the batch's N targets, by cosine over `temperature`; nats.

    Each pair's negatives are the other targets of the same call. So the value depends on how rows are grouped into
    batches, unlike all other distances here. With N = 1 there is no negative, and the value is 0. Pairs that are
    alike are no negatives of each other, because no model can push equal codes apart.

    Args:
        pred: Predictions, (B, C).
        target: Targets, (N, C): those of the predictions and, with several processes, those of the other processes.
        temperature: Temperature of the softmax.
        first: Row of the first prediction's own target.
        alike: True where a target is no negative of a prediction, (B, N); False for its own target. None: all are
            negatives.
    """
    if len(target) == 0:  # no pair in any process: a softmax over nothing
        return pred.sum(-1)
    similarity = unit(pred) @ unit(target).T / temperature  # (B, N)
    if alike is not None:
        similarity = similarity.masked_fill(alike, -torch.inf)
    matching = torch.arange(first, first + len(pred), device=pred.device)
    return F.cross_entropy(similarity, matching, reduction="none")


def infonce_symmetric_distance(
    pred: Tensor,
    target: Tensor,
    temperature: float,
    first: int = 0,
    preds: Tensor | None = None,
    alike: Tensor | None = None,
) -> Tensor:
    """Mean of two softmaxes: a pair's target among all targets, and its prediction among all predictions; nats.

    Args:
        pred: Predictions, (B, C).
        target: Targets, (N, C), as in `infonce_distance`.
        temperature: Temperature of both.
        first: Row of the first prediction's own target.
        preds: The predictions of all processes, (N, C), if there are others than `pred`.
        alike: As in `infonce_distance`.
    """
    own_targets = target[first : first + len(pred)]
    of_targets = infonce_distance(pred, target, temperature, first, alike)
    of_preds = infonce_distance(own_targets, pred if preds is None else preds, temperature, first, alike)
    return (of_targets + of_preds) / 2


def get_distance(name: str, temperature: float = 0.1) -> Distance:
    """Return the distance of that name as a function of predictions and targets, (B, C) each, to (B,).

    Those of `IN_BATCH` also take more targets than predictions, (N, C), and then the row of the first prediction's own
    target, the predictions of all these targets, (N, C), and which targets are no negatives, (B, N).

    Raises:
        ConfigError: If no distance has that name.
    """
    distances: dict[str, Distance] = {
        **{each: _missing(each) for each in _declared},
        **_registered,
        "cosine": cosine_distance,
        "l2": l2_distance,
        "mse": mse_distance,
        "infonce": lambda pred, target, first=0, preds=None, alike=None: infonce_distance(
            pred, target, temperature, first, alike
        ),
        "infonce_symmetric": lambda pred, target, *others: infonce_symmetric_distance(
            pred, target, temperature, *others
        ),
    }
    if name not in distances:
        raise ConfigError("unknown_distance", unknown_distance(name))

    return lambda pred, target, *others: distances[name](full_precision(pred), full_precision(target), *others)


# ---- the user's own distances ----


def register_distance(name: str, function: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Make a function a distance: from now on, `jepa_distance` may be its name in this process.

    Args:
        name: Its name, as saved models and results record it. It replaces a function that has the name already.
        function: Takes predictions and targets, (B, C) each in float32, and returns one value per pair, (B,), with a
            gradient. The value of a pair must not depend on the other pairs; `LLMJEPA` tests that when it is built.

    Raises:
        ConfigError: If the name is one of ours, or not a plain name.
    """
    if name in DISTANCES:
        raise ConfigError("name_taken", f"The name {name!r} is a distance of llm-jepa. Choose another name.")
    if not name.isidentifier():
        text = f"The name {name!r} cannot be the name of a distance. Use letters, digits and '_'."
        raise ConfigError("name_not_allowed", text)

    def distance(pred: Tensor, target: Tensor) -> Tensor:
        values = function(pred, target)
        if not isinstance(values, Tensor) or values.shape != pred.shape[:1]:
            found = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
            raise ConfigError(
                "wrong_shape",
                f"jepa_distance={name!r} returned {found} for predictions of shape {tuple(pred.shape)}. Expected one "
                "value per pair, (B,). Do not average over the pairs.",
            )
        return values

    _registered[name] = distance


def declare_distance(name: str) -> None:
    """Accept the name of a distance whose function may be missing in this process; without it, training is an error.

    So a model that was saved with a user's own distance can be loaded anywhere, because embeddings need no distance.
    If the JEPA loss is only reported, it is nan.
    """
    if isinstance(name, str) and name.isidentifier() and name not in DISTANCES:
        _declared.add(name)


def _missing(name: str) -> Distance:
    def distance(pred: Tensor, target: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            raise ConfigError("unknown_distance", unknown_distance(name))
        return pred.new_full(pred.shape[:1], torch.nan)

    return distance


def is_known(name: str) -> bool:
    """Whether the function of this name is in this process."""
    return name in DISTANCES or name in _registered


def is_distance(name: str) -> bool:
    """Whether `jepa_distance` may have this value."""
    return isinstance(name, str) and (is_known(name) or name in _declared)


def unknown_distance(name: str) -> str:
    """Return the text of the error about a distance that does not exist."""
    return (
        f"jepa_distance={name!r} is not one of: {', '.join(DISTANCES)}; and no function is registered with this name. "
        "Call llm_jepa.register_distance first, or name the file that does so in plugins."
    )


def check_registered(name: str, width: int, device: torch.device) -> None:
    """Test a registered distance on four random pairs of `width` features; our own distances are not tested.

    Raises:
        ConfigError: If it has no gradient or is not finite, or if a pair's value depends on the other pairs.
    """
    if name not in _registered or device.type == "meta":
        return
    distance, generator = get_distance(name), torch.Generator().manual_seed(0)
    pred, target = torch.randn(2, 4, width, generator=generator).to(device)
    with torch.enable_grad():
        values = distance(pred.requires_grad_(), target)
    if not values.requires_grad:
        text = f"jepa_distance={name!r} has no gradient at the predictions. Use torch functions."
        raise ConfigError("gradient_missing", text)
    if not torch.isfinite(values).all():
        text = f"jepa_distance={name!r} is {values.tolist()} for four random pairs. Expected finite values."
        raise ConfigError("value_not_finite", text)
    alone = torch.cat([distance(pred[[row]], target[[row]]) for row in range(len(pred))])
    if not torch.allclose(values, alone, rtol=1e-4, atol=1e-5):
        raise ConfigError(
            "distance_uses_other_pairs",
            f"jepa_distance={name!r} gives a pair another value with other pairs than alone. Compute it from one pair "
            "only, or set jepa_distance to infonce, which compares the pairs of a batch.",
        )
