"""The tokenizer of an exported encoder: it adds to a text all that its view has around it, and [PRED].

sentence-transformers gives a chat template the task: `query` for the text's side, `document` for the code's. So one
tokenizer and one copy of the weights serve both sides. The name of a control token in a text stays plain text: the
control tokens of the run are special tokens here, and this tokenizer does not look for special tokens in a text. The
template writes copies of them instead, with new names that do not occur in texts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerBase

from llm_jepa.data.chat import Controls, RenderedPrompt
from llm_jepa.data.context import Context
from llm_jepa.data.encode import PairEncoder
from llm_jepa.data.tokenizer import with_special
from llm_jepa.errors import ConfigError
from llm_jepa.objective import JEPAConfig

# The result of a template for a message " x ", and the method of Jinja that removes white space in that way.
_CUTS = {" x ": "", "x": ".strip()", "x ": ".lstrip()", " x": ".rstrip()"}


@dataclass
class _Side:
    """What the encoder writes around a text of one side.

    Attributes:
        head: What is before the text: pieces of text, and ids of control tokens.
        cut: The method of Jinja that removes white space around the text.
        reads_tags: Whether tags that a model writes itself, such as `<think>`, are control tokens in the text, too.
        is_rendered: Whether a chat template writes it.
    """

    head: list[str | int]
    cut: str = ""
    reads_tags: bool = False
    is_rendered: bool = False


@dataclass
class EncoderTokenizer:
    """A tokenizer whose template writes [PRED].

    Attributes:
        tokenizer: The tokenizer; its new tokens come after those of the run.
        pred_ids: Id of each vector of [PRED].
        copies: The id of each copy of a control token, and the id of the token whose embedding it has.
    """

    tokenizer: PreTrainedTokenizerBase
    pred_ids: list[int] = field(default_factory=list)
    copies: dict[int, int] = field(default_factory=dict)

    def add(self, name: str, **strips: bool) -> int:
        """Add a token that the tokenizer finds in what the template writes; return its id."""
        self.tokenizer.add_tokens([AddedToken(name, special=False, normalized=False, **strips)])
        return self.tokenizer.added_tokens_encoder[name]

    def copy(self, token: int, *, strips: bool) -> str:
        """Return the name of the copy of a token; add the copy if it is missing.

        With `strips`, the copy removes white space next to it, as the token does when a text is read.
        """
        name = f"<|llm-jepa:{token}{':strips' if strips else ''}|>"
        known = self.tokenizer.added_tokens_decoder.get(token)
        flags = {"lstrip": known.lstrip, "rstrip": known.rstrip} if strips and known is not None else {}
        self.copies[self.add(name, **flags)] = token
        return name


def encoder_tokenizer(encoder: PairEncoder, context: Context, config: JEPAConfig, num_vectors: int) -> EncoderTokenizer:
    """Return the tokenizer of an encoder; `num_vectors` is the number of vectors of [PRED].

    Raises:
        ConfigError: If the tokenizer cannot be changed in this way.
    """
    if not encoder.tokenizer.is_fast:
        text = "--as encoder needs a tokenizer with a tokenizer.json (a fast one); this run's has none."
        raise ConfigError("tokenizer_not_supported", text)
    controls = encoder.controls
    names = [name for name in controls.ids if controls.in_questions.fullmatch(name)]
    made = EncoderTokenizer(with_special(encoder.tokenizer, names))
    top = max(encoder.tokenizer.get_vocab().values())
    tokenizer = made.tokenizer
    tokenizer.split_special_tokens = tokenizer.init_kwargs["split_special_tokens"] = True
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(encoder.pad_id)
    num_pred = config.jepa_k if config.uses_views else 0
    preds = [f"<|llm-jepa:PRED {number + 1}|>" for number in range(num_vectors if num_pred else 0)]
    made.pred_ids = [made.add(name) for name in preds]
    pred = "".join(preds if len(preds) == num_pred else preds * num_pred)
    sides = {"query": _side_of(encoder, context, "text"), "document": _side_of(encoder, context, "code")}
    predicts = "document" if config.jepa_direction == "code_to_text" else "query"
    preds_of = {task: pred if task == predicts else "" for task in sides}
    branches = {
        task: _branch(side, preds_of[task], made, encoder, leads=config.pred_leads) for task, side in sides.items()
    }
    tokenizer.chat_template = (
        "{%- set words = messages[-1]['content'] -%}"
        f"{{%- if task == 'query' -%}}{branches['query']}{{%- else -%}}{branches['document']}{{%- endif -%}}"
    )
    if not sides["query"].is_rendered:
        _begin_texts_alike(tokenizer)
    if min([*made.pred_ids, *made.copies], default=top + 1) <= top:
        text = "--as encoder: the ids of the tokenizer have gaps, so no token can be added after them."
        raise ConfigError("tokenizer_not_supported", text)
    return made


def _begin_texts_alike(tokenizer: PreTrainedTokenizerBase) -> None:
    """Make a text after a token of the template begin as at the start of a string: with a space, or without.

    Tokenizers like SentencePiece (`Metaspace`) treat the two differently. In the run, a view without a chat template is
    one text, which begins the string.
    """
    settings = json.loads(tokenizer.backend_tokenizer.to_str())
    own = settings.get("pre_tokenizer") or {}
    firsts = [each for each in (own, *own.get("pretokenizers", ())) if each.get("prepend_scheme") == "first"]
    for each in firsts:
        each["prepend_scheme"] = "always"
    if firsts:
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(settings))
        if hasattr(tokenizer, "legacy"):  # with it, transformers' Llama class chooses the scheme when it loads
            tokenizer.legacy = tokenizer.init_kwargs["legacy"] = True


def _side_of(encoder: PairEncoder, context: Context, side: str) -> _Side:
    """Return what the run has around a text of one side, `text` or `code`: a chat template, or its own prefix."""

    def render(words: str) -> RenderedPrompt | None:
        row = context.labelled(words, "x") if side == "text" else context.labelled("x", words)
        return encoder.rendered_view(row, side)

    prompt, spaced = render("x"), render(" x ")
    if prompt is None or spaced is None:
        if side == "code":
            return _Side([], reads_tags=True)
        system = "" if encoder.jepa_views == "rendered" else encoder.system_prefix(context.ask("x"))
        return _Side([*encoder.bos_ids, system])
    (first, last), (start, end) = prompt.last_user, spaced.last_user
    if prompt.string[:first] != spaced.string[:start]:
        text = "--as encoder: what the chat template writes before a text depends on the text."
        raise ConfigError("template_not_supported", text)
    is_answer = any(content.is_answer for content in prompt.contents if content[:2] == (first, last))
    return _Side(_pieces(prompt, encoder.controls), _CUTS[spaced.string[start:end]], is_answer, is_rendered=True)


def _pieces(prompt: RenderedPrompt, controls: Controls) -> list[str | int]:
    """Split what a template writes before the text into text and control tokens. Names in messages are text."""
    pieces: list[str | int] = []
    done, end = 0, prompt.last_user[0]
    for match in controls.in_questions.finditer(prompt.string, 0, end):
        overlapping = (each for each in prompt.contents if match.start() < each.end and each.start < match.end())
        content = next(overlapping, None)
        is_tag = not controls.in_answers.fullmatch(match.group())
        if content is None or (content.is_answer and is_tag):
            pieces += [prompt.string[done : match.start()], controls.ids[match.group()]]
            done = match.end()
    return [*pieces, prompt.string[done:end]]


def _branch(side: _Side, pred: str, made: EncoderTokenizer, encoder: PairEncoder, *, leads: bool) -> str:
    """Return the Jinja that writes a text of one side; the copies that it needs are added to `made`.

    `pred` holds the names of the side's [PRED] tokens, which are before the view if `leads`.
    """
    head = "".join(each if isinstance(each, str) else made.copy(each, strips=side.is_rendered) for each in side.head)
    words = f"words{side.cut}"
    controls = encoder.controls
    for name, token in controls.ids.items() if side.reads_tags else ():
        if controls.in_questions.fullmatch(name) and not controls.in_answers.fullmatch(name):
            words += f" | replace({_literal(name)}, {_literal(made.copy(token, strips=True))})"
    before, after = (pred + head, "") if leads else (head, pred)
    return f"{{{{- {_literal(before)} -}}}}{{{{- {words} -}}}}{{{{- {_literal(after)} -}}}}"


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
