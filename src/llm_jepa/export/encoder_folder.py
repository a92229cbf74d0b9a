"""`llm-jepa export RUN --to DIR --as encoder`: a run's embedding as a folder of sentence-transformers.

`encode_query` gives the text's side, with [PRED] where the run trained one, and `encode_document` the code's. Only
modules of that library are used, so that the folder loads without this package.
Letters: V tokens, C hidden size.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llm_jepa.errors import ConfigError, LLMJEPAError
from llm_jepa.evaluation.kept_embeddings import StoredEmbeddings
from llm_jepa.files import put_in_place, staged_beside, write_whole
from llm_jepa.objective.backbone import Backbone
from llm_jepa.objective.predictor import PredictorHead
from llm_jepa.runs.folder import RunFolder
from llm_jepa.runs.trained_run import TrainedRun, load_run
from llm_jepa.training.adapters import PeftModel, merged

from .encoder_tokenizer import EncoderTokenizer, encoder_tokenizer
from .export_run import CARD, check_call
from .model_card import model_card
from .serving import ENCODER, Exported

Expected = tuple[list[list[int]], Tensor]  # the tokens of each text's view, and its embedding

SIDES = {"query": "text", "document": "code"}
_TEXTS = 16  # of the run's own pairs; the folder is checked on them before it gets its name
_PROBES = ("a", "two  spaces", " padded ", "Größe 漢字 🙂", "a\nb", "don't [PRED] it")
_MODALITY = {"method": "forward", "method_output_name": "last_hidden_state"}
_MODALITIES = {"text": _MODALITY, "message": {**_MODALITY, "format": "flat"}}
MOST_DIFFERENCE = 1e-5  # of the largest number of an embedding, for weights in float32
_OF_HALVES = 3e-2  # for weights of 16 bits, where the sums depend on how many texts are embedded at once


def export_encoder(run: str | Path, to: str | Path, *, force: bool = False) -> dict[str, Any]:
    """Write the embedding of a finished run as a folder of sentence-transformers, with a model card.

    `force` overwrites an earlier export of the name `to`. The run is only read.

    Returns:
        `run`, `out`, `kind` ("encoder"), `max_difference` (the largest between an embedding of the folder and ours),
        and `python`, the lines that use it.

    Raises:
        ConfigError: If sentence-transformers is missing, `run` is not a finished run, `to` exists already, or no
            tokenizer can be written that reads every text as the run does.
        DataError: If the model is damaged.
        LLMJEPAError: If the folder gives other embeddings. Nothing is left at `to`.
    """
    try:
        import sentence_transformers  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "package_missing",
            "--as encoder needs sentence-transformers, which is not installed: `pip install 'llm-jepa[encoder]'`.",
        ) from error
    folder, out = RunFolder(Path(run)), Path(to)
    check_call(folder, out, force=force)
    trained = load_run(folder.path)
    trained.jepa.to("cpu")
    texts = _probe_texts(trained)
    expected = {task: _expected(trained, texts[task], side) for task, side in SIDES.items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    with staged_beside(out.resolve()) as beside:
        made = _write(trained, beside)
        difference = _check(beside, texts, expected, made)
        model = Exported(kind="encoder", messages=trained.context.messages)
        write_whole(beside / CARD, model_card(folder.path, model, out.resolve().name))
        put_in_place(beside, out.resolve())
    python = ENCODER.format(folder=str(to))
    return {"run": str(run), "out": str(to), "kind": "encoder", "max_difference": difference, "python": python}


# ---- what is written ----


def _write(trained: TrainedRun, out: Path) -> EncoderTokenizer:
    """Write the folder. The model of `trained` is changed and cannot be used afterwards."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Router, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    jepa = trained.jepa
    predictor = jepa.predictor
    made = encoder_tokenizer(trained.encoder, trained.context, jepa.config, len(predictor.embedding))
    pred = predictor.embedding.detach() / jepa.backbone.embedding_scale  # (number of vectors, C)
    head = predictor.head if jepa.config.uses_views else None
    with tempfile.TemporaryDirectory() as scratch:

        def transformer(layers: Any, name: str) -> Any:
            out = str(Path(scratch, name))
            _write_layers(_plain_layers(jepa.model, layers), made, pred, out)
            return Transformer(out, modality_config=_MODALITIES, module_output_name="token_embeddings")

        own = transformer(jepa.backbone.layers, "own")
        pooling = Pooling(own.get_embedding_dimension(), "lasttoken")
        heads = [] if head is None else _dense(head)
        if jepa.target is None and not heads:
            modules = [own, pooling]
        else:  # the two sides have different weights
            slow = own if jepa.target is None else transformer(jepa.target.layers, "slow")
            predicting, target = [own, pooling, *heads], [slow, pooling]
            text_predicts = jepa.config.jepa_direction != "code_to_text"
            sides = (predicting, target) if text_predicts else (target, predicting)
            modules = [Router.for_query_document(query_modules=sides[0], document_modules=sides[1])]
        model = SentenceTransformer(modules=modules, similarity_fn_name="cosine", device="cpu")
        model.save_pretrained(str(out), create_model_card=False)
    for file in out.rglob("tokenizer.json"):  # as we made it: transformers may write it with changes
        made.tokenizer.save_pretrained(file.parent)
    return made


def _plain_layers(model: nn.Module, layers: nn.Module) -> nn.Module:
    """Return layers of a model, or of its slow copy, with the matrices of an adapter merged into them."""
    if not isinstance(model, PeftModel):
        return layers
    own = copy.deepcopy(model)
    Backbone(own).layers.load_state_dict(layers.state_dict())
    return Backbone(merged(own)).layers


def _write_layers(layers: Any, made: EncoderTokenizer, pred: Tensor, out: str) -> None:
    """Write layers without a head, with the rows of the new tokens in their embedding table, (V, C)."""
    table = layers.get_input_embeddings()
    num_rows = max([*made.pred_ids, *made.copies, -1]) + 1
    if num_rows > table.num_embeddings:
        layers.resize_token_embeddings(num_rows, mean_resizing=False)
    weight = layers.get_input_embeddings().weight
    with torch.no_grad():
        for new, old in made.copies.items():
            weight[new] = weight[old]
        for new, vector in zip(made.pred_ids, pred, strict=bool(made.pred_ids)):
            weight[new] = vector
    layers.save_pretrained(out)
    made.tokenizer.save_pretrained(out)


def _dense(head: PredictorHead) -> list[Any]:
    """Return a predictor head as layers of sentence-transformers."""
    from sentence_transformers.sentence_transformer.modules import Dense

    weight, bias, linear = head.weight.detach().clone(), head.bias.detach().clone(), nn.Identity()
    size = len(weight)
    if head.hidden_weight is None or head.hidden_bias is None:
        return [Dense(size, size, True, linear, weight, bias, use_residual=True)]
    # gelu(x) - gelu(-x) = x, so the hidden layer also passes the state itself on, for the residual.
    same = torch.eye(size, dtype=weight.dtype)
    hidden = torch.cat([head.hidden_weight.detach(), same, -same])  # (3 C, C)
    hidden_bias = torch.cat([head.hidden_bias.detach(), torch.zeros(2 * size, dtype=weight.dtype)])
    last = torch.cat([weight, same, -same], dim=1)  # (C, 3 C)
    first = Dense(size, 3 * size, True, nn.GELU(), hidden, hidden_bias)
    return [first, Dense(3 * size, size, True, linear, last, bias)]


# ---- how it is checked ----


def _probe_texts(trained: TrainedRun) -> dict[str, list[str]]:
    """Return texts of each side: some of the run's own pairs, unusual ones, and the names of its control tokens."""
    kept = StoredEmbeddings.read(trained.folder.embeddings_file)
    pairs = kept.pairs[:_TEXTS] if kept is not None else []
    controls = trained.encoder.controls
    names = [f"a {name} b" for name in controls.ids if controls.in_questions.fullmatch(name)][:_TEXTS]
    own = {task: [pair[side] for pair in pairs if pair[side].strip()] for task, side in SIDES.items()}
    return {task: [*texts, *_PROBES, *names] for task, texts in own.items()}


def _expected(trained: TrainedRun, texts: Sequence[str], side: str) -> Expected:
    """Return the tokens of each text's view, and its embedding, (N, C)."""
    rows = trained.lone([("text", text) for text in texts], side)
    views = [pair.text_view if side == "text" else pair.code_view for pair in rows.pairs]
    return views, trained.embed(rows, side)


def _check(folder: Path, texts: dict[str, list[str]], expected: dict[str, Expected], made: EncoderTokenizer) -> float:
    """Make sure that the folder reads and embeds texts as the run does; return the largest difference."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    largest = 0.0
    for task, (views, vectors) in expected.items():
        for text, view in zip(texts[task], views, strict=True):
            read = model.preprocess([text], task=task)["input_ids"][0].tolist()
            found = [made.copies.get(token, token) for token in read if token not in made.pred_ids]
            if found != view:
                raise ConfigError(
                    "tokens_differ",
                    f"--as encoder: sentence-transformers would read {text[:60]!r} as other tokens than this run does. "
                    "Nothing was written. Use `llm-jepa embed`, or export the plain model, without --as.",
                )
        encode = model.encode_query if task == "query" else model.encode_document
        found_vectors = encode(texts[task], convert_to_tensor=True, show_progress_bar=False).float()
        difference = (found_vectors - vectors).abs().max().item()
        allowed = MOST_DIFFERENCE if next(model.parameters()).dtype == torch.float32 else _OF_HALVES
        if not difference <= allowed * max(1.0, vectors.abs().max().item()):  # nan fails, too
            raise LLMJEPAError(
                "export_differs",
                f"The encoder's embeddings of a {task} differ from the run's by up to {difference:.1e}. Nothing was "
                "written. Please report it, with the model's name.",
            )
        largest = max(largest, difference)
    return largest
