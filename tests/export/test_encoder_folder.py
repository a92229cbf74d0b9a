"""A run's embedding as a folder of sentence-transformers: the same vectors where this package cannot be imported."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import AddedToken
from transformers import AutoModel, AutoTokenizer, LlamaTokenizer

from llm_jepa.cli import main
from llm_jepa.data.tokenizer import train_tokenizer
from llm_jepa.evaluation.evaluate import score_retrieval, view_texts
from llm_jepa.export import encoder_folder
from llm_jepa.export.encoder_folder import export_encoder
from llm_jepa.runs.run import train_run
from llm_jepa.runs.settings import read_run
from llm_jepa.runs.trained_run import load_run

pytest.importorskip(
    "sentence_transformers", reason="the extra [encoder] is not installed: pip install 'llm-jepa[encoder]'"
)

SYSTEM = "Don't chat: answer with a regex."
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n</think>\n{% endif %}"
)
SHOTS = [{"role": "user", "content": "a cat"}, {"role": "assistant", "content": ".*cat.*"}]

# What differs from a run of `nano` from scratch with one [PRED]; `base` is a model, `chat` what rows begin with.
CASES: dict[str, dict] = {
    "nano": {},
    "ntp": {"jepa_lambda": 0.0},
    "k 0": {"jepa_k": 0},
    "k 2 shared": {"jepa_k": 2},
    "k 2 distinct": {"jepa_k": 2, "jepa_pred_tokens": "distinct"},
    "prepend": {"jepa_k": 2, "jepa_pred_tokens": "distinct", "jepa_pred_position": "prepend"},
    "code to text": {"jepa_direction": "code_to_text"},
    "both": {"jepa_direction": "both", "jepa_target": "shared"},
    "ema": {"jepa_target": "ema", "jepa_ema_decay": 0.9},
    "linear": {"jepa_predictor": "linear"},
    "mlp": {"jepa_predictor": "mlp", "jepa_k": 0},
    "llama": {"base": "llama", "jepa_k": 2},
    "llama, start token": {"base": "llama", "bos": True, "jepa_pred_position": "prepend"},
    "llama, tokens of Llama 2": {"base": "llama", "pieces": True},
    "gpt2": {"base": "gpt2"},
    "qwen3": {"base": "qwen3"},
    "gemma3": {"base": "gemma3", "bos": True},
    "lora": {"base": "llama", "lora_r": 4, "jepa_k": 2},
    "lora, ema": {"base": "llama", "lora_r": 4, "jepa_target": "ema"},
    "chat": {"base": "llama", "bos": True, "chat": [{"role": "system", "content": SYSTEM}]},
    "chat, turns": {"base": "llama", "chat": [{"role": "system", "content": SYSTEM}, *SHOTS], "jepa_k": 2},
    "chat, rendered": {
        "base": "llama",
        "chat": [{"role": "system", "content": SYSTEM}],
        "jepa_views": "rendered",
        "jepa_pred_position": "prepend",
    },
    "system": {"chat": [{"role": "system", "content": SYSTEM}], "include_system": True},
}
QUICK = ["nano", "k 2 distinct", "chat, turns"]
OTHERS = [name for name in CASES if name not in QUICK]
SLOW = pytest.mark.slow
TEXTS = [
    "lines with a dog",
    " two  spaces, and one at the end ",
    "<|im_start|>user\n<|end|> <|s|> and <think> aloud</think>",
    "Größe 漢字 🙂\nnew line",
    "a",
]

# What somebody without this package does.
ELSEWHERE = """
import json, sys
sys.modules["llm_jepa"] = None  # importing it is an error from here on
import numpy
from sentence_transformers import SentenceTransformer
asked = json.loads(sys.argv[1])
found = {}
for name, folder in asked["folders"].items():
    model = SentenceTransformer(folder, device="cpu")
    found[name + "/text"] = model.encode_query(asked["texts"])
    found[name + "/code"] = model.encode_document(asked["texts"])
numpy.savez(asked["out"], **found)

queries, corpus, relevant_docs = {"q": "a dog"}, {"c": ".*dog.*"}, {"q": {"c"}}
for snippet in asked["snippets"]:
    exec(snippet)
"""


def pieces_tokenizer(texts: str) -> LlamaTokenizer:
    """Return a tokenizer in the way of SentencePiece, which sees whether a word is at the start of a text."""
    vocab = {name: number for number, name in enumerate(("<unk>", "<s>", "</s>"))}
    merges = [("▁", "l"), ("▁l", "i"), ("▁", "d"), ("o", "g"), ("i", "n")]
    for token in (*(f"<0x{byte:02X}>" for byte in range(256)), "▁", *sorted(set(texts)), *map("".join, merges)):
        vocab.setdefault(token, len(vocab))
    return LlamaTokenizer(vocab=vocab, merges=merges, add_bos_token=True)


def write_base(folder: Path, texts: str, make_model, model: str, *, bos: bool, chat: bool, pieces: bool) -> None:
    """Write a tiny pretrained model; of its chat's tokens one is an added word, as in some published tokenizers."""
    tokenizer = pieces_tokenizer(texts) if pieces else train_tokenizer([texts, SYSTEM], 320)
    if bos:
        from tokenizers.processors import TemplateProcessing

        tokenizer.add_special_tokens({"bos_token": "<|s|>"})
        start = ("<|s|>", tokenizer.bos_token_id)
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<|s|> $A", pair="<|s|> $A $B", special_tokens=[start]
        )
    if chat:
        words = [AddedToken(name, special=False) for name in ("<|im_start|>", "<think>", "</think>")]
        tokenizer.add_tokens([*words, AddedToken("<|im_end|>", special=True)])
        tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    make_model(model, vocab_size=len(tokenizer) + 5, max_position_embeddings=512).save_pretrained(folder)


@pytest.fixture(scope="module")
def make_run(tiny_settings, tiny_model, pair_files, write_chats, tmp_path_factory):
    """Train a tiny run of one of the cases."""
    home = tmp_path_factory.mktemp("encoders")

    def make(name: str, folder_name: str = "") -> Path:
        case = dict(CASES[name])
        base, bos, chat = case.pop("base", None), case.pop("bos", False), case.pop("chat", None)
        pieces = case.pop("pieces", False)
        folder = home / (folder_name or name.replace(" ", "-").replace(",", ""))
        folder.mkdir()
        if base:
            texts = pair_files[0].read_text()
            write_base(folder / "base", texts, tiny_model, base, bos=bos, chat=chat is not None, pieces=pieces)
            case |= {"model_name_or_path": str(folder / "base"), "vocab_size": None}
        if chat:
            names = ("train_file", "test_file")
            case |= {
                key: write_chats(file, folder / file.name, chat) for key, file in zip(names, pair_files, strict=True)
            }
        settings = tiny_settings(jepa_distance="infonce", max_steps=2, learning_rate=3e-2, max_length=512, **case)
        train_run(read_run(settings), 7, folder / "run")
        return folder / "run"

    return make


def snippets_of(folder: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.DOTALL)


@pytest.fixture(scope="module", params=[pytest.param(QUICK, id="quick"), pytest.param(OTHERS, marks=SLOW, id="others")])
def encoders(request, make_run, tmp_path_factory):
    """Cases, exported, and read by a process that cannot import this package: `(run, folder, found)` by name."""
    home = tmp_path_factory.mktemp("exported")
    runs = {name: make_run(name) for name in request.param}
    folders = {name: home / str(number) for number, name in enumerate(runs)}
    for name, run in runs.items():
        export_encoder(run, folders[name])
    asked = {"folders": {name: str(folder) for name, folder in folders.items()}, "texts": TEXTS}
    asked["out"] = str(home / "found.npz")
    asked["snippets"] = snippets_of(next(iter(folders.values())))
    argv = [sys.executable, "-c", ELSEWHERE, json.dumps(asked)]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=home, check=True)
    (home / "printed.txt").write_text(done.stdout)
    found = np.load(home / "found.npz")
    sides = {name: {side: found[f"{name}/{side}"] for side in ("text", "code")} for name in runs}
    return {name: (runs[name], folders[name], sides[name]) for name in runs}


def test_encode_query_and_encode_document_equal_our_embeddings(encoders):
    """To 1e-5, for texts with names of control tokens, spaces and other letters too."""
    for name, (run, _, found) in encoders.items():
        trained = load_run(run)
        for side in ("text", "code"):
            ours = trained.embed(trained.lone([("test", text) for text in TEXTS], side), side).numpy()
            np.testing.assert_allclose(found[side], ours, atol=1e-5, rtol=0, err_msg=f"{name}, {side}")
        is_apart = not np.allclose(found["text"], found["code"], atol=1e-2)
        assert is_apart == (name not in ("ntp", "k 0")), name


def test_its_own_evaluator_gives_our_retrieval_numbers(encoders):
    """Recall@1, recall@10 and the mean reciprocal rank over the distinct codes of the test rows."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    for name in [name for name in ("nano", "llama", "lora") if name in encoders]:
        run, folder, _ = encoders[name]
        trained = load_run(run)
        rows = trained.rows(trained.data.test_file)
        ours = score_retrieval(trained.jepa, rows, trained.encoder.pad_id)
        texts = view_texts(trained.encoder, rows)
        corpus = {code: code for _, code in texts}
        queries = {str(number): text for number, (text, _) in enumerate(texts)}
        right = {str(number): {code} for number, (_, code) in enumerate(texts)}
        evaluate = InformationRetrievalEvaluator(
            queries, corpus, right, mrr_at_k=[len(corpus)], precision_recall_at_k=[1, 10], write_csv=False
        )
        theirs = evaluate(SentenceTransformer(str(folder), device="cpu"))
        assert ours["num_candidates"] == len(corpus) == 12
        assert theirs["cosine_recall@1"] == pytest.approx(ours["recall@1"])
        assert theirs["cosine_recall@10"] == pytest.approx(ours["recall@10"])
        assert theirs["cosine_mrr@12"] == pytest.approx(ours["mrr"])


def test_pred_is_rows_of_the_table_that_the_template_writes_for_queries_alone(encoders):
    """One copy of the weights, no file of ours, and no code but that of the libraries."""
    from sentence_transformers import SentenceTransformer

    run, folder, _ = encoders["k 2 distinct"] if "k 2 distinct" in encoders else encoders["prepend"]
    jepa = load_run(run).jepa
    tokenizer = AutoTokenizer.from_pretrained(folder)
    table = AutoModel.from_pretrained(folder).get_input_embeddings().weight
    ids = {
        task: tokenizer.apply_chat_template([{"role": "user", "content": "a dog"}], task=task, return_dict=False)
        for task in ("query", "document")
    }
    (first, second) = new = [each for each in ids["query"] if each not in ids["document"]]
    assert len(ids["query"]) == len(ids["document"]) + 2 and first != second
    assert torch.equal(table[new], jepa.predictor.embedding)
    model = SentenceTransformer(str(folder), device="cpu")
    long = model.preprocess(["a dog " * 3000], task="query")["input_ids"][0].tolist()
    kept = long[:2] if "prepend" in encoders else long[-2:]
    assert len(long) == model.max_seq_length and kept == new  # a text that is cut keeps its [PRED]
    assert len(table) == jepa.backbone.embeddings.num_embeddings + 2
    assert [path.name for path in folder.rglob("*.safetensors")] == ["model.safetensors"]
    assert all(
        each["type"].startswith("sentence_transformers.") for each in json.loads((folder / "modules.json").read_text())
    )


def test_the_card_says_both_uses_and_its_lines_run(encoders):
    """`encode_query` and `encode_document`, and their evaluator, in a process without this package."""
    _, folder, _ = next(iter(encoders.values()))
    card = (folder / "README.md").read_text()
    assert "library_name: sentence-transformers" in card and "pipeline_tag: sentence-similarity" in card
    first, _ = snippets_of(folder)
    assert "encode_query" in first and "encode_document" in first
    printed = (folder.parent / "printed.txt").read_text()
    assert "tensor" in printed and "'cosine_recall@1': 1.0" in printed


# ---- what is refused ----


@pytest.fixture(scope="module")
def nano(make_run):
    return make_run("nano", "refused")


@pytest.mark.slow
def test_the_command_writes_an_encoder_and_force_writes_over_it(nano, tmp_path, capsys):
    for extra in ([], ["--force"]):
        assert main(["export", str(nano), "--to", str(tmp_path / "out"), "--as", "encoder", *extra]) == 0
        last = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert last["kind"] == "encoder" and last["max_difference"] < 1e-5
    assert main(["export", str(nano), "--to", str(tmp_path / "out"), "--as", "encoder"]) == 2
    assert main(["export", str(nano), "--to", str(tmp_path / "other"), "--as", "encoder", "--merge"]) == 2
    assert "[file_exists]" in capsys.readouterr().err
    assert main(["export", str(nano), "--to", str(tmp_path / "out"), "--force"]) == 0  # a plain folder in its place
    assert not (tmp_path / "out" / "modules.json").exists()


def test_gguf_is_refused_with_what_to_do(nano, tmp_path, capsys):
    """No library writes it; the script of llama.cpp is named."""
    assert main(["export", str(nano), "--to", str(tmp_path / "out"), "--as", "gguf"]) == 2
    assert "convert_hf_to_gguf.py" in capsys.readouterr().err


def test_without_sentence_transformers_the_extra_is_named(nano, tmp_path, monkeypatch, raises):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with raises("package_missing", "llm-jepa[encoder]"):
        export_encoder(nano, tmp_path / "out")


def test_an_encoder_that_is_not_equal_is_not_written(nano, tmp_path, monkeypatch, raises):
    """Other tokens, or other numbers: nothing is left behind."""
    make = encoder_folder.encoder_tokenizer

    def without_pred(*arguments):
        made = make(*arguments)
        made.tokenizer.chat_template = "{{ messages[-1]['content'] }}"
        return made

    def upper(*arguments):
        made = make(*arguments)
        made.tokenizer.chat_template = made.tokenizer.chat_template.replace("{{- words -}}", "{{- words.upper() -}}")
        return made

    for changed, code, value in ((upper, "tokens_differ", "--as encoder"), (without_pred, "export_differs", "query")):
        monkeypatch.setattr(encoder_folder, "encoder_tokenizer", changed)
        with raises(code, value, exit_code=1 if code == "export_differs" else 2):
            export_encoder(nano, tmp_path / "home" / "out")
        assert not list((tmp_path / "home").iterdir())
