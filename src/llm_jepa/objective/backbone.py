"""What the objective needs from a transformers model, in one place: states, logits, and the form of its mask.

Everything that depends on how models are written in transformers is in this file.
Letters: B rows, T tokens in a row, C hidden size, V vocabulary, N labelled tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from llm_jepa.errors import ConfigError

from .layout import Rows
from .masks import additive_mask, block_mask, boolean_mask

FULL, SLIDING = "full_attention", "sliding_attention"
ATTENTION = ("sdpa", "eager", "flex_attention")
"""Implementations of attention that take a mask of any shape."""


class UnsupportedModelError(ConfigError):
    """The objective would be computed wrongly for this model; the text says why."""


class Backbone:
    """A decoder-only transformers model, seen as layers (tokens to states) and a head (states to logits).

    It holds no parameters of its own.

    Args:
        model: A `PreTrainedModel` with a language-modelling head, or such a model inside a PEFT adapter.

    Raises:
        UnsupportedModelError: If the model has no head or is not a decoder alone, if its attention implementation
            takes no mask, or if it has layers other than attention over the whole row or over a sliding window.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
            text = "A learned prompt puts its own tokens before every row, where the views would be read. Use LoRA."
            raise UnsupportedModelError("model_not_supported", text)
        through_peft: Any = getattr(model, "get_base_model", None)
        self.inner: Any = through_peft() if through_peft else model
        self.name = type(self.inner).__name__
        self.text_config = self._text_config()
        self.attention = getattr(self.text_config, "_attn_implementation", None) or "eager"
        self.windows = self._windows()
        self.longest_row = self._longest_row()
        self._check()

    @property
    def layers(self) -> nn.Module:
        """The model without its head: tokens to final states."""
        return self.inner.base_model

    @property
    def embeddings(self) -> nn.Module:
        """The table of input embeddings."""
        return self.inner.get_input_embeddings()

    @property
    def head(self) -> nn.Module:
        """The module that turns final states into logits."""
        return self.inner.get_output_embeddings()

    def _text_config(self) -> Any:
        config = getattr(self.inner, "config", None)
        if config is None:
            raise UnsupportedModelError(
                "model_not_supported", f"{self.name} is not a transformers model: it has no config."
            )
        return config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config

    def _windows(self) -> dict[str, int | None] | int | None:
        """Return the model's attention windows: None for none, a number for one, a dict where layers differ."""
        window = getattr(self.text_config, "sliding_window", None)
        kinds = set(getattr(self.text_config, "layer_types", None) or ())
        if unknown := kinds - {FULL, SLIDING}:
            raise UnsupportedModelError(
                "model_not_supported",
                f"{self.name} has layers of type {', '.join(sorted(unknown))}. The view mask needs attention over "
                "the whole row or over a sliding window: other layers would mix the views without an error.",
            )
        if kinds == {FULL, SLIDING}:
            return {FULL: None, SLIDING: window}
        return None if kinds == {FULL} else window

    def _longest_row(self) -> int | None:
        """Return how long a row with several views may be; None if there is no limit, as in most models.

        Local layers of GPT-Neo, and Doge's, count the tokens of the row themselves, whatever mask they are given. In a
        row that is longer than their window, [PRED] would not see the tokens that it sees right after the text.
        """
        config = self.text_config
        windows = [config.window_size] if "local" in (getattr(config, "attention_layers", None) or ()) else []
        windows += [config.keep_window_size] if getattr(config, "keep_window_size", None) else []
        return min(windows, default=None)

    @property
    def embedding_scale(self) -> float:
        """What the model multiplies rows of its table by before the first layer: mostly 1, but not in Gemma."""
        embeddings: Any = self.embeddings
        table = embeddings.weight
        if table.device.type == "meta" or not table.numel():
            return 1.0
        ids = torch.arange(min(256, len(table)), device=table.device)
        with torch.no_grad():
            read, own = embeddings(ids).float().norm(), table[: len(ids)].float().norm()
        ratio = float(read / own) if own > 0 else 1.0
        return 1.0 if abs(ratio - 1) < 1e-3 else ratio

    def _check(self) -> None:
        if self.attention not in ATTENTION:
            raise UnsupportedModelError(
                "value_not_allowed",
                f"{self.name} runs attention {self.attention!r}, which takes no mask of this shape. "
                'Load it with attn_implementation="sdpa" (or "eager", or on a GPU "flex_attention").',
            )
        if getattr(self.inner.config, "is_encoder_decoder", False):
            raise UnsupportedModelError(
                "model_not_supported", f"{self.name} has an encoder; LLM-JEPA needs a decoder-only model."
            )
        if self.layers is self.inner or self.head is None:
            raise UnsupportedModelError(
                "head_missing", f"{self.name} has no language-modelling head. Load it with AutoModelForCausalLM."
            )
        parameters = inspect.signature(self.layers.forward).parameters
        takes_any = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
        for needed in ("inputs_embeds", "position_ids", "attention_mask"):
            if needed not in parameters and not (takes_any and needed == "position_ids"):
                raise UnsupportedModelError(
                    "model_not_supported",
                    f"{self.name} takes no {needed}. Without it, [PRED] cannot be put right after the text view.",
                )

    def _inputs(self, rows: Rows, preds: Tensor | None) -> dict[str, Any]:
        """Return the arguments of one forward over `rows`; `preds` are the k [PRED] embeddings, (k, C)."""
        if self.attention == "flex_attention" and rows.input_ids.device.type == "cpu" and torch.is_grad_enabled():
            raise UnsupportedModelError(
                "device_not_capable",
                f"{self.name} runs attention 'flex_attention', which has no gradient on a CPU. Train on a GPU, or "
                'load it with attn_implementation="sdpa" (or "eager").',
            )
        if rows.is_plain:
            return {"input_ids": rows.input_ids, "attention_mask": rows.real.long(), "use_cache": False}
        if self.longest_row is not None and rows.input_ids.shape[1] > self.longest_row:
            raise UnsupportedModelError(
                "row_too_long",
                f"{self.name} has layers that see only the last {self.longest_row} tokens of a row, whatever mask they "
                f"are given. A row with its views has {rows.input_ids.shape[1]}, so the views would be cut. Set "
                "max_length lower, or use another model.",
            )
        inputs: dict[str, Any] = {"position_ids": rows.position_ids, "use_cache": False}
        inputs["attention_mask"] = self._mask(rows)
        if preds is None or len(preds) == 0:
            return inputs | {"input_ids": rows.input_ids}
        embeds = self.embeddings(rows.input_ids)  # (B, T, C)
        is_pred = rows.is_pred
        num_views = int(is_pred.sum()) // len(preds)  # each view has its k tokens, in order
        if num_views == 0 and not preds.requires_grad:
            return inputs | {"input_ids": rows.input_ids}
        embeds = embeds.masked_scatter(is_pred[:, :, None], preds.to(embeds.dtype).repeat(num_views, 1))
        return inputs | {"inputs_embeds": embeds}

    def _mask(self, rows: Rows) -> Any:
        """Render the view mask in the form that the model's layers take."""

        def render(window: int | None) -> Any:
            if self.attention == "sdpa":
                return boolean_mask(rows, window)
            if self.attention == "flex_attention":
                return block_mask(rows, window)
            return additive_mask(rows, self.embeddings.weight.dtype, window)  # type: ignore[arg-type]

        if isinstance(self.windows, dict):
            return {kind: render(window) for kind, window in self.windows.items()}
        return render(self.windows)

    def states(self, rows: Rows, preds: Tensor | None = None, layers: nn.Module | None = None) -> Tensor:
        """Return the final states of `rows`, flattened, (B * T, C), without running the head.

        Args:
            rows: The rows.
            preds: The [PRED] embeddings, (k, C), where the rows hold any.
            layers: Layers to use instead of the model's own (a slow copy of them).
        """
        output = (layers or self.layers)(**self._inputs(rows, preds))
        return output.last_hidden_state.flatten(0, 1)

    def states_and_logits(self, rows: Rows, preds: Tensor | None, at: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the final states, (B * T, C), and the logits at the states `at` only, (N, V).

        The whole model runs in one call, because a wrapper for several processes needs that, and because the model may
        change its logits after the head (soft caps, scales). Only the input of the head is cut to the wanted states.

        Args:
            rows: The rows.
            preds: The [PRED] embeddings, (k, C), where the rows hold any.
            at: Indices of the wanted states among the B * T, (N,); None for all of them, N = B * T.
        """
        with _head_narrowed_to(self.head, at) as seen:
            logits = self.model(**self._inputs(rows, preds)).logits  # (1, N, V), or (B, T, V)
        return seen[0].flatten(0, 1), logits.flatten(0, 1)


@contextmanager
def _head_narrowed_to(head: nn.Module, at: Tensor | None) -> Iterator[list[Tensor]]:
    """Within the context, `head` gets only the flattened states `at`; yield a list that gets all states."""
    seen: list[Tensor] = []

    def narrow(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        seen.append(arguments[0])  # (B, T, C)
        return None if at is None else (arguments[0].flatten(0, 1)[at].unsqueeze(0),)  # (1, N, C)

    handle = head.register_forward_pre_hook(narrow)
    try:
        yield seen
    finally:
        handle.remove()


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Within the context, `module` is in evaluation mode, and its parameters get no gradient.

    Gradients still flow through the module to its inputs. Graphs that were made before keep their gradients, if they
    run backward after the context has ended. In evaluation mode there is no dropout, and no gradient checkpointing,
    which would compute activations again after the context.
    """
    training = {each: each.training for each in module.modules()}
    trained = [each for each in module.parameters() if each.requires_grad]
    module.eval().requires_grad_(False)
    try:
        yield
    finally:
        for each, was_training in training.items():
            each.training = was_training
        for parameter in trained:
            parameter.requires_grad_()


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Within the context, `module` is in evaluation mode and no gradient is computed; afterwards it is as before."""
    training = {each: each.training for each in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for each, was_training in training.items():
            each.training = was_training
