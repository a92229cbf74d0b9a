"""N7: FSDP2 (`fully_shard` over gloo on the CPU): same loss, gradients and weights; saved as a plain folder."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM

from llm_jepa import FusedCollator, JEPAConfig
from llm_jepa.evaluation.generation import generate_greedy
from llm_jepa.objective import LLMJEPA
from llm_jepa.processes import is_main, join
from llm_jepa.training.saving import load_jepa, restore_weights, save_jepa
from llm_jepa.training.sharding import is_sharded, whole_at_root

STEPS, LOSS, GRADIENT, WEIGHTS = 3, 2e-6, 1e-5, 1e-5
OBJECTIVES = [
    {"jepa_target": "ema", "jepa_k": 0},
    {"jepa_target": "stop_grad"},
    {
        "jepa_target": "shared",
        "jepa_direction": "both",
        "jepa_k": 2,
        "jepa_pred_tokens": "distinct",
        "jepa_predictor": "mlp",
    },
    {"jepa_distance": "infonce", "jepa_target": "shared"},
    {"jepa_lambda": 0.0},
]


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def train_by_hand(jepa, shares, pairs):
    """Take STEPS steps on the rows of one process; return loss, gradients and weights.

    Args:
        jepa: The model, sharded or not.
        shares: Rows of this process in each step.
        pairs: Rows of all processes in each step: what the means are over.
    """
    collate = FusedCollator(jepa.config, pad_token_id=0)
    optimizer = torch.optim.SGD([each for each in jepa.parameters() if each.requires_grad], lr=0.1)
    batch = collate(pairs)
    own = collate(shares) if shares else collate(pairs[:1]).emptied()
    processes = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    losses, gradients = [], {}
    for _ in range(STEPS):
        loss = jepa(own, step=0, num_labels=batch.num_labels, num_pairs=batch.num_pairs).loss
        (loss * processes).backward()
        total = loss.detach().clone()
        if processes > 1:
            torch.distributed.all_reduce(total)
        losses.append(total.item())
        gradients = {name: whole(each.grad) for name, each in jepa.named_parameters() if each.grad is not None}
        optimizer.step()
        jepa.update_target()
        optimizer.zero_grad()
    return losses, gradients, {name: whole(each) for name, each in jepa.state_dict().items()}


PROMPTS = [[5, 6, 7], [8], [9, 10], [11, 12, 13, 14], [15]]
ANSWERS = {"end_ids": [1], "pad_id": 0, "max_new_tokens": 5, "batch_size": 2}


def build_model(tiny_model, objective, shard: bool) -> LLMJEPA:
    jepa = LLMJEPA(tiny_model("llama", tie_word_embeddings=True), JEPAConfig(**objective))
    if shard:
        layers = [jepa, jepa.target] if jepa.target is not None else [jepa]
        for root in layers:
            for layer in (root.model.model if root is jepa else root.layers).layers:
                fully_shard(layer)
        fully_shard(jepa)
    return jepa


def train_sharded(tiny_model, pairs, folder, rank: int):
    """Train, save, answer and restore under each objective, as one of two processes; rank 0 returns all results."""
    join()
    results = {}
    for number, objective in enumerate(OBJECTIVES):
        for shares in ([pairs[:3], pairs[3:]], [pairs, []]):
            jepa = build_model(tiny_model, objective, shard=True)
            assert is_sharded(jepa)
            results[number, len(shares[0])] = train_by_hand(jepa, shares[rank], pairs)
        size = {} if number else {"max_shard_size": "20KB"}  # weights in one file, and in several
        save_jepa(jepa, folder / str(number), **size)
        with whole_at_root(jepa):
            answers = generate_greedy(jepa.model, PROMPTS, **ANSWERS)
        again = build_model(tiny_model, objective, shard=True)
        torch.distributed.barrier()
        restore_weights(again, folder / str(number))
        for name, each in again.state_dict().items():
            torch.testing.assert_close(whole(each), whole(jepa.state_dict()[name]), rtol=0, atol=0)
        results[number, "answers"] = answers
    return results if is_main() else None


@pytest.mark.slow
def test_a_sharded_model_trains_as_a_whole_one_and_is_saved_as_a_plain_folder(
    tiny_model, make_pairs, start_ranks, tmp_path
):
    """Each layer and the rest a unit of its own. 5 rows as 3 and 2, then all 5 and none."""
    pairs = make_pairs(5)
    results = start_ranks(partial(train_sharded, tiny_model, pairs, tmp_path), anew=True).results()[0]
    for number, objective in enumerate(OBJECTIVES):
        jepa = build_model(tiny_model, objective, shard=False)
        losses, gradients, weights = train_by_hand(jepa, pairs, pairs)
        for rows in (3, 5):
            its_losses, its_gradients, its_weights = results[number, rows]
            assert its_losses == pytest.approx(losses, rel=LOSS, abs=LOSS), objective
            assert its_gradients.keys() == gradients.keys()
            for name, each in gradients.items():
                assert (its_gradients[name] - each).norm() <= GRADIENT * each.norm() + 1e-8, (objective, name)
            for name, each in weights.items():
                torch.testing.assert_close(its_weights[name], each, rtol=WEIGHTS, atol=WEIGHTS)
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / str(number))
        for name, each in plain.state_dict().items():
            torch.testing.assert_close(each, weights[f"model.{name}"], rtol=WEIGHTS, atol=WEIGHTS)
        loaded = load_jepa(tmp_path / str(number))
        torch.testing.assert_close(loaded.predictor.embedding, weights["predictor.embedding"], rtol=1e-5, atol=1e-5)
        assert generate_greedy(plain, PROMPTS, **ANSWERS) == results[number, "answers"]


def test_a_process_whose_rows_have_no_views_keeps_step_with_the_others(tiny_model, make_pairs, start_ranks):
    """Every layer is called equally often in each: targets have a forward of their own where nobody reads it, too."""
    pairs = [replace(pair, use_jepa=number < 2) for number, pair in enumerate(make_pairs(4))]

    def build() -> LLMJEPA:
        return LLMJEPA(tiny_model("llama", tie_word_embeddings=True), JEPAConfig())

    def loss_of(jepa, own) -> float:
        batch = FusedCollator(jepa.config, pad_token_id=0)(pairs)
        collate = FusedCollator(jepa.config, pad_token_id=0, same_forwards=True)
        loss = jepa(collate(own), step=0, num_labels=batch.num_labels, num_pairs=batch.num_pairs).loss
        loss.backward()
        return loss.item()

    def sharded(rank: int):
        join()
        jepa = build()
        for layer in jepa.model.model.layers:
            fully_shard(layer)
        fully_shard(jepa)
        return loss_of(jepa, [pairs[:2], pairs[2:]][rank])

    losses = start_ranks(sharded).results()
    assert sum(losses) == pytest.approx(loss_of(build(), pairs), rel=LOSS)


def test_the_steps_of_the_rows_of_one_process_alone_are_others(tiny_model, make_pairs):
    """Negative control: the comparison sees a process that trains on its own rows only."""
    pairs, one, other = make_pairs(5), *(LLMJEPA(tiny_model("llama"), JEPAConfig()) for _ in range(2))
    losses, _, _ = train_by_hand(one, pairs, pairs)
    assert train_by_hand(other, pairs[:3], pairs[:3])[0] != pytest.approx(losses, rel=1e-3)
