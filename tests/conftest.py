"""Tiny random models and pairs, built in memory: what nearly every test starts from."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import shutil

import pytest
import torch
import transformers
from accelerate.state import AcceleratorState, GradientState
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PrinterCallback

from llm_jepa.data.nlrx import generate_splits
from llm_jepa.data.tokenizer import train_tokenizer
from llm_jepa.errors import LLMJEPAError
from llm_jepa.experiments import jobs, workers
from llm_jepa.experiments.jobs import Attempt, Job
from llm_jepa.files import write_json_lines
from llm_jepa.objective import LLMJEPA, JEPAConfig, Pair
from llm_jepa.report import experiment_report
from llm_jepa.runs.run import train_run
from llm_jepa.runs.settings import read_run
from llm_jepa.training.arguments import JEPATrainingArguments
from llm_jepa.training.trainer import JEPATrainer
from tests.children import run_and_exit

# A process that a test forks from this one starts a server of its own: it cannot wait for that of its parent.
os.register_at_fork(after_in_child=forkserver._forkserver.__init__)
torch.set_num_threads(1)  # tiny models: a second thread costs more than it gives

VOCAB_SIZE = 64
WINDOW = 4  # shorter than the rows, so that it bites

_LLAMA_SIZE = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
_GPT2_SIZE = {
    "vocab_size": VOCAB_SIZE,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 128,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "bos_token_id": None,
    "eos_token_id": 1,
}

TINY_MODELS: dict[str, tuple[str, dict]] = {
    "llama": ("Llama", _LLAMA_SIZE),
    "gpt2": ("GPT2", _GPT2_SIZE),
    "qwen3": ("Qwen3", {**_LLAMA_SIZE, "head_dim": 8}),
    "mistral": ("Mistral", {**_LLAMA_SIZE, "head_dim": 8, "sliding_window": WINDOW}),
    "gemma2": (
        "Gemma2",
        {**_LLAMA_SIZE, "head_dim": 8, "sliding_window": WINDOW, "query_pre_attn_scalar": 8},
    ),
    "qwen2": ("Qwen2", _LLAMA_SIZE),
    "gemma3": (
        "Gemma3",
        {
            **_LLAMA_SIZE,
            "head_dim": 8,
            "sliding_window": WINDOW,
            "query_pre_attn_scalar": 8,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "olmo2": ("Olmo2", _LLAMA_SIZE),
    "phi": ("Phi", _LLAMA_SIZE),
    "gpt_neox": ("GPTNeoX", {key: size for key, size in _LLAMA_SIZE.items() if key != "num_key_value_heads"}),
}
FAMILIES = tuple(TINY_MODELS)


def build_tiny_model(name: str, seed: int = 0, attention: str | None = None, **changes) -> nn.Module:
    """Return a random model of a few thousand parameters, in training mode; `attention` is sdpa or eager."""
    family, size = TINY_MODELS[name]
    kind = "TextConfig" if family == "Gemma3" else "Config"  # the plain name is that of the model with images
    config = getattr(transformers, family + kind)(**{**size, **changes})
    config._attn_implementation = attention or ("eager" if name == "gemma2" else "sdpa")
    torch.manual_seed(seed)
    head = "LMHeadModel" if family == "GPT2" else "ForCausalLM"
    return getattr(transformers, family + head)(config).train()


def build_pairs(num_pairs: int, seed: int = 0, longest: int = 12, bridge: int = 3) -> list[Pair]:
    """Return random pairs of uneven lengths over ids 2 to VOCAB_SIZE - 1; id 1 is the end token."""
    generator = torch.Generator().manual_seed(seed)

    def ids(low: int, high: int) -> list[int]:
        length = int(torch.randint(low, high + 1, (), generator=generator))
        return torch.randint(2, VOCAB_SIZE, (length,), generator=generator).tolist()

    return [Pair(ids(1, longest), [*ids(1, longest), 1], ids(0, bridge)) for _ in range(num_pairs)]


def build_mixed_pairs(num_pairs: int, seed: int = 0, **size) -> list[Pair]:
    """Return pairs of every kind in turn: both views rendered apart, prefix views, text apart, code apart, no views."""
    pairs, apart = build_pairs(num_pairs, seed, **size), build_pairs(num_pairs, seed + 1000, **size)
    for number, (pair, view) in enumerate(zip(pairs, apart, strict=True)):
        pair.text_view_ids = view.text_ids if number % 5 in (0, 2) else None
        pair.code_view_ids = view.code_view if number % 5 in (0, 3) else None
        pair.use_jepa = number % 5 != 4
    return pairs


@contextmanager
def _raises(code: str, *values: object, exit_code: int = 2) -> Iterator[pytest.ExceptionInfo[LLMJEPAError]]:
    with pytest.raises(LLMJEPAError) as caught:
        yield caught
    assert (caught.value.code, caught.value.exit_code) == (code, exit_code)
    for value in map(str, values):
        assert len(value) > 1, "one character is in nearly every text"
        assert value in str(caught.value)


@pytest.fixture(scope="session")
def raises() -> Callable[..., AbstractContextManager[pytest.ExceptionInfo[LLMJEPAError]]]:
    """`with raises("unknown_arm", "jeppa"):` an error of that code, whose text holds the values that it is about.

    Exit code 2 is that of a wrong call or wrong data; 1, of work that failed.
    """
    return _raises


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., nn.Module]:
    return build_tiny_model


@pytest.fixture
def make_pairs() -> Callable[..., list[Pair]]:
    return build_pairs


@pytest.fixture
def make_mixed_pairs() -> Callable[..., list[Pair]]:
    return build_mixed_pairs


@pytest.fixture
def make_jepa(tiny_model: Callable[..., nn.Module]) -> Callable[..., LLMJEPA]:
    """Build a tiny model under an objective; keywords of JEPAConfig, and `changes` of the model's size."""

    def make(model: str = "llama", seed: int = 0, changes: dict | None = None, **objective) -> LLMJEPA:
        return LLMJEPA(tiny_model(model, seed=seed, **(changes or {})), JEPAConfig(**objective), seed=seed)

    return make


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., JEPATrainer]:
    """Build a trainer that logs each step and looks at held-out rows only where there are any."""

    def make(
        jepa: LLMJEPA,
        pairs: Sequence[Pair],
        held_out: Sequence[Pair] = (),
        *,
        out: str = "run",
        kind: type[JEPATrainer] = JEPATrainer,
        callbacks: Sequence = (),
        extra_metrics: Callable[[], dict[str, float]] | None = None,
        **arguments,
    ) -> JEPATrainer:
        settings = {
            "output_dir": str(tmp_path / out),
            "use_cpu": True,
            "disable_tqdm": True,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-2,
            "logging_steps": 1,
            "eval_strategy": "steps" if held_out else "no",
            "eval_steps": 1,
            **arguments,
        }
        trainer = kind(
            jepa,
            JEPATrainingArguments(**settings),
            pairs,
            held_out,
            pad_token_id=0,
            callbacks=list(callbacks),
            extra_metrics=extra_metrics,
        )
        trainer.remove_callback(PrinterCallback)
        return trainer

    return make


class Ranks:
    """Processes that run `function(rank)` together over gloo; `results` gives what each returned.

    They are forked from this one, which has imported torch already, or start anew: long work should not inherit what
    the tests before left in memory. They meet at a store of this process, as those of `torchrun` do: a port that was
    only looked up may be another's by the time that rank 0 opens it.

    Args:
        function: Called in each process. One that starts anew can only call what pickle can name.
        number: How many processes.
        folder: Where each leaves its result.
        anew: Start them anew.
    """

    def __init__(self, function: Callable[[int], Any], number: int, folder: Path, anew: bool) -> None:
        self.folder, self.number = folder, number
        folder.mkdir(parents=True)
        self.store = torch.distributed.TCPStore("127.0.0.1", 0, number, is_master=True, wait_for_workers=False)
        context = multiprocessing.get_context("spawn" if anew else "fork")
        arguments = number, self.store.port, folder
        self.processes = [context.Process(target=_rank, args=(function, rank, *arguments)) for rank in range(number)]
        for each in self.processes:
            each.start()

    def codes(self) -> list[int]:
        """Wait for all; return the exit code of each, or minus the number of the signal that ended it."""
        for each in self.processes:
            each.join()
        return [each.exitcode for each in self.processes]

    def results(self) -> list[Any]:
        """Wait for all, which must end well; return what each returned, by rank."""
        assert self.codes() == [0] * self.number
        return [pickle.loads((self.folder / f"{rank}.pickle").read_bytes()) for rank in range(self.number)]


def _rank(function: Callable[[int], Any], rank: int, number: int, port: int, folder: Path) -> None:
    def run() -> None:
        if number > 1:
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": number, "LOCAL_WORLD_SIZE": number}
            place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
            place |= {"TORCHELASTIC_USE_AGENT_STORE": True, "TORCHELASTIC_RESTART_COUNT": 0}
            os.environ.update({name: str(value) for name, value in place.items()})
        AcceleratorState._reset_state(reset_partial_state=True)  # of tests before, in the parent
        GradientState._reset_state()
        torch.set_num_threads(1)
        result = function(rank)
        if torch.distributed.is_initialized():
            torch.distributed.barrier()  # rank 0 holds what the others meet by
        (folder / f"{rank}.pickle").write_bytes(pickle.dumps(result))

    run_and_exit(run)


@pytest.fixture
def start_ranks(tmp_path: Path) -> Callable[..., Ranks]:
    """Start processes that run a function of their rank; two by default."""
    started: list[Ranks] = []

    def start(function: Callable[[int], Any], number: int = 2, anew: bool = False) -> Ranks:
        started.append(Ranks(function, number, tmp_path / f"ranks-{len(started)}", anew))
        return started[-1]

    return start


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


# ---- tiny experiments: sixty generated pairs, three steps ----


@pytest.fixture(scope="session")
def pair_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Sixty training and twelve test pairs, as files."""
    folder = tmp_path_factory.mktemp("pairs")
    train, test = generate_splits(60, 12, seed=0)
    write_json_lines(folder / "train.jsonl", map(asdict, train))
    write_json_lines(folder / "test.jsonl", map(asdict, test))
    return folder / "train.jsonl", folder / "test.jsonl"


@pytest.fixture(scope="session")
def write_chats() -> Callable[[Path, Path, list[dict[str, str]]], str]:
    """Write the pairs of a file as chats, each after the same messages; the name of the file comes back."""

    def write(pair_file: Path, out: Path, before: list[dict[str, str]]) -> str:
        rows = [json.loads(line) for line in pair_file.read_text().splitlines()]
        chats = [
            [*before, {"role": "user", "content": row["text"]}, {"role": "assistant", "content": row["code"]}]
            for row in rows
        ]
        out.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
        return str(out)

    return write


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


@pytest.fixture(scope="module")
def quick_runs() -> Iterator[list[str]]:
    """Yield a list that gets the names of the runs started, and leave out what those tests do not look at."""
    started: list[str] = []
    start = workers.start_run

    def start_run(job: Job, *arguments: Any) -> Attempt:
        started.append(job.name)
        return start(job, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "start_run", start_run)
        patch.setattr(jobs, "POLL_S", 0.02)
        for curves_or_maps in ("plot_curves", "plot_geometry"):  # drawn by the tests of the report, where they are seen
            patch.setattr(experiment_report, curves_or_maps, lambda *_: [])
        patch.setenv("TOKENIZERS_PARALLELISM", "false")
        patch.setenv("OMP_NUM_THREADS", "1")
        yield started


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], dict[str, bytes]]:
    """Read every file below a folder: what must not change, can be compared."""

    def read(folder: Path) -> dict[str, bytes]:
        files = (path for path in sorted(folder.rglob("*")) if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}

    return read


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


def _turned(values: Any, heads: int, *, back: bool = False) -> Any:
    """Put the rows of each head's two rotary halves by turns, as llama.cpp has them; or back into halves."""
    halves = values.reshape(heads, -1, 2, values.shape[1]) if back else values.reshape(heads, 2, -1, values.shape[1])
    return halves.swapaxes(1, 2).reshape(values.shape)


def _add_weights(writer: Any, gguf: Any, model: nn.Module, kind: str) -> dict[str, torch.Tensor]:
    """Add the tensors of a Llama; return them as they are after they were quantized."""
    config, held = model.config, {}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, weight in model.state_dict().items():
        number = next((count for part, count in heads.items() if part in name), None)
        values = weight.numpy() if number is None else _turned(weight.numpy(), number)
        quantized = gguf.GGMLQuantizationType[kind if values.ndim > 1 else "F32"]
        packed = gguf.quants.quantize(values, quantized)
        writer.add_tensor(names.get_name(name, (".weight",)), packed, raw_dtype=quantized)
        values = gguf.quants.dequantize(packed, quantized)
        held[name] = torch.tensor(values if number is None else _turned(values, number, back=True))
    return held


def _add_tokenizer(writer: Any, gguf: Any, tokenizer: Any) -> None:
    """Add a byte-level BPE: GPT-2's kind of tokenizer."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    special = {each["content"] for each in backend["added_tokens"]}
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.convert_tokens_to_ids)
    kinds = [gguf.TokenType.CONTROL if each in special else gguf.TokenType.NORMAL for each in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(each) for each in backend["model"]["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


@pytest.fixture(scope="session")
def write_gguf() -> Callable[..., dict[str, torch.Tensor]]:
    """Write a Llama with its own head, and a byte-level BPE, as llama.cpp does; return the weights as written."""
    gguf = pytest.importorskip("gguf", reason="GGUF files need the package gguf: pip install 'llm-jepa[gguf]'")

    def write(model: nn.Module, tokenizer: Any, file: Path, kind: str = "Q8_0") -> dict[str, torch.Tensor]:
        config = model.config
        writer = gguf.GGUFWriter(str(file), "llama")
        writer.add_name("tiny")
        writer.add_block_count(config.num_hidden_layers)
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
        writer.add_vocab_size(config.vocab_size)
        _add_tokenizer(writer, gguf, tokenizer)
        held = _add_weights(writer, gguf, model, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return held

    return write


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
