"""What a resumed run must have in common with the run before it."""

from __future__ import annotations

from dataclasses import replace

from llm_jepa.data.digest import digest_rows
from llm_jepa.objective import Pair

PAIR = Pair([5, 6], [8, 1], [2])


def test_rows_with_other_views_are_other_rows():
    """Rendered views, whether a row has any, and groups are told apart."""
    others = [
        replace(PAIR, text_view_ids=[5, 6]),
        replace(PAIR, text_view_ids=[8]),
        replace(PAIR, code_view_ids=[8]),
        replace(PAIR, code_view_ids=[]),
        replace(PAIR, use_jepa=False),
    ]
    assert len({digest_rows([each]) for each in [PAIR, *others]}) == 6
    assert digest_rows([replace(PAIR, group="a")]) != digest_rows([replace(PAIR, group="b")])  # of InfoNCE's negatives
    assert digest_rows([replace(PAIR, text_view_ids=[7]), PAIR]) != digest_rows(
        [PAIR, replace(PAIR, text_view_ids=[7])]
    )


def test_a_run_does_not_go_on_with_another_number_of_batches(make_jepa, make_trainer, make_pairs, raises):
    """Without its last batch, an epoch has other rows and fewer steps."""
    make_trainer(make_jepa(), make_pairs(6), max_steps=2, save_steps=1).train()
    other = make_trainer(make_jepa(), make_pairs(6), max_steps=2, save_steps=1, dataloader_drop_last=True)
    with raises("settings_changed", "dataloader_drop_last"):
        other.train(resume_from_checkpoint=True)
