"""LLM-JEPA: next-token prediction plus the distance between two views' embeddings, in one fused pass.

    loss = gamma * CE(next token) + lambda * d( Pred(Enc(Text)), Enc(Code) )     (arXiv 2509.14252, Eq. 2, 3)

Enc(x) is the final state at the last token of x; Pred(x) is the final state at the last of k [PRED] tokens
after x. By causality, the next-token forward computes Enc(Text) and Pred(Enc(Text)) too, if k tokens are added to the
row and hidden from the rest of it. Enc(Code) is one more short forward. `reference.py` computes the same with a forward
for each part, and the tests compare this file with it.

Letters: B rows, P pairs with a JEPA term, T tokens in a row, C hidden size, N labelled tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm_jepa.errors import ConfigError

from .anti_collapse import AntiCollapse
from .backbone import Backbone, frozen
from .config import JEPAConfig
from .distances import IN_BATCH, check_registered, full_precision, get_distance, without_autocast
from .documents import IGNORED
from .gathering import gather_rows
from .layout import FusedBatch, Rows, Views
from .output import JEPAOutput, Objective
from .pair import are_alike
from .predictor import PredTokens
from .schedule import is_dropped, lambda_factor
from .self_check import check_model
from .target import EMATarget
from .tube import tube_distances

BUILT_FROM = (
    *("jepa_k", "jepa_pred_tokens", "jepa_predictor", "jepa_target", "jepa_ema_decay"),
    *("jepa_distance", "jepa_temperature"),
    *("jepa_variance_weight", "jepa_covariance_weight", "jepa_sigreg_weight"),
)
"""Settings that are read once, when an LLMJEPA is built."""


class LLMJEPA(Objective):
    """A causal language model under the LLM-JEPA objective.

    Args:
        model: Any decoder-only transformers model with its head. It is used as it is, never copied or changed.
        config: The objective.
        seed: Seed of [PRED]'s first values, and of the random numbers of each step (loss dropout, SIGReg, Semantic Tube
            Prediction). The global random streams of PyTorch are not used.
        check: First compare the fused pass with separate forwards on two tiny pairs (a fraction of a step).

    Attributes:
        model: The model.
        predictor: The [PRED] tokens; trained if `jepa_lambda` and `jepa_k` are above 0.
        target: The slow copy with `jepa_target="ema"`; None otherwise.

    Raises:
        UnsupportedModelError: If the objective would be computed wrongly for this model.
        ConfigError: If a registered distance cannot be used.
    """

    def __init__(self, model: nn.Module, config: JEPAConfig, *, seed: int = 0, check: bool = True) -> None:
        super().__init__()
        self.config = config
        self.model = model
        self.backbone = Backbone(model)
        self.predictor = PredTokens(
            config.jepa_k,
            like=self.backbone.embeddings.weight,  # type: ignore[arg-type]
            scale=self.backbone.embedding_scale,
            distinct=config.jepa_pred_tokens == "distinct",
            head=config.jepa_predictor,
            seed=seed,
        ).requires_grad_(config.uses_views)
        self.predictor.embedding.requires_grad_(config.uses_views and config.jepa_k > 0)
        needs_copy = config.jepa_target == "ema" and config.uses_views
        self.target = EMATarget(self.backbone, config.jepa_ema_decay) if needs_copy else None
        self.distance = get_distance(config.jepa_distance, config.jepa_temperature)
        self.seed = seed
        self.anti_collapse = AntiCollapse(config.anti_collapse_weights, seed)
        self._built = config.to_dict(), self.distance  # for `check_record`
        if check and config.uses_views:
            embedding = self.predictor.embedding
            check_registered(config.jepa_distance, embedding.shape[-1], embedding.device)
            check_model(self)

    def check_record(self) -> None:
        """Make sure that `config` describes what this object computes, before it is saved with the model.

        Raises:
            ConfigError: If the distance, or a setting that was read when the object was built, was changed by hand.
        """
        settings, distance = self._built
        changed = [name for name in BUILT_FROM if getattr(self.config, name) != settings[name]]
        if self.distance is not distance:
            raise ConfigError(
                "distance_without_name",
                f"The distance was set by hand, and would be saved as {self.config.jepa_distance!r}. Give it a name "
                "with llm_jepa.register_distance, and set jepa_distance to that.",
            )
        if changed:
            raise ConfigError(
                "config_changed",
                f"{', '.join(changed)} of the config changed after LLMJEPA was built, so the new values have no effect "
                "and must not be saved. Build LLMJEPA with the final config.",
            )

    def forward(
        self,
        batch: FusedBatch,
        *,
        step: int | None = None,
        num_steps: int | None = None,
        num_labels: int | Tensor | None = None,
        num_pairs: int | Tensor | None = None,
        monitor: bool = False,
    ) -> JEPAOutput:
        """Compute the loss of a batch.

        Args:
            batch: The batch, on the model's device.
            step: Number of the optimizer step, from 0. Training needs it if the weight of the JEPA term depends on it,
                or if loss dropout, SIGReg or Semantic Tube Prediction draws random numbers in each step.
            num_steps: Optimizer steps of the whole run; needed if the weight of the JEPA term depends on it.
            num_labels: Number of labelled tokens that `ce_loss` is the mean over, if the step has more than this batch
                (accumulation, several processes). Default: those of this batch.
            num_pairs: The same for the pairs of `jepa_loss`.
            monitor: Report `jepa_loss` and the embeddings even if their weight is 0 (`jepa_lambda` 0, or a dropped
                step); they have no gradient then. The batch must have been laid out with `monitor`.

        Raises:
            ConfigError: If `step` or `num_steps` is needed and missing, or the batch lacks the views or places that are
                needed.
        """
        lambda_eff = self.lambda_at(step, num_steps)
        if monitor and not self.config.uses_views:
            lambda_eff = 0.0  # the views are only monitored: the loss has no term of them
        if lambda_eff == 0 and not monitor:
            return self._plain(batch.without_views(), num_labels)
        encodes_views = monitor or self.config.uses_views
        self._check_batch(batch, encodes_views, step)

        ce_loss, states = self._cross_entropy(batch, num_labels)
        with torch.set_grad_enabled(torch.is_grad_enabled() and lambda_eff > 0):
            sides = self._sides(batch, states) if encodes_views else []  # Pred(Enc(Text)) and Enc(Code)
            with without_autocast(states):
                distances = self._distances(sides, batch) if encodes_views else self._along_rows(batch, states, step)
                count = _at_least_one(batch.num_pairs if num_pairs is None else num_pairs)
                jepa_loss = distances.sum() / count
                terms = self._terms(sides, step, share=batch.num_pairs / count)
        loss = self.config.jepa_gamma * ce_loss
        if lambda_eff > 0:
            loss = loss + lambda_eff * (jepa_loss + self.anti_collapse.weighted(terms))

        output = JEPAOutput(loss, ce_loss.detach(), jepa_loss.detach(), lambda_eff=lambda_eff)
        output.terms = {name: term.detach() for name, term in terms.items()}
        if sides:
            output.text_pred, output.code_emb = sides[0] if batch.views[0].from_text else sides[0][::-1]
        return output

    def _plain(self, batch: FusedBatch, num_labels: int | Tensor | None) -> JEPAOutput:
        """Compute the loss of plain rows: only cross-entropy."""
        ce_loss, _ = self._cross_entropy(batch, num_labels)
        no_jepa = torch.full_like(ce_loss, torch.nan)
        return JEPAOutput(self.config.jepa_gamma * ce_loss, ce_loss.detach(), no_jepa)

    def _check_batch(self, batch: FusedBatch, encodes_views: bool, step: int | None) -> None:
        """Make sure that the batch was laid out for this JEPA term."""
        if encodes_views and not batch.views:
            raise ConfigError(
                "batch_not_for_config",
                "This batch was laid out without views. Build it with FusedCollator(config) and a jepa_lambda "
                "above 0, or with FusedCollator(config, monitor=True).",
            )
        if not encodes_views and batch.tubes is None:
            raise ConfigError(
                "batch_not_for_config",
                f"This batch was laid out without the places that jepa_term={self.config.jepa_term} reads. Build it "
                "with FusedCollator(config) and this config.",
            )
        if not encodes_views and step is None and self.training:
            raise _step_missing(f"jepa_term={self.config.jepa_term}")

    def update_target(self) -> None:
        """Move the slow copy of the model, if there is one; call it after each optimizer step."""
        if self.target is not None:
            self.target.update(self.backbone)

    def drops_term(self, step: int) -> bool:
        """Whether loss dropout leaves the JEPA term out of an optimizer step."""
        return is_dropped(self.config.jepa_loss_dropout, self.seed, step)

    def lambda_at(self, step: int | None, num_steps: int | None = None) -> float:
        """Return the weight of the JEPA term in an optimizer step; outside of training, it is `jepa_lambda`.

        Raises:
            ConfigError: If `step` or `num_steps` is needed and missing.
        """
        config = self.config
        if not self.training or config.jepa_lambda == 0:
            return config.jepa_lambda
        if config.jepa_loss_dropout:
            if step is None:
                raise _step_missing(f"jepa_loss_dropout={config.jepa_loss_dropout}")
            if self.drops_term(step):
                return 0.0
        if config.jepa_lambda_schedule == "constant":
            return config.jepa_lambda
        if step is None or num_steps is None:
            raise ConfigError(
                "step_missing",
                f"jepa_lambda_schedule={config.jepa_lambda_schedule!r} has another weight in each optimizer step. Pass "
                "step=, the number of the step, and num_steps=, the number of all steps.",
            )
        return config.jepa_lambda * lambda_factor(step, num_steps, config.jepa_lambda_schedule)

    def _cross_entropy(self, batch: FusedBatch, num_labels: int | Tensor | None) -> tuple[Tensor, Tensor]:
        """Run the model on the main rows; return nats per labelled token, and all final states, (B * T, C)."""
        labels = F.pad(batch.labels[:, 1:], (0, 1), value=IGNORED).flatten()  # what each state predicts, (B * T,)
        if batch.rows.is_plain and self.config.loss_on == "all":
            at = None  # every token is labelled: so the result is bit for bit that of transformers
        else:
            at = (labels != IGNORED).nonzero().squeeze(1)  # (N,)
            labels = labels[at]
        states, logits = self.backbone.states_and_logits(batch.rows, self.predictor(), at)
        ce_sum = F.cross_entropy(full_precision(logits), labels, ignore_index=IGNORED, reduction="sum")
        return ce_sum / _at_least_one(batch.num_labels if num_labels is None else num_labels), states

    def _sides(self, batch: FusedBatch, states: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return predictions and targets of each direction, (P, C) each; `states` are the main forward's."""
        if not self.config.jepa_detach_backbone:
            return [self._side(views, states, states, batch.target_rows) for views in batch.views]
        with frozen(self.model):
            if batch.probe_rows is not None:
                probed = self.backbone.states(batch.probe_rows, self.predictor())
            else:  # no pair; [PRED] gets a gradient of zero, because other processes may wait for it
                probed = states.detach() + 0 * self.predictor().sum()
            return [self._side(views, probed, states, batch.target_rows) for views in batch.views]

    def _side(
        self, views: Views, pred_states: Tensor, states: Tensor, target_rows: Rows | None
    ) -> tuple[Tensor, Tensor]:
        """Return predictions and targets of one direction, (P, C) each."""
        pred = self.predictor.predict(pred_states[views.pred_at])
        if views.target_in_rows:
            target = states[views.target_at]
            return pred, target if self.config.jepa_target == "shared" else target.detach()
        assert target_rows is not None
        with torch.no_grad():
            layers = self.target.layers if self.target is not None else None
            return pred, self.backbone.states(target_rows, layers=layers)[views.target_at]

    def _distances(self, sides: list[tuple[Tensor, Tensor]], batch: FusedBatch) -> Tensor:
        """Return the distance of each pair, the mean over directions, (P,)."""
        return torch.stack([self._distance(pred, target, batch) for pred, target in sides]).mean(0)

    def _along_rows(self, batch: FusedBatch, states: Tensor, step: int | None) -> Tensor:
        """Return the term of Semantic Tube Prediction of each pair, (P,)."""
        assert batch.tubes is not None
        return tube_distances(self.config.jepa_term, states, batch.tubes, self.seed, step or 0)

    def _distance(self, pred: Tensor, target: Tensor, batch: FusedBatch) -> Tensor:
        """Return the distance of each pair in one direction, (P,)."""
        if self.config.jepa_distance not in IN_BATCH:
            return self.distance(pred, target)
        targets, first = self._of_all(target)
        preds = self._of_all(pred)[0] if self.config.jepa_distance == "infonce_symmetric" else pred
        return self.distance(pred, targets, first, preds, self._alike(batch.keys, first))

    def _alike(self, keys: Tensor | None, first: int) -> Tensor | None:
        """Return which targets of all processes are no negatives of this one's pairs, (B, N); None if all are."""
        if keys is None:
            return None
        alike = are_alike(keys, self._of_all(keys)[0])
        own = torch.arange(len(keys), device=keys.device)
        alike[own, first + own] = False
        return alike

    def _of_all(self, rows: Tensor) -> tuple[Tensor, int]:
        """Return the rows of all processes and the index of our first one; outside of training, ours alone."""
        if self.training and self.config.jepa_gather:
            return gather_rows(full_precision(rows) if rows.is_floating_point() else rows)
        return rows, 0

    def _terms(self, sides: list[tuple[Tensor, Tensor]], step: int | None, share: float | Tensor) -> dict[str, Tensor]:
        """Return the anti-collapse terms by name, without their weights: this batch's share of the step's mean."""
        if not self.anti_collapse.weights:
            return {}
        if step is None and self.training and self.config.jepa_sigreg_weight:
            raise _step_missing(f"jepa_sigreg_weight={self.config.jepa_sigreg_weight}")
        embeddings = [pred for pred, _ in sides]
        if self.config.jepa_target == "shared":
            embeddings += [target for _, target in sides]
        terms = self.anti_collapse([self._of_all(each)[0] for each in embeddings], step or 0)
        return {name: share * term for name, term in terms.items()}


def _step_missing(setting: str) -> ConfigError:
    text = f"{setting} draws random numbers in each optimizer step. Pass step=, the number of the step."
    return ConfigError("step_missing", text)


def _at_least_one(count: int | Tensor) -> int | Tensor:
    return count.clamp(min=1) if isinstance(count, Tensor) else max(count, 1)
