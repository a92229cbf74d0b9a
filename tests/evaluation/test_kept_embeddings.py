"""Embeddings that are kept with a run: the right pairs, whole files, and texts as they are."""

from __future__ import annotations

from dataclasses import replace

import torch

from llm_jepa.data.encoded_pairs import EncodedPairs
from llm_jepa.evaluation.kept_embeddings import StoredEmbeddings, words_for
from llm_jepa.objective import LLMJEPA, JEPAConfig
from llm_jepa.training.view_embeddings import view_embeddings


def keep(learned, **options) -> StoredEmbeddings | None:
    arguments = {"jepa": learned.jepa, "encoder": learned.encoder, "rows": learned.rows} | options
    return StoredEmbeddings.of(**{"split": "test", "file": "data/rows.jsonl"} | arguments)


def test_what_is_read_is_what_was_written(learned, tmp_path):
    """Vectors bit for bit, the pairs' texts, the file's name without its folder, and how many pairs there were."""
    kept = keep(learned)
    file = tmp_path / "embeddings.safetensors"
    kept.write(file)
    assert list(tmp_path.iterdir()) == [file]
    again = StoredEmbeddings.read(file)
    for name in ("text_pred", "code_emb", "code_groups"):
        assert torch.equal(getattr(again, name), getattr(kept, name))
    assert again.text_pred.dtype == torch.float32 and again.text_pred.shape == (4, 64)
    assert (again.split, again.file, again.num_rows, again.side) == ("test", "rows.jsonl", 4, "pred")
    source = learned.rows.examples[0].source
    assert again.pairs[0] == {"source": source, "text": "lines with a dog", "code": ".*dog.*"}


def test_they_are_what_the_objective_compares(learned):
    views = view_embeddings(learned.jepa, learned.rows.pairs, learned.encoder.pad_id)
    assert torch.equal(keep(learned).text_pred, views.text_pred) and torch.equal(keep(learned).code_emb, views.code_emb)


def test_of_many_rows_some_are_taken_from_the_first_to_the_last(learned):
    """Spread evenly; rows without a JEPA term are not among them."""
    assert [pair["code"] for pair in keep(learned, most=2).pairs] == [".*dog.*", "(){1}"]
    pairs = [replace(pair, use_jepa=place not in (0, 3)) for place, pair in enumerate(learned.rows.pairs)]
    kept = keep(learned, rows=EncodedPairs(pairs, learned.rows.examples))
    assert [pair["code"] for pair in kept.pairs] == [".*[0-9].*", ".*x"] and kept.num_rows == 2
    none = [replace(pair, use_jepa=False) for pair in pairs]
    assert keep(learned, rows=EncodedPairs(none, learned.rows.examples)) is None


def test_without_a_trained_pred_it_is_enc_text(learned):
    """Plain training, or k = 0, compares Enc(Text) with Enc(Code); where the code predicts, that is said."""
    plain = LLMJEPA(learned.jepa.model, JEPAConfig(jepa_lambda=0.0))
    assert (keep(learned, jepa=plain).side, keep(learned, jepa=plain).views) == ("enc", "Enc(Text), Enc(Code)")
    turned = JEPAConfig(jepa_direction="code_to_text")
    assert (
        words_for("pred", turned) == "Enc(Text), Pred(Enc(Code))" and words_for("enc", turned) == "Enc(Text), Enc(Code)"
    )


def test_a_run_without_the_file_has_none_and_a_damaged_one_is_named(learned, tmp_path, raises):
    path = tmp_path / "embeddings.safetensors"
    assert StoredEmbeddings.read(path) is None
    keep(learned).write(path)
    path.write_bytes(path.read_bytes()[:-9])
    with raises("file_damaged", path):
        StoredEmbeddings.read(path)


def test_texts_may_hold_anything(learned, some_rows, tmp_path):
    """Quotes, line ends, other scripts: what JSON holds comes back."""
    rows = some_rows({"text": 'a "quote"\n\u202e\u4f60', "code": "<b>\\u0000"}, {"text": "b", "code": "c"})
    keep(learned, rows=rows).write(tmp_path / "kept")
    assert StoredEmbeddings.read(tmp_path / "kept").pairs[0]["text"] == 'a "quote"\n\u202e\u4f60'
