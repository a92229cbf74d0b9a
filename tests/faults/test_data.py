"""C1 to C13: whatever a data file holds, its rows are read as they are or refused by file and line."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from tokenizers import AddedToken, processors
from transformers import PreTrainedTokenizerFast, TrainerCallback

from llm_jepa.data import formats, json_lines
from llm_jepa.data.checks import find_duplicates, find_leaks
from llm_jepa.data.config import DataConfig
from llm_jepa.data.data_check import check_files
from llm_jepa.data.encode import PairEncoder
from llm_jepa.data.encoded_pairs import check_labels, encode_examples
from llm_jepa.data.example import Example
from llm_jepa.data.prepare import load_data
from llm_jepa.data.rows import read_examples
from llm_jepa.data.splits import split_validation
from llm_jepa.data.tokenizer import decode_ids, train_tokenizer
from llm_jepa.errors import LLMJEPAError
from llm_jepa.objective import FusedCollator, JEPAConfig
from llm_jepa.objective.documents import IGNORED
from llm_jepa.runs import run as run_module
from llm_jepa.runs.run import train_run
from llm_jepa.runs.settings import read_run

SYNTH = [Path(__file__).parents[3] / "shared" / "data" / f"nlrx_synth_{split}.jsonl" for split in ("train", "test")]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GOOD = b'{"text": "lines with a dog", "code": ".*dog.*"}'
NUM_BEFORE = 500  # good rows before the fault, which is on line 501


def make_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """`begin` puts <s> before a text and pads with its end token; `chat` has a ChatML template."""
    tokenizer = train_tokenizer(["lines with a dog", "user assistant"], 300)
    if kind == "begin":
        tokenizer.add_tokens([AddedToken("<s>", special=True)])
        begin = [("<s>", tokenizer.convert_tokens_to_ids("<s>"))]
        post = processors.TemplateProcessing(single="<s> $A", special_tokens=begin)
        tokenizer.backend_tokenizer.post_processor = post
        tokenizer.bos_token, tokenizer.pad_token = "<s>", tokenizer.eos_token
    if kind == "chat":
        tokenizer.add_tokens([AddedToken(token, special=True) for token in ("<|im_start|>", "<|im_end|>")])
        tokenizer.chat_template = CHATML
    return tokenizer


def chat(*turns: str, source: str = "train.jsonl:1") -> Example:
    messages = [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]
    return Example("\n".join(turns[:-1]), turns[-1], None, messages, source)


def encode(tokenizer, *examples: Example, **settings):
    encoder = PairEncoder(tokenizer, DataConfig(**settings))
    return encode_examples(examples, encoder).pairs


def refusal(act: Callable[[], object]) -> tuple[str | None, str]:
    """Return code and message of the error that a user gets; None and nothing if there was none."""
    try:
        act()
    except LLMJEPAError as error:
        return error.code, str(error)
    return None, ""


# What is on line 501; the code, and values that the message must have; None: it is a row like any other, or no row.
LINES: dict[str, tuple[bytes, str | None, list[str]]] = {
    "a value is missing": (b'{"text": "a", "code": }', "not_json", ["column 23"]),
    "the line is cut": (b'{"text": "a", "code": "b"', "not_json", ["column 26"]),
    "a quote is missing": (b'{"text": "a, "code": "b"}', "not_json", ["column 15"]),
    "a comma at the end": (b'{"text": "a", "code": "b",}', "not_json", ["column 2"]),
    "single quotes": (b"{'text': 'a', 'code': 'b'}", "not_json", ["column 2"]),
    "two objects on a line": (GOOD + GOOD, "not_json", ["extra data", "column 48"]),
    "plain text": (b"lines with a dog", "not_json", ["column 1"]),
    "a list": (b'["a", "b"]', "row_not_object", ["a list"]),
    "the start of an array": (b"[", "not_json", ["array"]),
    "a string": (b'"a"', "row_not_object", ["a string"]),
    "null": (b"null", "row_not_object", ["null"]),
    "a key twice": (b'{"text": "a", "text": "b", "code": "c"}', "key_repeated", ["'text'"]),
    "nested without end": (b"[" * 50_000, "not_json", []),
    "a number of a million digits": (b'{"text": "a", "code": ' + b"9" * 10**6 + b"}", "not_json", []),
    "not UTF-8": (b'{"text": "a\xff", "code": "b"}', "not_utf8", ["byte 12"]),
    "UTF-16": ('{"text": "a"}'.encode("utf-16"), "not_utf8", ["UTF-16"]),
    "no field": (b"{}", "column_missing", ["(none)"]),
    "other fields": (b'{"question": "a", "answer": "b"}', "column_missing", ["question, answer", "text_column"]),
    "a longer line than the cap": (b'{"text": "' + b"a" * 2000 + b'", "code": "b"}', "line_too_long", ["1,500,000"]),
    "a blank line": (b" \t", None, []),
    "further fields": (b'{"text": "a", "code": "b", "id": 7}', None, []),
    "white space around": (b'  {"text" : "a" ,"code":"b"}  ', None, []),
    "escaped characters": (rb'{"text": "\u2028\ud83d\ude00\t", "code": "b"}', None, []),
}


def test_c1_every_crafted_line_is_decided_as_specified_with_file_and_line(tmp_path, monkeypatch, fault_row):
    """23 files of 501 lines: 19 refused at line 501, 4 read; with on_broken=drop that line alone is lost."""
    cap = 1_500_000
    monkeypatch.setattr(json_lines, "MAX_LINE_BYTES", cap)
    path = tmp_path / "train.jsonl"
    with fault_row("C1", "a broken line at line 501", len(LINES)) as row:
        for name, (line, code, values) in LINES.items():
            line = line.replace(b"a" * 2000, b"a" * cap)
            path.write_bytes((GOOD + b"\n") * NUM_BEFORE + line + b"\n" + GOOD + b"\n")
            messages = [
                refusal(lambda kept=kept: read_examples(str(path), DataConfig(rows_in_memory=kept)))
                for kept in (True, False)
            ]
            assert messages[0] == messages[1]
            found, message = messages[0]
            assert found == code, (name, message)
            if code is not None:
                assert message.startswith(f"{path}:501: "), (name, message)
                assert all(value in message for value in values), (name, message)
                rest = read_examples(str(path), DataConfig(on_broken="drop")).examples
                assert [rest[-2].source, rest[-1].source] == [f"{path}:500", f"{path}:502"]
            row.passed += 1
    assert row.passed == row.tried == 23


def test_c2_what_is_no_text_is_refused_by_line_and_never_turned_into_text(tmp_path, fault_row):
    """Number, list, null, object, true, in either view; and a date stays the text that it is."""
    path = tmp_path / "train.jsonl"
    values = {"a number": 3, "a list": ["a"], "null": None, "an object": {"a": "b"}, "true or false": True}
    with fault_row("C2", "a value that is not text at line 501", 2 * len(values) + 1) as row:
        for name, value in values.items():
            for column in ("text", "code"):
                line = json.dumps({"text": "a", "code": "b", column: value}).encode()
                path.write_bytes((GOOD + b"\n") * NUM_BEFORE + line + b"\n")
                code, message = refusal(lambda: read_examples(str(path), DataConfig()))
                assert code == "wrong_type" and message.startswith(f"{path}:501: {column} holds {name}")
                row.passed += 1
        path.write_bytes(b'{"text": "2024-01-01", "code": "2024-01-02T03:04:05"}\n' * 3)
        assert read_examples(str(path), DataConfig()).examples[0].code == "2024-01-02T03:04:05"
        row.passed += 1
    assert row.passed == row.tried


def test_c3_a_file_of_two_schemas_is_refused_with_both(tmp_path, fault_row):
    """Neither fills the other's columns with nothing; two files may differ, each has its own form."""
    path, other = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    renamed = b'{"prompt": "lines with a cat", "completion": ".*cat.*"}'
    with fault_row("C3", "two schemas in one file, in either order", 2) as row:
        names = ("text and code", "prompt and completion")
        for first, second, before, here in ((GOOD, renamed, *names), (renamed, GOOD, *names[::-1])):
            path.write_bytes(first + b"\n" + second + b"\n")
            code, message = refusal(lambda: read_examples(str(path), DataConfig()))
            assert code == "form_differs" and message.startswith(f"{path}:2: ")
            assert 0 < message.index(here) < message.index(f"{path}:1 has {before}")
            row.passed += 1
    path.write_bytes(GOOD + b"\n")
    other.write_bytes(renamed + b"\n")
    data = load_data(DataConfig(train_file=str(path), test_file=str(other), validation_size=0), JEPAConfig())
    assert (data.train.examples[0].code, data.test.examples[0].code) == (".*dog.*", ".*cat.*")
    assert row.passed == row.tried


SAVED: dict[str, Callable[[bytes], bytes]] = {
    "byte-order marks, as of files put together": lambda raw: b"\xef\xbb\xbf" + raw.replace(b"\n", b"\n\xef\xbb\xbf"),
    "CRLF": lambda raw: raw.replace(b"\n", b"\r\n"),
    "blank lines": lambda raw: b"\n" + raw.replace(b"\n", b"\n\n  \n"),
    "no final newline": lambda raw: raw.rstrip(b"\n"),
    "U+2028 bare": lambda raw: raw.replace(rb"\u2028", "\u2028".encode()),
}


@pytest.mark.parametrize("in_memory", [True, False])
def test_c4_what_editors_change_changes_no_row_and_an_empty_file_is_refused(tmp_path, fault_row, in_memory):
    """Five ways to save the same rows, and a file without any."""
    path, config = tmp_path / "train.jsonl", DataConfig(rows_in_memory=in_memory)

    def rows(raw: bytes) -> list[tuple[str, str | None]]:
        path.write_bytes(raw)
        return [(example.text, example.code) for example in read_examples(str(path), config).examples]

    clean = rb'{"text": "one\u2028two", "code": "x"}' + b"\n" + GOOD + b"\n"
    expected = rows(clean)
    with fault_row("C4", "the same rows saved in another way; an empty file", len(SAVED) + 1) as row:
        row.passed += sum(rows(change(clean)) == expected for change in SAVED.values())
        code, message = refusal(lambda: rows(b""))
        row.passed += code == "file_empty" and message.startswith(f"{path}: ")
    assert row.passed == row.tried


def test_c5_any_string_is_kept_to_the_character_or_refused_by_line(tmp_path, fault_row):
    """500 strings of controls, bidi marks, combining marks, NUL and half surrogates: no crash, no change."""
    draw, path = random.Random(0), tmp_path / "train.jsonl"
    tricky = "\0\a\b\t\n\r\x1b\x7f\u0085\u00a0\u200b\u202e\u2066\ufeff\ufffe\u0301\ud800\udfffe\u0301é\U0001f600 a"
    tokenizer, refused = make_tokenizer("plain"), 0
    with fault_row("C5", "a string of hostile characters", 500) as row:
        for _ in range(row.tried):
            text = "x" + "".join(draw.choices(tricky, k=draw.randrange(1, 9)))
            path.write_text(json.dumps({"text": text, "code": "b"}) + "\n")
            code, message = refusal(lambda: encode(tokenizer, *read_examples(str(path), DataConfig()).examples))
            lone = any("\ud800" <= char <= "\udfff" for char in json.loads(json.dumps(text)))
            if code is not None:
                assert code == "character_not_allowed" and message.startswith(f"{path}:1: ")
                assert "\0" in text or lone
                refused += 1
            else:
                (example,) = read_examples(str(path), DataConfig()).examples
                (pair,) = encode(tokenizer, example)
                assert example.text == decode_ids(tokenizer, pair.text_ids) == json.loads(json.dumps(text))
            row.passed += 1
    assert 50 < refused < 450  # both happen


def test_c6_no_pair_is_made_of_a_view_that_holds_nothing(fault_row):
    """Empty and blank views are refused or dropped and counted; a view of one token is a view."""
    tokenizer = make_tokenizer("plain")
    rows = [("", "b"), ("a", ""), (" \n\u3000", "b"), ("a", "\t")]
    with fault_row("C6", "an empty or blank view", len(rows)) as row:
        for text, code in rows:
            bad, good = Example(text, code, source="train.jsonl:1"), Example("a", "b", source="train.jsonl:2")
            code, message = refusal(lambda bad=bad: encode(tokenizer, bad))
            assert code == "view_empty" and message.startswith("train.jsonl:1: ")
            encoder = PairEncoder(tokenizer, DataConfig(on_empty="drop"))
            encoded = encode_examples([bad, good], encoder)
            batch = FusedCollator(JEPAConfig(), encoder.pad_id)(encoded.pairs)
            assert (encoded.rows_in, encoded.dropped) == (2, {"empty": 1})
            row.passed += batch.num_pairs == len(encoded) == 1
    assert row.passed == row.tried


def test_c7_long_rows_are_refused_dropped_or_cut_and_none_is_lost_in_silence(fault_row):
    """Rows in are rows kept and rows dropped, exactly; a cut row keeps its end token."""
    tokenizer = make_tokenizer("plain")
    rows = [Example("0" * n, "1" * m, source=f"train.jsonl:{n}") for n, m in ((4, 3), (30, 3), (3, 30), (30, 30))]
    with fault_row("C7", "rows longer than max_length, under each policy", 3) as row:
        code, message = refusal(lambda: encode(tokenizer, *rows, max_length=12))
        named = ("35 tokens", "text 30", "bridge 1", "end token 4", "max_length is 12", "drop or truncate")
        assert message.startswith("train.jsonl:30: ") and all(each in message for each in named)
        row.passed += code == "row_too_long"
        for policy, kept, dropped, cut in (("drop", 1, {"overflow": 3}, 0), ("truncate", 4, {}, 3)):
            encoder = PairEncoder(tokenizer, DataConfig(max_length=12, on_overflow=policy))
            encoded = encode_examples(rows, encoder)
            assert (len(encoded), encoded.dropped, encoded.truncated) == (kept, dropped, cut)
            assert all(len(pair) <= 12 and pair.code_ids[-1] == tokenizer.eos_token_id for pair in encoded.pairs)
            row.passed += encoded.rows_in == len(encoded) + sum(encoded.dropped.values())
    assert row.passed == row.tried


HOSTILE = ["<|im_end|>", "<|im_start|>assistant\n", "<|end|>", "<s>", "[PRED]", "<|sep|>x<|pad|><|im_end|><|im_end|>"]


def test_c8_names_of_special_tokens_in_data_are_plain_text(fault_row):
    """6 strings x 2 tokenizers: no row has a control token that its text did not have without them."""
    injected = stock = 0
    with fault_row("C8", "the name of a special token in a row's text", 2 * len(HOSTILE)) as row:
        for kind in ("begin", "chat"):
            tokenizer = make_tokenizer(kind)
            control = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}

            def count(words: str) -> int:
                example = chat(words, words, words, words) if kind == "chat" else Example(words, words)  # noqa: B023
                for views in ("prefix", "rendered"):
                    encoder = PairEncoder(tokenizer, DataConfig(), jepa_views=views)  # noqa: B023
                    pair = encoder.encode(example)
                    assert encoder.decode_code(pair.code_ids) == words
                ids = [*pair.text_ids, *pair.bridge_ids, *pair.code_ids, *pair.text_view_ids, *pair.code_view_ids]
                return sum(token in control for token in ids)  # noqa: B023

            for words in HOSTILE:
                injected += count(words) - count("plain")
                stock += sum(token in control for token in tokenizer(words, add_special_tokens=False)["input_ids"])
                row.passed += 1
    assert injected == 0
    assert stock >= len(HOSTILE)  # the plain call of the tokenizer does inject them


def test_c9_a_template_that_would_teach_no_end_or_two_beginnings_is_refused(monkeypatch, fault_row):
    """Four faults, each found before training; the sound template passes."""

    def start(tokenizer) -> None:
        encoder = PairEncoder(tokenizer, DataConfig())
        check_labels(encode_examples([chat("q", "a")], encoder), encoder, JEPAConfig())

    start(make_tokenizer("chat"))
    with fault_row("C9", "a chat template without end, with a foreign end, with two begins; a masked end", 4) as row:
        silent = make_tokenizer("chat")
        silent.chat_template, silent.eos_token = CHATML.replace("<|im_end|>", ""), None
        row.passed += refusal(lambda: start(silent))[0] == "end_token_missing"

        foreign = make_tokenizer("chat")
        foreign.chat_template = CHATML.replace("<|im_end|>", "<end_of_turn>")
        code, message = refusal(lambda: start(foreign))
        row.passed += code == "unknown_end_token" and "'<end_of_turn>'" in message

        double = make_tokenizer("chat")
        double.bos_token = "<|sep|>"
        double.chat_template = "{{ bos_token }}{{ bos_token }}" + CHATML
        code, message = refusal(lambda: start(double))
        row.passed += code == "begin_token_repeated" and "'<|sep|>'" in message

        masked = make_tokenizer("chat")
        masked.pad_token = "<|im_end|>"
        start(masked)  # pad and end are one token, and the labels still hold it
        collate = FusedCollator.__call__

        def hide_padding_by_id(collator, pairs):
            batch = collate(collator, pairs)
            batch.labels[batch.labels == collator.pad_token_id] = IGNORED
            return batch

        monkeypatch.setattr(FusedCollator, "__call__", hide_padding_by_id)
        row.passed += refusal(lambda: start(masked))[0] == "end_token_not_trained"
    assert row.passed == row.tried


ANSWERS = ["dog", "user", "assistant\n", "a", "<|im_start|>assistant\na", "lines with a dog", ".", "\ue0001\ue001"]


def test_c10_labels_are_the_answer_wherever_else_its_words_stand(fault_row):
    """The answer also occurs in the question, in the template, and in an earlier turn: labels are its own tokens."""
    with fault_row("C10", "an answer that is also elsewhere in its row", 3 * len(ANSWERS)) as row:
        for kind in ("plain", "begin", "chat"):
            tokenizer = make_tokenizer(kind)
            encoder = PairEncoder(tokenizer, DataConfig())
            collate = FusedCollator(JEPAConfig(loss_on="code"), encoder.pad_id)
            for answer in ANSWERS:
                question = f"{answer} {answer}"
                example = chat(answer, answer, question, answer) if kind == "chat" else Example(question, answer)
                pair = encoder.encode(example)
                labels = collate([pair]).labels.flatten().tolist()
                trained = [place for place, label in enumerate(labels) if label != IGNORED]
                assert trained == list(range(len(pair) - len(pair.code_ids), len(pair)))
                assert encoder.decode_code([labels[place] for place in trained]) == answer
                row.passed += 1
    assert row.passed == row.tried


def test_c10_an_answer_whose_first_letters_would_merge_with_the_prompt_is_trained_whole(fault_row):
    """Where text and answer together have other tokens than apart, a search for the answer's tokens finds nothing."""
    tokenizer = train_tokenizer(["abab abab abab"] * 9, 300)
    apart = [tokenizer(part)["input_ids"] for part in ("ab", "ab")]
    together = tokenizer("abab")["input_ids"]
    with fault_row("C10", "a prefix that is not token-stable", 1) as row:
        assert together != apart[0] + apart[1]  # the fault is there
        (pair,) = encode(tokenizer, Example("ab", "ab"))
        row.passed += pair.text_ids == apart[0] and pair.code_ids[:-1] == apart[1]
    assert row.passed == row.tried


def test_c11_duplicates_and_leaks_are_counted_exactly(fault_row):
    """As crafted; as known of the published files, where they are there; 100,000 rows."""
    train = [Example(f"lines with {i % 90_000} dogs", f".*{i % 90_000}.*") for i in range(100_000)]
    tried = 3 if SYNTH[0].exists() else 2
    with fault_row("C11", "a known number of duplicates and leaks", tried) as row:
        row.passed += len(find_duplicates(train).rows) == 10_000
        row.passed += len(find_leaks(train, train[:1000]).held_out_rows) == 1000
        if SYNTH[0].exists():
            found = check_files(str(SYNTH[0]), str(SYNTH[1]), DataConfig())
            row.passed += (found["leaked_pairs"], found["duplicate_rows"]) == (39, 89)
    assert row.passed == row.tried


def test_c11_rows_of_one_code_are_never_split_when_the_code_is_their_group():
    """Training and validation share no code then; without groups they do."""
    rows = [Example(f"text {i}", f"code {i % 12}") for i in range(120)]
    grouped = [replace(row, group=row.code) for row in rows]
    for examples, shares in ((rows, True), (grouped, False)):
        train, validation = split_validation(examples, 30)
        assert bool({row.code for row in train} & {row.code for row in validation}) is shares
        assert len(validation) == 30


def test_c12_a_line_without_end_is_refused_by_line_and_the_rows_around_it_are_read(tmp_path, fault_row):
    """40 MB on one line, in memory and on disk; benchmarks/large_file.py has the sizes of the promise."""
    path = tmp_path / "train.jsonl"
    path.write_bytes(GOOD + b"\n" + b'{"text": "' + b"a" * 40_000_000 + b'"}\n' + GOOD + b"\n")
    with fault_row("C12", "one line of 40 MB", 2) as row:
        for in_memory in (True, False):
            config = DataConfig(rows_in_memory=in_memory)
            code, message = refusal(lambda config=config: read_examples(str(path), config))
            assert code == "line_too_long" and message.startswith(f"{path}:2: ") and f"{16 * 2**20:,} bytes" in message
            rest = read_examples(str(path), replace(config, on_broken="drop"))
            assert rest.dropped == {"too_long": 1}
            row.passed += [example.source[-2:] for example in rest.examples] == [":1", ":3"]
    assert row.passed == row.tried


# ---- C13: a file that changes while a run trains on it ----


class Append(TrainerCallback):
    """Adds a row to a file, or only touches it, after the first step."""

    def __init__(self, path: Path, raw: bytes) -> None:
        self.path, self.raw = path, raw

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.global_step == 1:
            with self.path.open("ab") as file:
                file.write(self.raw)
            if not self.raw:
                self.path.touch()


@pytest.fixture
def start_run(tmp_path, monkeypatch) -> Callable[..., dict]:
    """Train 12 rows for two epochs of three steps; after the first step, `raw` is added to the training file."""
    train, folder = tmp_path / "train.jsonl", tmp_path / "run"
    rows = [{"text": f"text {i}", "code": f"code {i}"} for i in range(12)]
    train.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        **{"train_file": str(train), "validation_size": 0, "vocab_size": 300, "num_train_epochs": 2},
        **{"per_device_train_batch_size": 4, "logging_steps": 1, "eval_strategy": "no", "use_cpu": True},
    }

    def start(raw: bytes | None, **changes) -> dict:
        def build(*args, **more):
            trainer, data = build_trainer(*args, **more)
            if raw is not None:
                trainer.add_callback(Append(train, raw))
            return trainer, data

        with monkeypatch.context() as patch:
            patch.setattr(run_module, "build_trainer", build)
            return train_run(read_run({**settings, **changes}), 0, folder)

    build_trainer = run_module.build_trainer
    return start


def test_c13_a_file_that_changes_while_a_run_trains_stops_it_at_the_end_of_the_epoch(start_run, tmp_path, fault_row):
    """The work is saved first, the message has sizes and hashes, and a resume on the new rows is refused too."""
    train, folder = tmp_path / "train.jsonl", tmp_path / "run"
    before = train.read_bytes()
    with fault_row("C13", "a row is added while a run trains", 1) as row:
        code, message = refusal(lambda: start_run(b'{"text": "new", "code": "row"}\n'))
        assert code == "file_changed" and message.startswith(f"{train} ")
        assert f"{len(before):,} bytes, sha256 " in message and f"{train.stat().st_size:,} bytes" in message
        assert (folder / "checkpoint-3").is_dir()  # the end of the first epoch
        assert not (folder / "DONE").exists()
        code, again = refusal(lambda: start_run(None))
        row.passed += code == "settings_changed" and "train_rows was 12 rows" in again and "is 13 rows" in again
    assert row.passed == row.tried
    train.write_bytes(before)
    assert start_run(None)["num_steps"] == 6  # the file is back, and the run ends as it would have
    assert yaml.safe_load((folder / "config.yaml").read_text())["num_train_epochs"] == 2
    shutil.rmtree(folder)


def test_c13_a_file_that_is_only_touched_stops_nothing(start_run):
    """Its bytes decide, not its time of change."""
    assert start_run(b"")["num_steps"] == 6


def test_c13_rows_on_disk_that_change_are_not_read_again(start_run, tmp_path, fault_row):
    """At once, not at the end of the epoch: the file's lines are no longer those that were checked."""
    with fault_row("C13", "a row is added while a run reads its rows from disk", 1) as row:
        code, message = refusal(lambda: start_run(b'{"text": "new", "code": "row"}\n', rows_in_memory=False))
        row.passed += code == "file_changed" and message.startswith(f"{tmp_path / 'train.jsonl'}: ")
    assert row.passed == row.tried


def test_the_check_of_c1_notices_a_reader_that_gives_the_wrong_line(tmp_path, monkeypatch):
    """Negative control: with lines counted from 0, the message names line 500, and the test above would fail."""
    path = tmp_path / "train.jsonl"
    path.write_bytes((GOOD + b"\n") * NUM_BEFORE + b"{\n")
    lines = json_lines.iter_lines
    monkeypatch.setattr(formats, "iter_lines", lambda file: ((number - 1, raw) for number, raw in lines(file)))
    code, message = refusal(lambda: read_examples(str(path), DataConfig()))
    assert code == "not_json" and message.startswith(f"{path}:500: ")
