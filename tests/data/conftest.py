"""Small files and tokenizers, made on the spot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import AddedToken, processors
from transformers import PreTrainedTokenizerFast

from llm_jepa.data.tokenizer import train_tokenizer

SHARED_DATA = Path(__file__).parents[3] / "shared" / "data"

CORPUS = ["lines with a dog", "lines with a number", ".*dog.*", ".*[0-9].*", "you are a helper", "user assistant"]

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content | trim }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% if no_think %}<think>{% endif %}{% endif %}"
)


@pytest.fixture
def write_lines(tmp_path: Path) -> Callable[..., str]:
    """Write objects (as JSON), strings and bytes as the lines of a .jsonl file; return its path."""

    def write(*lines: object, name: str = "rows.jsonl", end: bytes = b"\n") -> str:
        raw = [
            line if isinstance(line, bytes) else (line if isinstance(line, str) else json.dumps(line)).encode()
            for line in lines
        ]
        path = tmp_path / name
        path.write_bytes(b"".join(line + end for line in raw))
        return str(path)

    return write


@pytest.fixture(scope="session")
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Our own byte-level BPE: ids 0, 1, 2 are pad, end and sep; no chat template."""
    return train_tokenizer(CORPUS, 300)


@pytest.fixture
def bos_tokenizer() -> PreTrainedTokenizerFast:
    """A user's tokenizer: puts a start token before a text, has no separator; pad is end. New for each test."""
    tokenizer = train_tokenizer(CORPUS, 300)
    tokenizer.add_tokens([AddedToken("<s>", special=True)])
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.convert_tokens_to_ids("<s>"))]
    )
    tokenizer.bos_token = "<s>"
    tokenizer.sep_token = None
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


@pytest.fixture
def chat_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with a ChatML template; new for each test."""
    tokenizer = train_tokenizer(CORPUS, 300)
    tokenizer.add_tokens([AddedToken(token, special=True) for token in ("<|im_start|>", "<|im_end|>")])
    tokenizer.chat_template = CHATML
    return tokenizer


@pytest.fixture(scope="session")
def synth_files() -> tuple[str, str]:
    """The published NL-RX-SYNTH files, train and test, where they lie beside the project."""
    files = [SHARED_DATA / f"nlrx_synth_{split}.jsonl" for split in ("train", "test")]
    if not all(file.exists() for file in files):
        pytest.skip("the NL-RX-SYNTH files are not beside the project (../shared/data)")
    return str(files[0]), str(files[1])
