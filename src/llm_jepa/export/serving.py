"""The commands that serve an exported model: transformers in Python, a server of transformers, and vLLM."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # the values that vLLM's --max-lora-rank accepts; its default is 16

QUESTION = "YOUR TEXT"

ENCODER = """\
from sentence_transformers import SentenceTransformer

model = SentenceTransformer({folder!r})
codes = ["CODE ONE", "CODE TWO"]
asked = model.encode_query(["YOUR TEXT"])  # the text side, with [PRED]
found = model.encode_document(codes)  # the code side
print(model.similarity(asked, found))  # cosine"""
"""Python that finds the code of a text with sentence-transformers; `folder` is the name of the exported folder."""

EVALUATOR = """\
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

model = SentenceTransformer({folder!r})
evaluate = InformationRetrievalEvaluator(queries, corpus, relevant_docs)
print(evaluate(model))  # cosine_recall@1, cosine_recall@10, cosine_mrr@10"""
"""Python that measures retrieval with sentence-transformers."""


@dataclass(frozen=True)
class Exported:
    """What the commands depend on.

    Attributes:
        kind: "model", "merged", "adapter" or "encoder".
        base: The model of an adapter; None for a whole model.
        lora_r: The rank of an adapter.
        tokenizer_class: Class of transformers that loads the tokenizer as the training used it.
        is_chat: Whether the model was trained on a chat template.
        chat_template_kwargs: The arguments of the template.
        messages: What every chat began with: a system message, turns. Without a chat template, it is at most a system
            message, which is before the text.
        bos_ids: The begin token, if rows have one and there is no chat template.
        bridge_ids: Tokens between a text and its answer, if there is no chat template.
        bridge: The same as text, with the names of special tokens.
        end_ids: Tokens that end an answer.
        shown_end_ids: Those of them that `skip_special_tokens` would leave in an answer: added words.
        max_new_tokens: The most tokens of an answer, as in the evaluation.
    """

    kind: str
    base: str | None = None
    lora_r: int | None = None
    tokenizer_class: str = "AutoTokenizer"
    is_chat: bool = False
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    messages: Sequence[dict[str, Any]] = ()
    bos_ids: Sequence[int] = ()
    bridge_ids: Sequence[int] = ()
    bridge: str = ""
    end_ids: Sequence[int] = ()
    shown_end_ids: Sequence[int] = ()
    max_new_tokens: int = 64

    @property
    def conversation(self) -> list[dict[str, Any]]:
        """The messages that a chat model is given to answer one text."""
        return [*self.messages, {"role": "user", "content": QUESTION}]

    @property
    def text(self) -> str:
        """What a model without a chat template is given to answer one text, up to the bridge."""
        return "".join(f"{message['content']}\n" for message in self.messages) + QUESTION


def python_snippet(model: Exported, folder: str) -> str:
    """Return Python that answers one text with plain transformers, from the folder; no line depends on this package."""
    if model.is_chat:
        kwargs = [f"    **{model.chat_template_kwargs!r},"] if model.chat_template_kwargs else []
        messages = [f"messages = [{_python(model.conversation[0])}]"]
        if model.messages:
            messages = ["messages = [", *(f"    {_python(message)}," for message in model.conversation), "]"]
        ask = [
            *messages,
            "ids = tokenizer.apply_chat_template(",
            "    messages, add_generation_prompt=True, return_dict=True,",
            *kwargs,
            ')["input_ids"]',
        ]
    else:  # text and bridge are tokenized separately: as one string they could give other tokens
        begin = f"{list(model.bos_ids)} + " if model.bos_ids else ""
        ask = [
            f'text = tokenizer({_quoted(model.text)}, add_special_tokens=False)["input_ids"]',
            f"ids = {begin}text + {list(model.bridge_ids)}",
        ]
    is_adapter = model.kind == "adapter"
    stop = f", eos_token_id={list(model.end_ids)}" if is_adapter else ""
    needs = ["# an adapter: needs `pip install peft`"] if is_adapter else []
    # The base's own settings, such as a repetition penalty, would change the answers.
    reset = ["model.generation_config = GenerationConfig()"] if is_adapter else []
    return "\n".join(
        [
            "import torch",
            f"from transformers import AutoModelForCausalLM, {model.tokenizer_class}",
            *(["from transformers import GenerationConfig"] if is_adapter else []),
            "",
            f"folder = {folder!r}",
            *needs,
            "model = AutoModelForCausalLM.from_pretrained(folder).eval()",
            *reset,
            f"tokenizer = {model.tokenizer_class}.from_pretrained(folder)",
            *ask,
            "out = model.generate(",
            "    torch.tensor([ids]),",
            f"    do_sample=False, max_new_tokens={model.max_new_tokens}{stop},",
            ")[0, len(ids):]",
            *([f"out = [each for each in out if each not in {ends}]"] if (ends := list(model.shown_end_ids)) else []),
            "print(tokenizer.decode(out, skip_special_tokens=True))",
        ]
    )


def server_commands(model: Exported, folder: str) -> list[str]:
    """Return shell lines, the first with the folder's name. Only a longer name or message exceeds 80 columns."""
    lines = [f"MODEL={shlex.quote(folder)}"]
    if model.kind == "adapter":
        rank = next((each for each in VLLM_RANKS if each >= (model.lora_r or 0)), VLLM_RANKS[-1])
        lines += [
            f"BASE={shlex.quote(str(model.base))}",
            f'vllm serve "$BASE" --enable-lora --max-lora-rank {max(rank, 16)} \\',
            '    --lora-modules tuned="$MODEL"',
        ]
    else:
        lines += ['transformers serve "$MODEL"', 'vllm serve "$MODEL"    # or this one, on a CUDA device']
    return lines + _request(model)


def _request(model: Exported) -> list[str]:
    """Return the request to a server on port 8000, which both servers use."""
    name = "tuned" if model.kind == "adapter" else "'\"$MODEL\"'"
    if model.is_chat:
        messages = ",\n           ".join(map(_json, model.conversation))
        path, body = "chat/completions", [f'"messages": [{messages}]']
        if model.chat_template_kwargs:
            body.insert(0, f'"chat_template_kwargs": {_json(model.chat_template_kwargs)}')
    else:
        path, body = "completions", [f'"prompt": {_json(model.text + model.bridge)}']
    penalty = ', "repetition_penalty": 1.0' if model.kind == "adapter" else ""  # not that of the base
    body = [f'"model": "{name}", "temperature": 0{penalty}', *body]
    return [
        f"curl http://localhost:8000/v1/{path} \\",
        "    -H 'Content-Type: application/json' \\",
        "    -d '{" + ",\n         ".join(body) + "}'",
    ]


def _python(message: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{_quoted(key)}: {_quoted(value)}" for key, value in message.items()) + "}"


def _quoted(value: Any) -> str:
    """Return a value as Python code; a text is in double quotes if it means the same there."""
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, str) else ""
    return text if text.isprintable() and text else repr(value)


def _json(value: Any) -> str:
    """Return a value as JSON that can be put between single quotes of a shell."""
    return json.dumps(value).replace("'", "\\u0027")
