"""LLM-JEPA for one pair, in three plain forwards. Read this file first.

    loss = CE(next token) + lambda * d( Pred(Enc(Text)), Enc(Code) )             (arXiv 2509.14252, Eq. 2)

Enc(x) is the last hidden state at the last token of x. Pred(Enc(x)) is the last hidden state after k more tokens, the
learned embeddings `[PRED]`. d is 1 - cosine. `llm_jepa.py` computes the same for a batch in one fused pass, with all
the options; a test compares the two.

Letters: T tokens, C hidden size, V vocabulary, k [PRED] tokens.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def llm_jepa_loss(model: nn.Module, text: Tensor, code: Tensor, pred_tokens: Tensor, jepa_lambda: float) -> Tensor:
    """Return Eq. 2 for one pair, a scalar with gradient.

    Args:
        model: Any causal language model of transformers.
        text: Token ids of the text view, (T,).
        code: Token ids of the code view; the last one is the end token, (T,).
        pred_tokens: The [PRED] embeddings, (k, C); with k = 0 the prediction is Enc(Text) itself.
        jepa_lambda: Weight of the JEPA term.
    """
    embed = model.get_input_embeddings()  # type: ignore[operator]
    words = torch.cat([text, code])  # (T,)

    # 1. Next-token prediction on text and code.
    logits = model(words[None]).logits[0]  # (T, V)
    ce_loss = F.cross_entropy(logits[:-1], words[1:])

    # 2. Pred(Enc(Text)): the text, then [PRED].
    text_then_pred = torch.cat([embed(text), pred_tokens])  # (T + k, C)
    text_pred = last_state(model, inputs_embeds=text_then_pred[None])  # (C,)

    # 3. Enc(Code): the code without its end token. It is a target, so no gradient goes through it.
    with torch.no_grad():
        code_emb = last_state(model, input_ids=code[None, :-1])  # (C,)

    jepa_loss = 1 - F.cosine_similarity(text_pred, code_emb, dim=0)
    return ce_loss + jepa_lambda * jepa_loss


def last_state(model: nn.Module, **inputs: Tensor) -> Tensor:
    """Return the last layer's hidden state, after the final norm, at the last position, (C,)."""
    return model(**inputs, output_hidden_states=True).hidden_states[-1][0, -1]
