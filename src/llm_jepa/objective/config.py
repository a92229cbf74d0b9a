"""The settings of the objective: one dataclass, read by everything that builds or trains it."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from typing import Any

from llm_jepa.errors import ConfigError
from llm_jepa.fields import setting

from .distances import DISTANCES, is_distance, unknown_distance
from .schedule import SCHEDULES

MAX_PRED_TOKENS = 8

CHOICES: dict[str, tuple[str, ...]] = {
    "jepa_term": ("views", "stp", "stp_released"),
    "jepa_distance": DISTANCES,  # and those that `register_distance` adds
    "jepa_target": ("stop_grad", "shared", "ema"),
    "jepa_direction": ("text_to_code", "code_to_text", "both"),
    "jepa_pred_position": ("append", "prepend"),
    "jepa_pred_tokens": ("shared", "distinct"),
    "jepa_predictor": ("none", "linear", "mlp"),
    "jepa_views": ("prefix", "rendered"),
    "jepa_lambda_schedule": SCHEDULES,
    "loss_on": ("all", "code"),
}

# Settings that Semantic Tube Prediction does not use, because it encodes no view.
_OF_VIEWS = (
    *("jepa_k", "jepa_distance", "jepa_temperature", "jepa_gather"),
    *("jepa_variance_weight", "jepa_covariance_weight", "jepa_sigreg_weight"),
    *("jepa_target", "jepa_ema_decay", "jepa_direction", "jepa_pred_position", "jepa_pred_tokens"),
    *("jepa_predictor", "jepa_detach_backbone", "jepa_views"),
)


@dataclass
class JEPAConfig:
    """Settings of LLM-JEPA's objective, `gamma * CE + lambda * d(Pred(Enc(Text)), Enc(Code))`.

    Source: arXiv 2509.14252, Eq. 2 (lambda, d, Pred) and Eq. 3 (gamma). `docs/deviations.md` lists where
    the defaults differ from those of the paper and of the published code.

    Raises:
        ConfigError: If a value is out of its range, or two settings contradict each other.
    """

    jepa_lambda: float = setting(1.0, "Weight of the JEPA term. 0: plain next-token training, bit for bit.")
    jepa_lambda_schedule: str = setting(
        "constant", "Weight of the JEPA term over the steps: constant, or falling to 0 at the end (linear or cosine)."
    )
    jepa_gamma: float = setting(1.0, "Weight of the next-token cross-entropy (Eq. 3).")
    jepa_term: str = setting(
        "views",
        "What the JEPA term is: views (one view predicts the other), or Semantic Tube Prediction "
        "(docs/method.md): stp (as in its paper), stp_released (as in its code).",
    )
    jepa_k: int = setting(1, "Number of [PRED] tokens, 0 to 8. 0: Pred(x) = Enc(x).")
    jepa_distance: str = setting(
        "cosine",
        "Distance between prediction and target: cosine, l2, mse, infonce (which of the "
        "batch's targets is the prediction's own), infonce_symmetric (in both directions), or the name of one of "
        "your own (docs/python.md).",
    )
    jepa_temperature: float = setting(0.1, "Temperature of infonce and infonce_symmetric.")
    jepa_gather: bool = setting(
        True,
        "With several processes: infonce, infonce_symmetric and the anti-collapse terms use the "
        "micro-batches of all of them. If false, each process uses its own. Accumulation adds no negatives.",
    )
    jepa_variance_weight: float = setting(
        0.0, "Weight of VICReg's variance term within the JEPA term: lambda * (distance + weight * term)."
    )
    jepa_covariance_weight: float = setting(0.0, "The same for VICReg's covariance term.")
    jepa_sigreg_weight: float = setting(0.0, "The same for SIGReg, which asks for embeddings that are N(0, I).")
    jepa_target: str = setting(
        "stop_grad",
        "How the target is computed: stop_grad (a forward without gradient), shared (gradients "
        "through both views, as in the published code), ema (by a slow copy of the model).",
    )
    jepa_ema_decay: float = setting(0.99, "Decay of the slow copy per optimizer step, with target ema.")
    jepa_direction: str = setting(
        "text_to_code", "What predicts what: text_to_code, code_to_text, or both (their mean)."
    )
    jepa_pred_position: str = setting(
        "append",
        "Where [PRED] is: append (after the source view) or prepend (before it; the view is then encoded "
        "a second time).",
    )
    jepa_pred_tokens: str = setting(
        "shared", "shared: one learned vector, repeated k times; distinct: k learned vectors."
    )
    jepa_predictor: str = setting(
        "none", "Head on the state at the last [PRED] (with k 0: on Enc): none, linear, or mlp (docs/method.md)."
    )
    jepa_detach_backbone: bool = setting(
        False, "A probe: the JEPA term trains only [PRED] and the head. Cross-entropy alone trains the model."
    )
    jepa_loss_dropout: float = setting(0.0, "Share of optimizer steps without the JEPA term, from 0 to below 1.")
    jepa_split: float = setting(
        0.5, "For rows of one text: the share of its tokens that is the text view; the rest is the code view."
    )
    jepa_views: str = setting(
        "prefix",
        "prefix: the text view is the part of the row before the answer. rendered: as published, question "
        "and answer are each rendered alone by the chat template, without the system message.",
    )
    loss_on: str = setting("all", "Tokens under cross-entropy: all (whole row) or code (code and end token only).")
    train_end_token: bool = setting(
        True,
        "Whether end tokens are under cross-entropy. If false, no token with the end token's id is, as in "
        "the published code, and the model never learns to stop.",
    )

    def __post_init__(self) -> None:
        if not is_distance(self.jepa_distance):
            raise ConfigError("unknown_distance", unknown_distance(self.jepa_distance))
        for name, allowed in CHOICES.items():
            if name != "jepa_distance" and getattr(self, name) not in allowed:
                text = f"{name}={getattr(self, name)!r} is not one of: {', '.join(allowed)}."
                raise ConfigError("value_not_allowed", text)
        self._check_numbers()
        self._check_combinations()

    def _check_numbers(self) -> None:
        weights = ("jepa_variance_weight", "jepa_covariance_weight", "jepa_sigreg_weight")
        for name in ("jepa_lambda", "jepa_gamma", *weights):
            self._check_range(name, 0 <= getattr(self, name) < float("inf"), "be a finite number, 0 or more")
        if self.jepa_lambda == 0 and self.jepa_gamma == 0:
            text = "jepa_lambda=0 and jepa_gamma=0 leave no loss at all. Set one of them above 0."
            raise ConfigError("settings_conflict", text)
        is_count = isinstance(self.jepa_k, int) and 0 <= self.jepa_k <= MAX_PRED_TOKENS
        self._check_range("jepa_k", is_count, f"be a whole number from 0 to {MAX_PRED_TOKENS}")
        self._check_range("jepa_temperature", self.jepa_temperature > 0, "be above 0")
        self._check_range("jepa_ema_decay", 0 <= self.jepa_ema_decay < 1, "be at least 0 and below 1")
        below_1 = "be at least 0 and below 1. To train without the JEPA term, set jepa_lambda=0"
        self._check_range("jepa_loss_dropout", 0 <= self.jepa_loss_dropout < 1, below_1)
        self._check_range("jepa_split", 0 < self.jepa_split < 1, "be above 0 and below 1")

    def _check_range(self, name: str, is_right: bool, expected: str) -> None:
        if not is_right:
            raise ConfigError("value_out_of_range", f"{name}={getattr(self, name)!r} must {expected}.")

    def _check_combinations(self) -> None:
        unused = [name for name in _OF_VIEWS if getattr(self, name) != getattr(JEPAConfig, name)]
        if self.jepa_term != "views" and unused:
            raise ConfigError(
                "setting_without_effect",
                f"jepa_term={self.jepa_term} encodes no view, so {', '.join(unused)} would have no effect. Remove "
                "what has no effect, or set jepa_term=views.",
            )
        if self.jepa_detach_backbone and self.jepa_target == "shared":
            raise ConfigError(
                "settings_conflict",
                "jepa_detach_backbone=true keeps the JEPA term's gradient from the model, but jepa_target=shared sends "
                "it through both views. Set jepa_target=stop_grad or ema.",
            )
        if self.jepa_detach_backbone and self.jepa_k == 0 and self.jepa_predictor == "none":
            raise ConfigError(
                "settings_conflict",
                "With jepa_detach_backbone=true, jepa_k=0 and jepa_predictor=none, the JEPA term trains nothing. Set "
                "jepa_k to 1 or more, or jepa_predictor to linear or mlp.",
            )

    def with_views(self) -> JEPAConfig:
        """Return settings that encode views: these, or if they encode none, these with a JEPA term of views."""
        return self if self.uses_views else replace(self, jepa_term="views", jepa_lambda=self.jepa_lambda or 1.0)

    @property
    def uses_views(self) -> bool:
        """Whether training encodes any view at all."""
        return self.jepa_lambda > 0 and self.jepa_term == "views"

    @property
    def uses_tube(self) -> bool:
        """Whether training has the term of Semantic Tube Prediction."""
        return self.jepa_lambda > 0 and self.jepa_term != "views"

    @property
    def has_term(self) -> bool:
        """Whether training has a JEPA term, of either kind."""
        return self.uses_views or self.uses_tube

    @property
    def anti_collapse_weights(self) -> dict[str, float]:
        """Weight of each anti-collapse term, by the term's name."""
        return {
            "variance": self.jepa_variance_weight,
            "covariance": self.jepa_covariance_weight,
            "sigreg": self.jepa_sigreg_weight,
        }

    @property
    def pred_leads(self) -> bool:
        """Whether [PRED] is before its view, so that the view is read in a document of its own."""
        return self.jepa_pred_position == "prepend" and self.jepa_k > 0

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain values, for JSON."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def to_json_string(self) -> str:
        """Return the settings as JSON, under the name by which transformers' trackers ask a model's config for it."""
        return json.dumps(self.to_dict(), indent=2) + "\n"
