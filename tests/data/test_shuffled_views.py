"""The shuffled control breaks the match between the views and changes nothing else."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import statistics
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from sklearn.metrics import mutual_info_score

from llm_jepa.data.nlrx import generate_pairs
from llm_jepa.data.shuffled_views import about_exchange, exchange, shuffle_code_views
from llm_jepa.experiments.comparability import about_exchanges
from llm_jepa.files import write_json_lines
from llm_jepa.objective import LLMJEPA, FusedCollator, JEPAConfig, Pair
from llm_jepa.runs.folder import RunFolder
from llm_jepa.runs.run import train_run
from llm_jepa.runs.settings import read_run

# The benchmark is a script, not part of the package.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from shuffled_control import Task, held_out_infonce


def with_codes(*codes):
    return [Pair([5, number], [*code, 1], source=f"row {number}") for number, code in enumerate(codes)]


def assert_no_pair_keeps_its_code(pairs, shuffled):
    assert all(one.code_view != two.code_view for one, two in zip(pairs, shuffled, strict=True))


@pytest.mark.parametrize("seed", range(10))
def test_no_pair_keeps_its_own_code(seed, make_pairs):
    """Promise 8: every pair has the code view of another, and each code view is used as often as before."""
    pairs = make_pairs(31, seed=seed)
    shuffled = shuffle_code_views(pairs, seed)
    assert_no_pair_keeps_its_code(pairs, shuffled)
    before, after = (Counter(tuple(pair.code_view) for pair in each) for each in (pairs, shuffled))
    assert before == after


@pytest.mark.parametrize("seed", range(10))
def test_pairs_that_share_a_code_do_not_get_it_back(seed):
    """Half of the rows have one code, a third of the rest another: still none meets its own."""
    pairs = with_codes(*[[8]] * 6, *[[9]] * 2, *[[n] for n in range(10, 14)])
    assert_no_pair_keeps_its_code(pairs, shuffle_code_views(pairs, seed))


def test_two_pairs_exchange_their_codes():
    """The smallest case, by hand."""
    shuffled = shuffle_code_views(with_codes([8, 9], [10]), seed=0)
    assert [pair.code_view for pair in shuffled] == [[10], [8, 9]]


def test_a_code_on_most_rows_stays_where_nothing_else_is_left():
    """Four of five rows have one code: the odd one moves to one of them, and nobody gets a code that was not there."""
    pairs = with_codes([8], [8], [8], [8], [9])
    shuffled = shuffle_code_views(pairs, seed=0)
    assert shuffled[4].code_view == [8]
    assert sorted(pair.code_view[0] for pair in shuffled) == [8, 8, 8, 8, 9]
    assert "3 of 5 training rows (60.0%) keep a code equal" in about_exchange(pairs, shuffled, "training rows")[0]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("sizes", [(5, 4, 3), (6, 6), (7, 3, 2), (10, 1, 1), (4, 4, 4), (2, 1)])
def test_as_few_codes_as_can_be_meet_their_equal(sizes, seed):
    """With m of n codes equal, 2 m - n must meet their equal, or none where that is below 0; and no more do."""
    codes = [code for code, size in enumerate(sizes) for _ in range(size)]
    random.Random(seed).shuffle(codes)
    others = exchange(codes, seed)
    assert sorted(others) == list(range(len(codes))) and others == exchange(codes, seed)
    assert sum(codes[row] == codes[other] for row, other in enumerate(others)) == max(0, 2 * max(sizes) - len(codes))


FEATURES = {
    "first character": lambda code: code[0],
    "beginning": lambda code: code[:6],
    "length": len,
    "end": lambda code: code[-4:],
}


def sorted_shift(codes, seed):
    """The exchange of earlier versions, by hand: codes in sorted order, each replaced by one at a fixed distance."""
    order = sorted(range(len(codes)), key=lambda row: codes[row])
    shift = random.Random(seed).randint(1, len(codes) - 1)
    replaced_by = {row: order[(place + shift) % len(order)] for place, row in enumerate(order)}
    return [replaced_by[row] for row in range(len(codes))]


def information_above_chance(codes, others, feature):
    """How far the mutual information of a code's feature and its replacement's is above that of random permutations, in
    standard deviations of these."""
    own = [FEATURES[feature](code) for code in codes]
    rng, drawn = random.Random(0), []
    for _ in range(60):
        drawn.append(mutual_info_score(own, rng.sample(own, len(own))))
    found = mutual_info_score(own, [own[other] for other in others])
    return (found - statistics.mean(drawn)) / statistics.stdev(drawn)


@pytest.mark.parametrize("feature", FEATURES)
def test_a_code_says_nothing_of_the_one_that_takes_its_place(feature):
    """The mutual information is that of a random permutation; the exchange of earlier versions fails this."""
    codes = [pair.code for pair in generate_pairs(2000, seed=5)]
    far = [information_above_chance(codes, exchange(codes, seed), feature) for seed in range(5)]
    assert all(abs(each) < 5 for each in far) and abs(statistics.mean(far)) < 2
    if feature in ("first character", "beginning"):
        assert information_above_chance(codes, sorted_shift(codes, 0), feature) > 20


def test_the_place_of_a_row_says_nothing_of_where_its_code_comes_from():
    """Files are often sorted: neither the distance of the two rows nor their order may have a structure."""
    num_rows = 3000
    others = exchange(range(num_rows), seed=1)
    distances = Counter((other - row) % num_rows for row, other in enumerate(others))
    assert distances[0] == 0 and max(distances.values()) < 10  # a shift has one distance, num_rows times
    pairs = torch.tensor([range(num_rows), others], dtype=torch.float64)
    assert abs(torch.corrcoef(pairs)[0, 1]) < 5 / math.sqrt(num_rows)


@pytest.mark.slow
def test_a_model_finds_no_match_in_the_pairs_of_the_control(tmp_path, monkeypatch):
    """Trained on the control's pairs it stays at log(batch) on held-out pairs of the same exchange. True pairs are
    learned in as many steps, and so are, in part, those of the sorted exchange of earlier versions."""
    write_json_lines(tmp_path / "pairs.jsonl", map(dataclasses.asdict, generate_pairs(2400, seed=3)))
    task = Task.read(str(tmp_path / "pairs.jsonl"), 2400)
    size = {"num_held_out": 320, "steps": 150, "batch_size": 32}
    chance = math.log(32)
    assert held_out_infonce(task, None, **size) < 1
    assert held_out_infonce(task, shuffle_code_views, **size) > chance - 0.1
    monkeypatch.setattr("llm_jepa.data.shuffled_views.exchange", sorted_shift)
    assert held_out_infonce(task, shuffle_code_views, **size) < chance - 0.2


def short_run(folder, train, **changes):
    """Settings of one step or two on a few rows, with the shuffled control."""
    files = {}
    for name, rows in (("train", train), ("test", [{"text": "the last", "code": "z"}])):
        files[f"{name}_file"] = str(folder / f"{name}.jsonl")
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sizes = {"vocab_size": 300, "validation_size": 0, "max_steps": 2, "per_device_train_batch_size": 4}
    return read_run(files | sizes | {"use_cpu": True, "max_new_tokens": 2, "shuffle_views": True} | changes)


def test_a_run_of_the_earlier_exchange_is_not_taken_up(tmp_path, raises):
    """Its config.yaml has no `shuffle_rule`: neither a finished nor a begun run goes on, and a report names it."""
    run = short_run(tmp_path, [{"text": f"number {number}", "code": f"y{number}"} for number in range(20)])
    folder = tmp_path / "jepa_shuffled-s1"
    train_run(run, 1, folder)
    assert about_exchanges([("jepa_shuffled", RunFolder(folder))]) == []
    config = folder / "config.yaml"
    config.write_text("".join(line for line in config.open() if not line.startswith("shuffle_rule")))
    assert "jepa_shuffled is a faulty control" in about_exchanges([("jepa_shuffled", RunFolder(folder))])[0]
    for _ in range(2):
        with raises("settings_changed", "shuffle_rule", "'not set'", "'derangement'"):
            train_run(run, 1, folder)
        (folder / "DONE").unlink(missing_ok=True)


def test_rows_that_keep_their_code_are_counted_in_the_notes(tmp_path):
    """Three of four rows have one code: half of all rows cannot get another."""
    rows = [{"text": f"number {number}", "code": "x" if number % 4 else f"y{number}"} for number in range(40)]
    train_run(short_run(tmp_path, rows), 1, tmp_path / "run")
    assert "20 of 40 training rows (50.0%) keep a code equal to their own" in (tmp_path / "run/data.json").read_text()


def test_the_exchange_is_a_function_of_the_seed(make_pairs):
    """The same seed gives the same exchange, another seed another; neither the rows nor a random stream is touched."""
    pairs, state = make_pairs(20), torch.get_rng_state()
    views = [[tuple(pair.code_view) for pair in shuffle_code_views(pairs, seed)] for seed in (3, 3, 4)]
    assert views[0] == views[1] != views[2]
    assert torch.equal(state, torch.get_rng_state())
    assert all(pair.other_code_ids is None for pair in pairs)


def test_nothing_else_changes(make_pairs, tiny_model):
    """Promise 8: rows, lengths, labels, order and sources are the same; cross-entropy and text side have the same bits,
    and only the target differs."""
    pairs = make_pairs(12)
    shuffled = shuffle_code_views(pairs, seed=1)
    for one, two in zip(pairs, shuffled, strict=True):
        assert (one.text_ids, one.bridge_ids, one.code_ids, one.source) == (
            two.text_ids,
            two.bridge_ids,
            two.code_ids,
            two.source,
        )
        assert len(one) == len(two)
    for config in (JEPAConfig(jepa_k=2), JEPAConfig(jepa_lambda=0.0)):
        collate = FusedCollator(config, pad_token_id=0)
        matched, mixed = collate(pairs), collate(shuffled)
        assert torch.equal(matched.labels, mixed.labels)
        assert torch.equal(matched.rows.input_ids, mixed.rows.input_ids)
        jepa = LLMJEPA(tiny_model("llama"), config)
        one, two = jepa(matched), jepa(mixed)
        assert torch.equal(one.ce_loss, two.ce_loss)
        if config.uses_views:
            assert torch.equal(one.text_pred, two.text_pred)
            assert not torch.isclose(one.code_emb, two.code_emb).all(1).any()
            assert one.jepa_loss != two.jepa_loss
        else:
            assert torch.equal(one.loss, two.loss)


@pytest.mark.parametrize("target", ["stop_grad", "shared", "ema"])
def test_the_other_code_is_what_the_target_encodes(target, tiny_model):
    """Enc(Code) of the control is that of the pair which has the code as its own."""
    pairs = with_codes([8, 9], [10, 11, 12])
    jepa = LLMJEPA(tiny_model("llama"), JEPAConfig(jepa_target=target))
    collate = FusedCollator(jepa.config, pad_token_id=0)
    matched, mixed = jepa(collate(pairs)), jepa(collate(shuffle_code_views(pairs, seed=0)))
    torch.testing.assert_close(mixed.code_emb, matched.code_emb.flip(0), atol=1e-5, rtol=1e-5)


def test_one_code_for_all_rows_is_refused(raises):
    with raises("codes_all_equal", "shuffle_views"):
        shuffle_code_views(with_codes([8], [8]), seed=0)


def test_rows_without_a_jepa_term_neither_give_nor_get_a_code():
    """Their code views may match nothing, so the control must not learn from them either."""
    pairs = with_codes([8], [9], [10], [11])
    pairs[1] = dataclasses.replace(pairs[1], use_jepa=False)
    shuffled = shuffle_code_views(pairs, seed=0)
    assert shuffled[1] == pairs[1]
    assert sorted(shuffled[row].code_view[0] for row in (0, 2, 3)) == [8, 10, 11]
    assert_no_pair_keeps_its_code([pairs[row] for row in (0, 2, 3)], [shuffled[row] for row in (0, 2, 3)])


def test_code_views_of_their_own_are_what_is_exchanged():
    """With jepa_views=rendered, or a code_view column: rows keep their codes, views move."""
    pairs = [dataclasses.replace(pair, code_view_ids=[20 + row]) for row, pair in enumerate(with_codes([8], [8], [9]))]
    shuffled = shuffle_code_views(pairs, seed=0)
    assert_no_pair_keeps_its_code(pairs, shuffled)
    assert sorted(pair.code_view for pair in shuffled) == [[20], [21], [22]]
    assert [pair.code_ids for pair in shuffled] == [pair.code_ids for pair in pairs]


def test_rendered_code_views_move_with_their_codes_among_the_rows_that_have_views(make_mixed_pairs):
    """No pair keeps its view, each view is used as often as before, and rows without views stay as they are."""
    pairs = make_mixed_pairs(20)
    shuffled = shuffle_code_views(pairs, seed=1)
    with_views = [number for number, pair in enumerate(pairs) if pair.use_jepa]
    before, after = ([each[number] for number in with_views] for each in (pairs, shuffled))
    assert_no_pair_keeps_its_code(before, after)
    assert Counter(tuple(pair.code_view) for pair in before) == Counter(tuple(pair.code_view) for pair in after)
    assert all(one.text_view == two.text_view for one, two in zip(pairs, shuffled, strict=True))
    assert all(shuffled[number] is pairs[number] for number in set(range(20)) - set(with_views))


def test_codes_that_repeat_and_codes_of_the_same_group_are_noted():
    """With two codes the text tells which one it gets; a group's codes may describe what the text describes."""
    pairs = with_codes(*[[8], [9]] * 10)
    assert "equal codes in 50% of cases" in about_exchange(pairs, shuffle_code_views(pairs, 0), "view rows")[0]
    pairs = [
        dataclasses.replace(pair, group=f"g{place // 10}")
        for place, pair in enumerate(with_codes(*[[n] for n in range(8, 108)]))
    ]
    assert about_exchange(pairs, shuffle_code_views(pairs, 0), "view rows")[0].endswith(
        "get a code of their own group."
    )
    pairs = with_codes(*[[n] for n in range(8, 108)])
    assert about_exchange(pairs, shuffle_code_views(pairs, 0), "view rows") == []
