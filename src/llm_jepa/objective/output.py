"""What the objective returns for a batch, and the parts that it consists of.

`llm_jepa.py` builds and fills them. `reference.py` and `self_check.py` need them too, so they are in a file of their
own.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from .anti_collapse import AntiCollapse
from .backbone import Backbone
from .config import JEPAConfig
from .distances import Distance
from .predictor import PredTokens
from .target import EMATarget


class Objective(nn.Module):
    """The parts of an `LLMJEPA`, which describes them."""

    config: JEPAConfig
    model: nn.Module
    backbone: Backbone
    predictor: PredTokens
    target: EMATarget | None
    distance: Distance
    anti_collapse: AntiCollapse
    seed: int


@dataclass
class JEPAOutput:
    """The terms of one batch.

    Attributes:
        loss: gamma * ce_loss + lambda_eff * (jepa_loss + weighted sum of terms), a scalar with gradient.
        ce_loss: Nats per labelled token, scalar.
        jepa_loss: Mean distance between the views (or of a path from a straight one), over the pairs that have the
            term, scalar; 0 in a batch without such a pair; nan if there was no term.
        text_pred: The text's side of the distance, (P, C), in the order of the pairs: Pred(Enc(Text)), or, if only
            code predicts text, Enc(Text). None if no view was encoded.
        code_emb: The code's side, (P, C): Enc(Code), or, if only code predicts text, Pred(Enc(Code)).
        lambda_eff: The weight that jepa_loss had in `loss`.
        terms: The anti-collapse terms by name (variance, covariance, sigreg), scalars, before their weights.
    """

    loss: Tensor
    ce_loss: Tensor
    jepa_loss: Tensor
    text_pred: Tensor | None = None
    code_emb: Tensor | None = None
    lambda_eff: float = 0.0
    terms: dict[str, Tensor] = field(default_factory=dict)
