"""The distance d of Eq. 2 between predictions and targets.

Letters: B pairs, C hidden size. Every function takes predictions and targets of shape (B, C), works in
float32 (float64 stays), and returns one value a pair, (B,), with a finite gradient everywhere, zero
vectors and equal vectors included.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# States leave the final norm with a length near sqrt(C), so this floor acts on degenerate vectors alone. It
# bounds the gradient of a cosine by 1/MIN_NORM = 1e3, where `F.cosine_similarity` at zero reaches 1e8.
MIN_NORM = 1e-3

Distance = Callable[..., Tensor]

DISTANCES = ("cosine", "l2", "mse", "smooth_l1", "infonce", "infonce_symmetric")
IN_BATCH = ("infonce", "infonce_symmetric")  # distances of a pair that depend on the batch's other pairs

_registered: dict[str, Distance] = {}  # distances of the user's own, by name
_declared: set[str] = set()  # names of such distances whose functions may not be in this process


def full_precision(values: Tensor) -> Tensor:
    """Return the values in float32 at least: losses are never computed in half precision."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def without_autocast(values: Tensor) -> torch.autocast:
    """Return a context in which products of float32 matrices stay in float32, mixed precision or not."""
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


def smooth_l1_distance(pred: Tensor, target: Tensor) -> Tensor:
    """Mean over the C features of the Huber loss with beta = 1: x^2 / 2 below 1, |x| - 1/2 above."""
    return F.smooth_l1_loss(pred, target, reduction="none").mean(-1)


def infonce_distance(
    pred: Tensor, target: Tensor, temperature: float, first: int = 0, alike: Tensor | None = None
) -> Tensor:
    """-log softmax of the matching target among the batch's N targets, by cosine over `temperature`; nats.

    Each pair's negatives are the other targets of the same call, so the value depends on how rows are
    grouped into batches, unlike all other distances here. With N = 1 there is no negative and it is 0. Pairs that are
    alike are no negatives of each other: pushing equal codes apart would ask for what no model can do.

    Args:
        pred: Predictions, (B, C).
        target: Targets, (N, C): those of the predictions, and, in several processes, the others' around them.
        temperature: Temperature of the softmax.
        first: Row of the first prediction's own target.
        alike: True where a target is no negative of a prediction, (B, N); its own target is not marked. None: all are.
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
        preds: The predictions of all, (N, C), where there are others than `pred`.
        alike: As in `infonce_distance`.
    """
    own_targets = target[first : first + len(pred)]
    of_targets = infonce_distance(pred, target, temperature, first, alike)
    of_preds = infonce_distance(own_targets, pred if preds is None else preds, temperature, first, alike)
    return (of_targets + of_preds) / 2


def get_distance(name: str, temperature: float = 0.1) -> Distance:
    """Return the distance of that name as a function of predictions and targets, (B, C) each, to (B,).

    Those of `IN_BATCH` also take more targets than predictions, (N, C), the row of the first one's own, and the
    predictions that belong to these targets, (N, C), and which targets are no negatives, (B, N).

    Raises:
        ValueError: If no distance has that name.
    """
    distances: dict[str, Distance] = {
        **{each: _missing(each) for each in _declared},
        **_registered,
        "cosine": cosine_distance,
        "l2": l2_distance,
        "mse": mse_distance,
        "smooth_l1": smooth_l1_distance,
        "infonce": lambda pred, target, first=0, preds=None, alike=None: infonce_distance(
            pred, target, temperature, first, alike
        ),
        "infonce_symmetric": lambda pred, target, *others: infonce_symmetric_distance(
            pred, target, temperature, *others
        ),
    }
    if name not in distances:
        raise ValueError(unknown_distance(name))

    return lambda pred, target, *others: distances[name](full_precision(pred), full_precision(target), *others)


# ---- distances of the user's own ----


def register_distance(name: str, function: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Make a function a distance: `jepa_distance` takes its name from now on, in this process.

    Args:
        name: Its name, which saved models and results know it by. A name that was registered before is replaced.
        function: Takes predictions and targets, (B, C) each in float32, and returns one value a pair, (B,), with a
            gradient. The value of a pair must not depend on the other pairs: `LLMJEPA` tries that when it is built.

    Raises:
        ValueError: If the name is one of ours, or no plain name.
    """
    if name in DISTANCES:
        raise ValueError(f"The name {name!r} is taken by a distance of llm-jepa. Choose another.")
    if not name.isidentifier():
        raise ValueError(f"The name {name!r} is no name for a distance. Use letters, digits and '_'.")

    def distance(pred: Tensor, target: Tensor) -> Tensor:
        values = function(pred, target)
        if not isinstance(values, Tensor) or values.shape != pred.shape[:1]:
            found = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(
                f"jepa_distance={name!r} returned {found} for predictions of shape {tuple(pred.shape)}. Expected one "
                "value a pair, (B,): take no mean over the pairs."
            )
        return values

    _registered[name] = distance


def declare_distance(name: str) -> None:
    """Accept the name of a distance whose function may not be in this process; nothing can train with it then.

    What was saved with a distance of a user's own can so be read anywhere: embeddings need no distance. Where the
    JEPA loss is only reported, it is nan.
    """

    if isinstance(name, str) and name.isidentifier() and name not in DISTANCES:
        _declared.add(name)


def _missing(name: str) -> Distance:
    def distance(pred: Tensor, target: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            raise ValueError(unknown_distance(name))
        return pred.new_full(pred.shape[:1], torch.nan)

    return distance


def is_known(name: str) -> bool:
    """Whether the function of this name is in this process."""
    return name in DISTANCES or name in _registered


def is_distance(name: str) -> bool:
    """Whether `jepa_distance` may have this value."""
    return isinstance(name, str) and (is_known(name) or name in _declared)


def unknown_distance(name: str) -> str:
    """Return the text of the error about a distance that is not there."""
    return (
        f"jepa_distance={name!r} is not one of: {', '.join(DISTANCES)}; nor is a function registered under this name. "
        "Call llm_jepa.register_distance first, or name the file that does so under plugins."
    )


def check_registered(name: str, width: int, device: torch.device) -> None:
    """Try a distance of the user's own on four random pairs of `width` features; those of ours are not tried.

    Raises:
        ValueError: If it has no gradient, is not finite, or a pair's value depends on the other pairs.
    """
    if name not in _registered or device.type == "meta":
        return
    distance, generator = get_distance(name), torch.Generator().manual_seed(0)
    pred, target = torch.randn(2, 4, width, generator=generator).to(device)
    with torch.enable_grad():
        values = distance(pred.requires_grad_(), target)
    if not values.requires_grad:
        raise ValueError(f"jepa_distance={name!r} has no gradient at the predictions. Use torch functions.")
    if not torch.isfinite(values).all():
        raise ValueError(f"jepa_distance={name!r} is {values.tolist()} for four random pairs. Expected finite values.")
    alone = torch.cat([distance(pred[[row]], target[[row]]) for row in range(len(pred))])
    if not torch.allclose(values, alone, rtol=1e-4, atol=1e-5):
        raise ValueError(
            f"jepa_distance={name!r} gives a pair another value beside other pairs than alone. A distance of your own "
            "may look at one pair only; infonce compares the pairs of a batch."
        )
