"""Tiny experiments: sixty generated pairs, three steps, runs in forked processes that need not import anything."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

from llm_jepa.data.nlrx import generate_splits, write_jsonl
from llm_jepa.data.tokenizer import train_tokenizer
from llm_jepa.experiments import executor, forks
from llm_jepa.experiments.run import train_run
from llm_jepa.experiments.settings import read_run


@pytest.fixture(scope="session")
def pair_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Sixty training and twelve test pairs, as files."""
    folder = tmp_path_factory.mktemp("pairs")
    train, test = generate_splits(60, 12, seed=0)
    write_jsonl(train, folder / "train.jsonl")
    write_jsonl(test, folder / "test.jsonl")
    return folder / "train.jsonl", folder / "test.jsonl"


@pytest.fixture(scope="session")
def tiny_settings(pair_files: tuple[Path, Path]) -> Callable[..., dict[str, Any]]:
    """Flat settings of a run of seconds, with changes; None takes a key away."""

    def make(**changes: Any) -> dict[str, Any]:
        settings = {
            "train_file": str(pair_files[0]),
            "test_file": str(pair_files[1]),
            "validation_size": 8,
            "vocab_size": 300,
            "max_steps": 3,
            "per_device_train_batch_size": 4,
            "logging_steps": 1,
            "eval_steps": 2,
            "monitor_pairs": 8,
            "validation_generations": 2,
            "max_new_tokens": 4,
            "use_cpu": True,
            **changes,
        }
        return {key: value for key, value in settings.items() if value is not None}

    return make


@pytest.fixture(scope="session")
def lora_home(pair_files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pairs and a pretrained model beside them. Read only."""
    folder = tmp_path_factory.mktemp("lora")
    for file in pair_files:
        shutil.copy(file, folder)
    tokenizer = train_tokenizer([pair_files[0].read_text()], 320)
    torch.manual_seed(0)
    size: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=256, **size))
    model.save_pretrained(folder / "base" / "llama")
    tokenizer.save_pretrained(folder / "base" / "llama")
    return folder


@pytest.fixture(scope="session")
def lora_settings(tiny_settings: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """Those of a run of LoRA matrices, with names relative to `lora_home`."""
    return tiny_settings(
        train_file="train.jsonl",
        test_file="test.jsonl",
        vocab_size=None,
        model_name_or_path="base/llama",
        lora_r=4,
        lora_dropout=0.1,
        jepa_k=2,
        save_steps=2,
        max_steps=4,
        learning_rate=1e-2,
    )


@pytest.fixture(scope="session")
def lora_run(lora_home: Path, lora_settings: dict[str, Any]) -> Path:
    """The folder of a whole run. Read only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(lora_home)
        train_run(read_run(lora_settings), 7, Path("run"))
    return lora_home / "run"


class ForkedServer:
    """The server that forks runs, itself forked from this process instead of started anew: imports take seconds."""

    def __init__(self, connection: socket.socket, ours: socket.socket, environment: dict[str, str], log: int) -> None:
        self.pid = os.fork()
        if self.pid:
            return
        code = 1
        try:
            tqdm.set_lock(
                threading.RLock()
            )  # tqdm's own is shared with the parent, and would stop both if one is killed
            ours.close()
            os.environ.update(environment)
            os.dup2(log, 1)
            os.dup2(log, 2)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            torch.set_num_threads(1)
            code = forks.serve(connection)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def fork_server(environment: dict[str, str], kept_open: Sequence[int]) -> tuple[Any, socket.socket, Any]:
    """Do what `executor.launch_server` does, from this process."""
    ours, theirs = socket.socketpair()
    log = tempfile.TemporaryFile()  # noqa: SIM115
    with theirs:
        return ForkedServer(theirs, ours, environment, log.fileno()), ours, log


@pytest.fixture(scope="session")
def warmed_up(tiny_settings: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Do one run in this process, so that forked ones find every module imported."""
    train_run(read_run(tiny_settings(max_steps=1)), 0, tmp_path_factory.mktemp("warm") / "run")


@pytest.fixture(scope="module")
def quick_runs(warmed_up: None) -> Iterator[list[str]]:
    """Fork runs instead of starting processes, where that can be done; yield a list that gets the runs started."""
    started: list[str] = []
    start = executor.local_pool

    def open_pool(*arguments: Any) -> Any:
        pool = start(*arguments)
        start_one = pool.start
        pool.start = lambda job: started.append(job.name) or start_one(job)
        return pool

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executor, "local_pool", open_pool)
        if sys.platform == "linux":
            patch.setattr(executor, "launch_server", fork_server)
        patch.setattr(executor, "POLL_S", 0.02)
        patch.setenv("TOKENIZERS_PARALLELISM", "false")
        yield started


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], dict[str, bytes]]:
    """Read every file below a folder: what must not change, can be compared."""

    def read(folder: Path) -> dict[str, bytes]:
        files = (path for path in sorted(folder.rglob("*")) if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}

    return read
