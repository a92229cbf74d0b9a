"""A checkpoint for nanoGPT's own class and scripts, and the line that its own loop prints."""

from __future__ import annotations

import pytest
import torch

from llm_jepa.nanogpt import GPT, GPTConfig, view_line
from llm_jepa.nanogpt.convert import export
from llm_jepa.nanogpt.weights import save_checkpoint

SIZE = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 12, "vocab_size": 20}
OPTIMIZER = {"weight_decay": 0.1, "learning_rate": 1e-2, "betas": (0.9, 0.95), "device_type": "cpu"}
ROWS = torch.randint(20, (6, 13), generator=torch.Generator().manual_seed(1))
X, Y = ROWS[:, :-1].contiguous(), ROWS[:, 1:].contiguous()


def build(**changes):
    torch.manual_seed(0)
    return GPT(GPTConfig(**{**SIZE, **changes}))


@pytest.fixture
def trained(tmp_path):
    """A model of two steps and its checkpoint, written as nanoGPT's train.py does, of a compiled model."""
    model = build()
    optimizer = model.configure_optimizers(**OPTIMIZER)
    for _ in range(2):
        model(X, Y, jepa_lambda=1.0)[1].backward()
        optimizer.step()
        optimizer.zero_grad()
    weights = {f"_orig_mod.{name}": each for name, each in model.state_dict().items()}
    saved = {"model": weights, "optimizer": optimizer.state_dict(), "iter_num": 2, "best_val_loss": torch.tensor(3.0)}
    args = SIZE | {"bias": True, "dropout": 0.0}
    torch.save(saved | {"model_args": args, "config": {"dataset": "letters"}}, tmp_path / "ckpt.pt")
    return model, tmp_path / "ckpt.pt"


def test_an_exported_checkpoint_has_what_nanogpts_own_class_has_and_no_more(trained, tmp_path):
    """Its names of weights, the two groups of its optimizer, and everything else as it was."""
    model, path = trained
    done = export(path, tmp_path / "stock" / "ckpt.pt")
    assert (done["format"], done["pred_token"]) == ("stock", "kept")
    stock = torch.load(tmp_path / "stock" / "ckpt.pt", weights_only=True)
    weights = {name: each for name, each in model.state_dict().items() if name != "pred_token"}
    assert stock["model"].keys() == weights.keys()
    assert all(torch.equal(stock["model"][name], each) for name, each in weights.items())
    own = [each for name, each in model.named_parameters() if name != "pred_token"]
    groups = [[each for each in own if each.dim() >= 2], [each for each in own if each.dim() < 2]]
    optimizer = torch.optim.AdamW([{"params": group} for group in groups])
    optimizer.load_state_dict(stock["optimizer"])  # strict in its groups and their sizes
    assert len(optimizer.state) == len(own)
    assert (stock["iter_num"], stock["config"]) == (2, {"dataset": "letters"})
    assert stock["model_args"] == SIZE | {"bias": True, "dropout": 0.0}


def test_pred_token_is_in_a_file_beside_it_and_found_again(trained, tmp_path):
    """By `from_checkpoint`, and on the way to a transformers folder."""
    model, path = trained
    export(path, tmp_path / "stock" / "ckpt.pt")
    names = sorted(each.name for each in (tmp_path / "stock").iterdir())
    assert names == ["ckpt.jepa.safetensors", "ckpt.pt"]
    assert torch.equal(GPT.from_checkpoint(tmp_path / "stock" / "ckpt.pt").pred_token, model.pred_token)
    assert export(tmp_path / "stock" / "ckpt.pt", tmp_path / "folder")["pred_token"] == "kept"


def test_what_is_no_checkpoint_for_it_is_refused_and_nothing_is_written_over(trained, tmp_path, raises):
    _, path = trained
    export(path, tmp_path / "stock.pt")
    before = (tmp_path / "stock.pt").read_bytes()
    with raises("file_exists", "stock.pt"):
        export(path, tmp_path / "stock.pt")
    assert (tmp_path / "stock.pt").read_bytes() == before
    export(path, tmp_path / "stock.pt", force=True)
    with raises("output_is_input", path):
        export(path, path, force=True)
    with raises("nothing_to_export", "stock.pt", "[PRED]"):
        export(tmp_path / "stock.pt", tmp_path / "again.pt")
    save_checkpoint(build(activation="gelu_new"), tmp_path / "new.pt")
    with raises("model_not_supported", "new.pt", "gelu_new"):
        export(tmp_path / "new.pt", tmp_path / "other.pt")
    assert GPT.from_checkpoint(tmp_path / "new.pt").config.activation == "gelu_new"


# ---- the line of a training loop ----


def test_the_line_says_what_the_batch_says_and_leaves_the_training_alone():
    """The distance of `jepa_loss`, gap and retrieval; no random number, no gradient, the same mode."""
    model = build(dropout=0.1).train()
    state = torch.random.get_rng_state()
    line = view_line(model, X, Y, jepa_k=2)
    assert torch.equal(torch.random.get_rng_state(), state) and model.training
    assert all(each.grad is None for each in model.parameters())
    expected = model.eval().jepa_loss(X, Y, jepa_k=2).jepa_loss.item()
    assert line.startswith(f"jepa_loss {expected:.4f}, gap ") and "(chance 17%)" in line


def test_rows_of_equal_code_are_no_wrong_answers():
    """Six rows of two codes: finding any of the three is right, and chance is a half."""
    idx = torch.cat([X[:, :6], X[[0, 1, 0, 1, 0, 1], 6:]], dim=1)
    assert "(chance 50%)" in view_line(build(), idx, Y)
    assert "(chance 50%)" in view_line(build(), idx, Y, views=[(6, 6)] * 6)


def test_a_batch_that_cannot_say_so_is_named():
    assert view_line(build(), X, Y, views=[(0, 0)] * 6) == "jepa_loss 0.0000, no pair in this batch"
    assert view_line(build(), X[:1], Y[:1]).endswith("gap needs two different codes")
