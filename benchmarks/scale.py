"""What a step costs and holds in memory, from one GPU to 64: computed from shapes, not measured.

    python benchmarks/scale.py                     # the tables of docs/scale.md

Every number comes from a formula of this file. tests/benchmarks/test_scale.py checks the operations against PyTorch's
counter, and the parameters and saved activations against small models; the rest follows from how DDP and FSDP2 work.

Letters: B pairs on a device, T tokens of a plain row, k [PRED] tokens, C hidden size, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

GIB, GB = 2**30, 1e9


@dataclass(frozen=True)
class Shape:
    """The shape of a Llama-like model."""

    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    vocab: int
    tied: bool

    @property
    def kv_width(self) -> int:
        """Width of the keys, and of the values."""
        return self.hidden * self.kv_heads // self.heads

    @property
    def layer_matrices(self) -> int:
        """Parameters of one layer that multiply: attention and feed-forward."""
        return 2 * self.hidden**2 + 2 * self.hidden * self.kv_width + 3 * self.hidden * self.ffn

    @property
    def layer_parameters(self) -> int:
        """Parameters of all layers, their norms included."""
        return self.layers * (self.layer_matrices + 2 * self.hidden)

    @property
    def parameters(self) -> int:
        """All parameters; a tied head counts once."""
        return self.layer_parameters + self.hidden + self.vocab * self.hidden * (1 if self.tied else 2)


# The published shapes of Llama-3.2-1B, Llama-3.1-8B and Llama-3.1-70B (their config.json).
SHAPES = {
    "1B": Shape(16, 2048, 8192, 32, 8, 128256, tied=True),
    "8B": Shape(32, 4096, 14336, 32, 8, 128256, tied=False),
    "70B": Shape(80, 8192, 28672, 64, 8, 128256, tied=False),
}


@dataclass(frozen=True)
class Step:
    """Rows of one device in one micro-batch, all of one length, and the objective.

    Attributes:
        pairs: B.
        text: Tokens of the text view, bridge included.
        code: Tokens of the code, its end token included.
        k: [PRED] tokens; None for plain training (`jepa_lambda` 0).
        target: stop_grad, ema or shared.
    """

    pairs: int = 4
    text: int = 256
    code: int = 256
    k: int | None = None
    target: str = "stop_grad"

    @property
    def width(self) -> int:
        """Tokens of a row in the main forward."""
        inside = self.code - 1 if self.k is not None and self.target == "shared" else 0
        return self.text + self.code + (self.k or 0) + inside

    @property
    def labels(self) -> int:
        """Positions at which the head runs: all of a plain row, the labelled ones of a fused one."""
        return self.pairs * (self.text + self.code - (self.k is not None))

    def target_rows(self) -> tuple[int, int]:
        """Return number and width of the rows of the targets' own forward; codes share rows."""
        if self.k is None or self.target == "shared":
            return 0, 0
        each = max(self.width // (self.code - 1), 1)
        return math.ceil(self.pairs / each), (self.code - 1) * min(each, self.pairs)


def forward_flops(shape: Shape, rows: int, width: int, head_positions: int) -> float:
    """Operations of one forward; attention over whole rows, the masked half included, as PyTorch counts it."""
    linear = 2 * rows * width * shape.layers * shape.layer_matrices
    attention = 4 * rows * width**2 * shape.layers * shape.hidden
    return linear + attention + 2 * head_positions * shape.hidden * shape.vocab


def step_flops(shape: Shape, step: Step) -> float:
    """Operations of forward and backward of a micro-batch on one device, without recomputing.

    A backward is twice its forward. The targets of stop_grad and ema have only a forward, without the head.
    """
    main = 3 * forward_flops(shape, step.pairs, step.width, step.labels)
    return main + forward_flops(shape, *step.target_rows(), 0)


def activation_bytes(shape: Shape, step: Step, *, checkpointing: bool, mixed: bool = True) -> float:
    """Bytes kept from the forward for the backward, on one device.

    Of each token, a layer keeps: two norms' inputs, in float32, and normed values; the input of the projections;
    queries, keys and values as attention reads them, and its output; of the feed-forward its input and four tensors
    of its width. With our own mask, keys and values are repeated to the number of heads, and each layer keeps the
    mask as numbers. With checkpointing a layer keeps its input, and one layer at a time is recomputed. Of each
    labelled position, logits are kept: in half precision, in float32, and as log-probabilities. Scores of attention
    are not kept (fused kernels).
    """
    size = 2 if mixed else 4
    tokens, fused = step.pairs * step.width, step.k is not None
    norm = (4 + 4 if mixed else 2 * size) * shape.hidden
    inputs = 2 * size * shape.hidden  # of the projections, of the feed-forward
    attention = 2 * size * (shape.hidden + (shape.hidden if fused else shape.kv_width))
    mask = size * step.pairs * step.width**2 if fused else 0
    layer = tokens * (2 * norm + inputs + attention + 4 * size * shape.ffn) + mask
    layers = shape.layers * tokens * size * shape.hidden + layer if checkpointing else shape.layers * layer
    head = tokens * norm + step.labels * (shape.hidden * size + shape.vocab * (size + 4 + 4 if mixed else 4))
    return layers + head


def state_bytes(shape: Shape, *, devices: int, sharded: bool) -> float:
    """Bytes of weights, gradients and AdamW's two moments on one device: float32, computing in bfloat16.

    DDP holds all of it, the buckets in which gradients are sent, and autocast's bfloat16 copy of the weights. FSDP2
    holds its share, and in full only what is in use: the outermost unit (embeddings, head) and two layers in
    bfloat16, and the gradient of one layer.
    """
    whole = 16 * shape.parameters
    if not sharded:
        return whole + ((4 * shape.parameters) if devices > 1 else 0) + 2 * shape.parameters
    layer = shape.layer_parameters / shape.layers
    root = shape.parameters - shape.layer_parameters
    return whole / devices + 2 * (root + 2 * layer) + 2 * max(root, layer)


def table_of_operations() -> str:
    """Operations of a micro-batch: plain, and what the JEPA term adds."""
    plain = Step()
    columns = {
        "k = 1, stop_grad": Step(k=1),
        "k = 4, stop_grad": Step(k=4),
        "k = 1, shared": Step(k=1, target="shared"),
    }
    lines = [_row("model", "parameters, billion", "plain, TFLOP", *(f"{name}, ratio" for name in columns))]
    for name, shape in SHAPES.items():
        base = step_flops(shape, plain)
        ratios = [f"{step_flops(shape, step) / base:.2f}" for step in columns.values()]
        lines.append(_row(name, f"{shape.parameters / 1e9:.2f}", f"{base / 1e12:,.1f}", *ratios))
    return _table(lines)


def table_of_memory() -> str:
    """Memory on one device: state, activations, and what the most frugal way that fits is."""
    lines = [_row("model", "devices", "state DDP", "state FSDP2", "activations", "with checkpointing", "80 GB device")]
    step = Step(k=1)
    for name, shape in SHAPES.items():
        kept, frugal = (activation_bytes(shape, step, checkpointing=each) for each in (False, True))
        for devices in (1, 8, 64):
            whole, part = (state_bytes(shape, devices=devices, sharded=each) for each in (False, True))
            fits = [
                f"{way}{', checkpointing' if saved is frugal else ''}"
                for way, state in (("DDP", whole), ("FSDP2", part))
                for saved in (kept, frugal)
                if (state + saved) * 1.1 < 80 * GB and not (way == "FSDP2" and devices == 1)
            ]
            sizes = [f"{each / GIB:,.0f}" for each in (whole, part, kept, frugal)]
            if devices == 1:
                sizes[1] = "-"
            lines.append(_row(name, str(devices), *sizes, fits[0] if fits else "no"))
    return _table(lines)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _table(lines: Iterable[str]) -> str:
    head, *rest = lines
    return "\n".join([head, "|" + "---|" * (head.count("|") - 1), *rest])


TABLES = {"operations": table_of_operations, "memory": table_of_memory}


if __name__ == "__main__":
    for title, table in TABLES.items():
        print(f"{title}\n\n{table()}\n")
