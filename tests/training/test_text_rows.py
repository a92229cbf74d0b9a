"""The trainer takes what TRL's SFTTrainer takes: a plain model, rows of a Dataset, and a tokenizer."""

from __future__ import annotations

import logging

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback

import llm_jepa
from llm_jepa.data.config import DataConfig
from llm_jepa.data.encode import PairEncoder
from llm_jepa.data.encoded_pairs import encode_rows
from llm_jepa.data.rows import read_examples
from llm_jepa.data.tokenizer import train_tokenizer
from llm_jepa.files import write_json_lines
from llm_jepa.objective import LLMJEPA, JEPAConfig
from llm_jepa.training.arguments import JEPATrainingArguments
from llm_jepa.training.saving import load_jepa
from llm_jepa.training.trainer import JEPATrainer

TEXTS = ["a line with a number", "two dogs or more", "the word truck", "no vowel at all", "ends with z", "a b c"]
ROWS = [{"prompt": text, "completion": text[::-1]} for text in TEXTS]
CHATS = [
    {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": text[::-1]}]} for text in TEXTS
]
TEMPLATE = (
    "{% for turn in messages %}<{{ turn['role'] }}>{{ turn['content'] }}"
    "{% if turn['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 300)


@pytest.fixture
def make(tiny_model, tokenizer, tmp_path):
    """Build a trainer of a plain model, as with TRL."""

    def make_it(rows, *, model=None, tokenizer=tokenizer, **keywords):
        args = JEPATrainingArguments(
            output_dir=str(tmp_path / "out"),
            max_steps=2,
            per_device_train_batch_size=3,
            use_cpu=True,
            disable_tqdm=True,
            logging_steps=1,
            seed=3,
        )
        model = model or tiny_model("llama", vocab_size=300)
        return JEPATrainer(model, args, train_dataset=rows, processing_class=tokenizer, **keywords)

    return make_it


@pytest.mark.parametrize("rows", [ROWS, CHATS], ids=["prompt_completion", "messages"])
def test_a_dataset_a_model_and_a_tokenizer_train_and_load_again(rows, make, tmp_path):
    trainer = make(Dataset.from_list(rows), eval_dataset=Dataset.from_list(rows[:2]), jepa_config=JEPAConfig(jepa_k=2))
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    logged = [line for line in trainer.state.log_history if "jepa_loss" in line]
    assert len(logged) == 2 and "monitor/gap" in {key for line in trainer.state.log_history for key in line}
    assert load_jepa(tmp_path / "saved").config == JEPAConfig(jepa_k=2)


def test_the_pairs_are_those_of_a_file_with_these_rows(make, tokenizer, tmp_path):
    """From a Dataset, a list, and by hand: the same pairs to the token; rows are numbered from 1."""
    write_json_lines(tmp_path / "rows.jsonl", ROWS)
    encoder = PairEncoder(tokenizer)
    expected = [
        encoder.encode(example) for example in read_examples(str(tmp_path / "rows.jsonl"), DataConfig()).examples
    ]
    for rows in (Dataset.from_list(ROWS), ROWS):
        found = list(make(rows).train_dataset)
        assert [(pair.text_ids, pair.bridge_ids, pair.code_ids) for pair in found] == [
            (pair.text_ids, pair.bridge_ids, pair.code_ids) for pair in expected
        ]
    assert found[-1].source == f"train_dataset:{len(ROWS)}"
    assert encode_rows(ROWS, encoder)[0].code_ids == expected[0].code_ids
    assert encoder.decode_code(expected[0].code_ids) == ROWS[0]["completion"]


def test_a_chat_is_rendered_by_the_tokenizers_template(make, tiny_model):
    tokenizer = train_tokenizer(TEXTS, 300)
    tokenizer.chat_template = TEMPLATE
    pair = make(Dataset.from_list(CHATS), tokenizer=tokenizer).train_dataset[0]
    ids = [*pair.text_ids, *pair.bridge_ids, *pair.code_ids]
    assert ids == tokenizer.apply_chat_template(CHATS[0]["messages"], return_dict=False)


def test_a_model_under_its_objective_is_taken_as_it_is(make, tiny_model, raises):
    """Its seed gives [PRED]; a plain model's is that of the arguments."""
    jepa = LLMJEPA(tiny_model("llama", vocab_size=300), JEPAConfig(jepa_distance="mse"))
    assert make(ROWS, model=jepa).jepa is jepa
    plain = make(ROWS).jepa
    assert plain.config == JEPAConfig() and plain.seed == 3
    with raises("settings_conflict", "jepa_config"):
        make(ROWS, model=jepa, jepa_config=JEPAConfig())


def test_rows_are_read_by_data_config_and_lost_ones_are_counted(make, caplog):
    rows = [{"question": "a", "sql": "b"}, {"question": "long " * 90, "sql": "c"}, {"question": " ", "sql": "d"}]
    config = DataConfig(
        text_column="question", code_column="sql", on_overflow="truncate", on_empty="drop", max_length=60
    )
    with caplog.at_level(logging.WARNING):
        assert len(make(rows, data_config=config).train_dataset) == 2
    assert "train_dataset: 1 of 3 rows left out: empty 1" in caplog.text
    assert "train_dataset: 1 rows cut to 60 tokens" in caplog.text


def test_a_row_that_cannot_be_used_is_named(make, raises):
    with raises("column_missing", "train_dataset:2", "question"):
        make([ROWS[0], {"question": "x"}])
    with raises("row_too_long", 128):
        make([{"prompt": " ".join(map(str, range(90))), "completion": "x"}])


def test_a_tokenizer_without_a_padding_token_will_do(make, tiny_model):
    tokenizer = train_tokenizer(TEXTS, 300)
    tokenizer.pad_token = None
    trainer = make(ROWS, tokenizer=tokenizer)
    assert trainer.pad_token_id == tokenizer.eos_token_id
    assert torch.isfinite(torch.tensor(trainer.train().training_loss))


def test_evaluate_encodes_rows_and_a_callback_gets_the_tokenizer(make, tokenizer):
    given = {}

    class Keep(TrainerCallback):
        def on_evaluate(self, args, state, control, **others):
            given.update(others)

    trainer = make(ROWS, eval_dataset=ROWS[:3], callbacks=[Keep()])
    other = trainer.evaluate(Dataset.from_list(ROWS[3:]))["eval_ce_loss"]
    assert given["processing_class"] is tokenizer
    assert other == make(ROWS, eval_dataset=ROWS[3:], model=trainer.jepa).evaluate()["eval_ce_loss"]
    assert other != trainer.evaluate()["eval_ce_loss"]


def test_the_names_are_exported():
    assert llm_jepa.PairEncoder is PairEncoder and llm_jepa.encode_rows is encode_rows
    assert llm_jepa.DataConfig is DataConfig and callable(llm_jepa.register_distance)
