"""Measures a model on held-out rows: its cross-entropy, how near its views are, and whether they collapsed."""

from __future__ import annotations

import torch

from llm_jepa.nanogpt import GPT
from llm_jepa.training.monitors import embedding_monitors, looks_collapsed
from rows import PADDING, Rows


@torch.no_grad()
def look_at(model: GPT, rows: Rows, k: int, split: float, device: str) -> dict[str, float]:
    """Return the cross-entropy, and how near each Pred(text) is to its own Enc(code) and to those of others."""
    model.eval()
    ce, trained, text_pred, code_emb, codes = 0.0, 0, [], [], []
    for which in torch.arange(len(rows.table)).split(50):
        x, y, views = rows.batch(which, device)
        out = model.jepa_loss(x, y, jepa_lambda=1.0, jepa_k=k, jepa_split=split, views=views)
        targets = int((y != PADDING).sum())
        ce, trained = ce + out.ce_loss.item() * targets, trained + targets
        if out.num_pairs:
            text_pred.append(out.text_pred)
            code_emb.append(out.code_emb)
            codes += [rows.codes[row] if rows.codes else row for row in which.tolist()]
    model.train()
    if not text_pred:
        return {"ce": ce / trained}
    # Pairs with the same code are one group, and count as right answers for each other. Codes of one character have no
    # embedding (see `jepa_loss`).
    names = [code for code in codes if isinstance(code, int) or len(code) >= 2]
    groups = torch.tensor([names.index(name) for name in names])
    return {"ce": ce / trained, **embedding_monitors(torch.cat(text_pred), torch.cat(code_emb), groups)}


def describe(look: dict[str, float], with_jepa: bool) -> str:
    """Return the line that is printed of what `look_at` returned."""
    line = f"  held out: CE={look['ce']:.4f}"
    if "gap" in look:
        line += f" matched={look['matched_cosine']:+.3f} shuffled={look['shuffled_cosine']:+.3f} gap={look['gap']:+.3f}"
        line += f" retrieval@1={look['retrieval@1']:.1%} (chance {look['retrieval_chance']:.1%})"
        line += " looks collapsed" if with_jepa and looks_collapsed(look) else ""
    return line
