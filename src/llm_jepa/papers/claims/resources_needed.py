"""What a claim needs at the papers' size: weights, data, and hours of one GPU, by one formula for all claims.

    hours = runs * (training + generation + start) / 3600 s
    training   = cost * 6 * parameters * tokens / (PEAK * TRAINING_SHARE)      tokens = rows * tokens a row * epochs
    generation = 2 * parameters * test rows * (tokens a row + new tokens) / (PEAK * GENERATION_SHARE)

`cost` is the mean over the arms: STEP_COST for an arm with gradient through both views, 1 for an arm without. With LoRA
a step costs two thirds (frozen weights need no gradient). Rows are not padded to 512, unlike those of the papers.
"""

from __future__ import annotations

from dataclasses import dataclass

from .catalogue import Claim
from .plan import SEEDS

PEAK = 989e12
"""FLOP/s of an H100 SXM in bf16, dense, by its data sheet."""
TRAINING_SHARE = 0.25
"""Of the peak, in training on short rows: an assumption."""
GENERATION_SHARE = 0.02
"""Of the peak, in greedy generation by batches: an assumption; memory bandwidth limits it."""
START_S = 60
"""Seconds to load and to save a model: an assumption."""
STEP_COST = 2.0
"""Cost of a JEPA step over a plain one, with [PRED] and gradient through both views.

Measured in docs/results.md: 1.5 fused, 2.1 apart.
"""
ARMS = 4
"""Plain, the method, and two controls."""


@dataclass(frozen=True)
class Model:
    """A model of the papers, by its name on the hub; None for random weights.

    `gated`: its licence must be accepted on the hub before a download. `note`: what else is needed.
    """

    hub: str | None
    parameters: float
    gated: bool = False
    note: str = ""


@dataclass(frozen=True)
class Dataset:
    """A data set of the papers: `STEM_train.jsonl` and `STEM_test.jsonl` in the folder of data.

    Attributes:
        train_rows: None if the papers do not say.
        row_tokens: Mean tokens of a row, chat template included: our estimate.
        new_tokens: Most tokens of an answer.
        metric: The scorer that measures what the papers do.
    """

    stem: str
    train_rows: int | None
    test_rows: int
    row_tokens: int
    new_tokens: int
    source: str
    metric: str = "exact_match"


MODELS: dict[str, Model] = {
    "Llama-3.2-1B-Instruct": Model("meta-llama/Llama-3.2-1B-Instruct", 1.24e9, gated=True),
    "Llama-3.2-1B-Instruct (random init)": Model(None, 1.24e9),
    "Llama-3.2-3B-Instruct": Model("meta-llama/Llama-3.2-3B-Instruct", 3.21e9, gated=True),
    "Llama-3.1-8B-Instruct": Model("meta-llama/Llama-3.1-8B-Instruct", 8.03e9, gated=True),
    "gemma-2-2b-it": Model("google/gemma-2-2b-it", 2.61e9, gated=True),
    "OpenELM-1_1B-Instruct": Model(
        "apple/OpenELM-1_1B-Instruct", 1.08e9, note="code of its own (trust_remote_code), and Llama-2's tokenizer"
    ),
    "OLMo-2-0425-1B-Instruct": Model("allenai/OLMo-2-0425-1B-Instruct", 1.48e9),
    "OLMo-2-1124-7B-Instruct": Model("allenai/OLMo-2-1124-7B-Instruct", 7.30e9),
    "Qwen3-1.7B": Model("Qwen/Qwen3-1.7B", 1.72e9),
    "DeepSeek-R1-Distill-Qwen-1.5B": Model("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", 1.78e9),
}

_NLRX = "Locascio et al., 2016 (deep-regex on GitHub, MIT)"
DATASETS: dict[str, Dataset] = {
    "NL-RX-SYNTH": Dataset("nlrx_synth", 8000, 2000, 80, 64, _NLRX),
    "NL-RX-TURK": Dataset("nlrx_turk", 8000, 2000, 80, 64, _NLRX),
    "GSM8K": Dataset("gsm8k", 7473, 1319, 300, 256, "openai/gsm8k on the hub (MIT)", "number"),
    "Spider": Dataset("spider", 7000, 1034, 100, 128, "xlangai/spider on the hub, and its databases", "sql"),
    "NQ-Open": Dataset("nq_open", 87925, 3610, 60, 32, "google-research-datasets/nq_open on the hub", "any_of"),
    "HellaSwag": Dataset("hellaswag", 39905, 2000, 180, 1, "Rowan/hellaswag on the hub (MIT)", "choice"),
    "cestwc/paraphrase": Dataset("paraphrase", None, 0, 60, 0, "cestwc/paraphrase on the hub"),
    "Rotten Tomatoes": Dataset("rotten_tomatoes", 8530, 1066, 80, 4, "cornell-movie-review-data/rotten_tomatoes"),
    "Yelp": Dataset("yelp", 650000, 50000, 220, 4, "Yelp/yelp_review_full on the hub"),
}
_ALIASES = {
    "NL-RX-SYNTH (assumed)": ("NL-RX-SYNTH",),
    "NL-RX (TURK and SYNTH)": ("NL-RX-TURK", "NL-RX-SYNTH"),
    "NL-RX": ("NL-RX-TURK", "NL-RX-SYNTH"),
    "HellaSwag (2000 test items)": ("HellaSwag",),
    "cestwc/paraphrase -> Rotten Tomatoes": ("cestwc/paraphrase", "Rotten Tomatoes"),
    "cestwc/paraphrase -> Yelp": ("cestwc/paraphrase", "Yelp"),
    "SYNTH/TURK/Spider/GSM8K": ("NL-RX-SYNTH", "NL-RX-TURK", "Spider", "GSM8K"),
}


def models_of(claim: Claim) -> list[Model]:
    """Return the models that a claim is about."""
    if claim.model == "Llama3/Gemma2/OpenELM":
        return [MODELS[name] for name in ("Llama-3.2-1B-Instruct", "gemma-2-2b-it", "OpenELM-1_1B-Instruct")]
    return [] if claim.model is None else [MODELS[claim.model]]


def datasets_of(claim: Claim) -> list[Dataset]:
    """Return the data sets that a claim is about."""
    if claim.dataset is None:
        return []
    return [DATASETS[name] for name in _ALIASES.get(claim.dataset, (claim.dataset,))]


def weights_of(claim: Claim) -> str:
    """Return `none`, `free` or `gated`, the strictest of its models; `-` without a model."""
    models = models_of(claim)
    if any(model.gated for model in models):
        return "gated"
    return ("free" if any(model.hub for model in models) else "none") if models else "-"


def gpu_hours(claim: Claim) -> float | None:
    """Return the hours of one H100 that a claim's runs take at the papers' size; None if a number is missing."""
    models, datasets = models_of(claim), datasets_of(claim)
    if not models or not datasets or any(each.train_rows is None for each in datasets):
        return None
    epochs = claim.config.get("epochs") or 4
    cost = (1 + STEP_COST) / 2 * (2 / 3 if claim.regime == "lora" else 1)  # half of the arms have a JEPA term
    seconds = sum(_run_seconds(model, data, epochs, cost) for model in models for data in datasets)
    return ARMS * len(SEEDS) * seconds / 3600


def _run_seconds(model: Model, data: Dataset, epochs: float, cost: float) -> float:
    tokens = (data.train_rows or 0) * data.row_tokens * epochs
    training = cost * 6 * model.parameters * tokens / (PEAK * TRAINING_SHARE)
    answers = 2 * model.parameters * data.test_rows * (data.row_tokens + data.new_tokens)
    return training + answers / (PEAK * GENERATION_SHARE) + START_S
