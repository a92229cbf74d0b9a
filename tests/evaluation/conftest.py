"""A model that has learned four pairs by heart, with all that evaluation needs beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from llm_jepa.data.config import DataConfig
from llm_jepa.data.encode import PairEncoder
from llm_jepa.data.encoded_pairs import EncodedPairs
from llm_jepa.data.prepare import load_rows
from llm_jepa.data.tokenizer import train_tokenizer
from llm_jepa.objective import LLMJEPA, FusedCollator, JEPAConfig

ROWS = [
    {"text": "lines with a dog", "code": ".*dog.*"},
    {"text": "lines with a number", "code": ".*[0-9].*"},
    {"text": "lines that end with x", "code": ".*x"},
    {"text": "empty lines", "code": "(){1}"},
]


@pytest.fixture(scope="session")
def learned(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """`jepa`, `encoder`, `rows`, `folder`: a model trained until it knows ROWS by heart. Read only."""
    folder = tmp_path_factory.mktemp("learned")
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    data = DataConfig(train_file=str(file))
    tokenizer = train_tokenizer([text for row in ROWS for text in row.values()], 280)
    encoder = PairEncoder(tokenizer, data)
    rows = load_rows(str(file), encoder)
    jepa = _learn(rows, len(tokenizer), encoder.pad_id)
    return SimpleNamespace(jepa=jepa, encoder=encoder, rows=rows, folder=folder, data=data)


def _learn(rows: EncodedPairs, vocab_size: int, pad_id: int) -> LLMJEPA:
    torch.manual_seed(0)
    size = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    model: nn.Module = LlamaForCausalLM(LlamaConfig(vocab_size=vocab_size, **size))
    jepa = LLMJEPA(model, JEPAConfig(jepa_distance="infonce", jepa_target="shared", jepa_lambda=0.3))
    batch = FusedCollator(jepa.config, pad_id)(rows.pairs)
    optimizer = torch.optim.AdamW(jepa.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        jepa(batch).loss.backward()
        optimizer.step()
    return jepa.eval()


@pytest.fixture
def some_rows(learned: SimpleNamespace) -> Callable[..., EncodedPairs]:
    """Encode other rows as the learned model's."""

    def encode(*rows: dict[str, str]) -> EncodedPairs:
        file = learned.folder / "other.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return load_rows(str(file), learned.encoder)

    return encode
