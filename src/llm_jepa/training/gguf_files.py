"""Models in a GGUF file, the format of llama.cpp: transformers reads them, and turns them into ordinary weights."""

from __future__ import annotations

import importlib.util
import io
import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from llm_jepa.errors import ConfigError, first_line
from llm_jepa.files import put_in_place, staged_beside

from .whole_model import load_whole_model

FLOATS = ("F64", "F32", "F16", "BF16")
"""Types of tensors that are not quantized."""


def check_gguf(folder: Path, name: str) -> None:
    """Raise ConfigError if the package gguf or the file is missing."""
    if importlib.util.find_spec("gguf") is None:
        text = f"gguf_file={name!r} needs the package gguf, which is not installed: `pip install 'llm-jepa[gguf]'`."
        raise ConfigError("package_missing", text)
    if not (folder / name).is_file():
        found = ", ".join(sorted(each.name for each in folder.glob("*.gguf"))) or "no .gguf file"
        raise ConfigError("file_missing", f"gguf_file={name!r} is not in {folder}, which holds {found}.")


def load_gguf_tokenizer(folder: Path, name: str) -> PreTrainedTokenizerBase:
    """Return the tokenizer that a GGUF file holds; ConfigError if it cannot be read."""
    check_gguf(folder, name)
    with _reading(folder / name, "Or set tokenizer_name_or_path to the model's tokenizer."):
        tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), gguf_file=name)
    # transformers (5.23) adds GPT-2's <|endoftext|> to every byte-level tokenizer. The model has no row for its id.
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    _, num_tokens = _read(folder / name)
    if any(each["id"] >= num_tokens for each in backend["added_tokens"]):
        backend["added_tokens"] = [each for each in backend["added_tokens"] if each["id"] < num_tokens]
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(backend))
    return tokenizer


def load_gguf_model(folder: Path, name: str, *, dtype: torch.dtype, attention: str | None = None) -> Any:
    """Return the model of a GGUF file with plain weights of `dtype`, and without the mark that they were quantized."""
    check_gguf(folder, name)
    kind = getattr(transformers, "GgufConfig", None)  # without it the package `kernels` would keep the weights packed
    how = {} if kind is None else {"quantization_config": kind(dequantize=True)}
    with _reading(folder / name):
        model = load_whole_model(str(folder), gguf_file=name, dtype=dtype, attn_implementation=attention, **how)
    if (quantizer := getattr(model, "hf_quantizer", None)) is not None:
        quantizer.remove_quantization_config(model)  # `save_pretrained` and the Trainer would refuse the model
    return model


@contextmanager
def _reading(file: Path, hint: str = "") -> Iterator[None]:
    """Hide transformers' progress bar if there is no terminal, and name the file in its errors."""
    try:
        with redirect_stderr(sys.stderr if sys.stderr.isatty() else io.StringIO()):
            yield
    except Exception as error:  # the file is cut off, or the reader does not know the architecture or the tokenizer
        version = transformers.__version__
        raise ConfigError(
            "gguf_not_readable",
            f"{file} cannot be read: {first_line(error).rstrip('.')}. Expected a whole GGUF file of an "
            f"architecture that transformers {version} reads (Llama, Qwen, Gemma, Mistral, Phi-3 and others). "
            f"{hint}".rstrip(),
        ) from error


@lru_cache
def _read(file: Path) -> tuple[Counter[str], int]:
    """Return the number of tensors of each type (F32, Q4_1, ...), and of tokens; a large file takes seconds."""
    from gguf import GGUFReader

    with _reading(file):
        reader = GGUFReader(file)
        types = Counter(tensor.tensor_type.name for tensor in reader.tensors)
        return types, len(reader.fields["tokenizer.ggml.tokens"].data)


def about_quantization(file: Path) -> list[str]:
    """Return a sentence about the weights of a GGUF file if they were quantized, and an empty list if not."""
    tensors, _ = _read(file)
    types = {name: count for name, count in tensors.items() if name not in FLOATS}
    if not types:
        return []
    listed = ", ".join(f"{name} in {count}" for name, count in sorted(types.items()))
    return [
        f"The weights of {file.name} were quantized ({listed} of {sum(tensors.values())} tensors). Training "
        "starts from the rounded weights, which are slightly worse than those of the original model."
    ]


def convert_gguf(file: Path, out: Path) -> dict[str, Any]:
    """Write the model and the tokenizer of a GGUF file as a plain transformers folder `out`, in float32.

    Returns `source`, `out`, `format` ("transformers"), `parameters` and `notes`. It is a ConfigError if `out` exists
    already, or the file cannot be read.
    """
    if out.exists():
        raise ConfigError("file_exists", f"{out} exists already. Choose another name.")
    model = load_gguf_model(file.parent, file.name, dtype=torch.float32)
    tokenizer = load_gguf_tokenizer(file.parent, file.name)
    out.parent.mkdir(parents=True, exist_ok=True)
    with staged_beside(out.resolve()) as beside:
        model.save_pretrained(beside)
        tokenizer.save_pretrained(beside)
        put_in_place(beside, out.resolve())
    parameters = sum(each.numel() for each in model.parameters())
    notes = about_quantization(file)
    return {"source": str(file), "out": str(out), "format": "transformers", "parameters": parameters, "notes": notes}
