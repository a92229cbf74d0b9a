"""The documents of a pair, by hand."""

from __future__ import annotations

import pytest

from llm_jepa.objective import JEPAConfig, Pair
from llm_jepa.objective.documents import IGNORED, Role, Where, documents_of

PAIR = Pair(text_ids=[5, 6, 7], bridge_ids=[2], code_ids=[8, 9, 1])
RENDERED = Pair(text_ids=[5, 6, 7], bridge_ids=[2], code_ids=[8, 9, 1], text_view_ids=[3, 4])


def seen(pair: Pair, **settings):
    """What a document is, without the labels and roles of its tokens."""
    documents = documents_of(pair, JEPAConfig(**settings))
    return [(each.tokens, each.where.name, list(each.pred), each.read_as) for each in documents]


def test_the_first_document_is_the_pairs_own_sequence():
    own, target = documents_of(PAIR, JEPAConfig(jepa_k=2, loss_on="code"))
    assert own.tokens == [5, 6, 7, 2, 8, 9, 1] and own.where is Where.OWN
    assert own.role == [Role.TEXT] * 3 + [Role.BRIDGE] + [Role.CODE] * 3
    assert own.labels == [IGNORED] * 4 + [8, 9, 1]
    assert list(own.pred) == [3, 4] and own.pred_role is Role.TEXT_PRED and len(own) == 9
    assert own.read_as == {"text": 2, "text_pred": 8}
    assert (target.tokens, target.where, target.read_as) == ([8, 9], Where.TARGET, {"code": 1})


OWN = [5, 6, 7, 2, 8, 9, 1]


@pytest.mark.parametrize(
    ("pair", "settings", "expected"),
    [
        (PAIR, {"jepa_lambda": 0.0}, [(OWN, "OWN", [], {})]),
        (PAIR, {"jepa_term": "stp"}, [(OWN, "OWN", [], {})]),
        (
            PAIR,
            {"jepa_target": "shared"},
            [(OWN, "OWN", [3], {"text": 2, "text_pred": 7}), ([8, 9], "BESIDE", [], {"code": 1})],
        ),
        (
            PAIR,
            {"jepa_direction": "code_to_text"},
            [(OWN, "OWN", [], {"text": 2}), ([8, 9], "BESIDE", [2], {"code": 1, "code_pred": 2})],
        ),
        (
            RENDERED,
            {"jepa_k": 0},
            [
                (OWN, "OWN", [], {}),
                ([3, 4], "BESIDE", [], {"text": 1, "text_pred": 1}),
                ([8, 9], "TARGET", [], {"code": 1}),
            ],
        ),
        (
            PAIR,
            {"jepa_pred_position": "prepend", "jepa_k": 2},
            [
                (OWN, "OWN", [], {"text": 2}),
                ([5, 6, 7], "BESIDE", [0, 1], {"text_pred": 4}),
                ([8, 9], "TARGET", [], {"code": 1}),
            ],
        ),
        (
            PAIR,
            {"jepa_detach_backbone": True, "jepa_direction": "both"},
            [
                (OWN, "OWN", [], {"text": 2}),
                ([5, 6, 7], "PROBE", [3], {"text_pred": 3}),
                ([8, 9], "PROBE", [2], {"code_pred": 2}),
                ([8, 9], "TARGET", [], {"code": 1}),
                ([5, 6, 7], "TARGET", [], {"text": 2}),
            ],
        ),
    ],
)
def test_views_have_documents_of_their_own_where_they_need_them(pair, settings, expected):
    """Beside the pair's own sequence, in the rows of targets, or in those of a probe."""
    assert seen(pair, **settings) == expected


def test_targets_can_be_asked_for_apart():
    """A batch has the targets of all its pairs in rows of their own, or of none."""
    config = JEPAConfig(jepa_direction="code_to_text")
    assert [each.where for each in documents_of(PAIR, config)] == [Where.OWN, Where.BESIDE]
    apart = documents_of(PAIR, config, targets_apart=True)
    assert [each.where for each in apart] == [Where.OWN, Where.BESIDE, Where.TARGET] and apart[2].tokens == [5, 6, 7]
