"""Notes for the user about the encoded rows, before training: what follows from their form, and what may surprise."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice

from llm_jepa.objective.config import JEPAConfig

from .config import DataConfig
from .encode import PairEncoder
from .encoded_pairs import EncodedPairs
from .example import Example
from .tokenizer import decode_ids

_NUM_SAMPLED = 100  # rows that are checked, which takes milliseconds


def notes_on_rows(train: EncodedPairs, views: EncodedPairs | None, encoder: PairEncoder, jepa: JEPAConfig) -> list[str]:
    """Return sentences about the training rows, and about view rows if there is a file of them."""
    notes = [
        *_form(train, encoder, jepa),
        *_round_trips(train, encoder),
        *_terms(train, views, encoder.config, jepa),
        *_begin_token(train, encoder),
        *_template_system(train, encoder),
        *_serving(train, encoder),
        *_open_tags(train, encoder),
    ]
    if not jepa.train_end_token:
        answers = "answers will run to max_new_tokens"
        notes.append(f"End tokens are not under cross-entropy (train_end_token: false): {answers}.")
    return notes


def is_chat(examples: Sequence[Example]) -> bool:
    """Whether rows came as chats; a file has rows of one form."""
    return bool(len(examples)) and examples[0].messages is not None


def _form(train: EncodedPairs, encoder: PairEncoder, jepa: JEPAConfig) -> Iterator[str]:
    if encoder.chat is not None and not is_chat(train.examples):
        yield "The tokenizer has a chat template; it is not used, because the rows are not chats (messages)."
    if len(train) and train.examples[0].code is None:
        yield (
            f"Rows hold one text; its first {jepa.jepa_split:.0%} of tokens is the text view, the rest the "
            "code view. For rows of two columns, set text_column and code_column."
        )


def _round_trips(train: EncodedPairs, encoder: PairEncoder) -> Iterator[str]:
    """Find answers that change when they are encoded and decoded: no model could get them exactly right."""
    both = (each for each in zip(train.pairs, train.examples, strict=True) if each[1].code is not None)
    sample = list(islice(both, _NUM_SAMPLED))
    changed = sum(
        decode_ids(encoder.tokenizer, pair.code_ids[:-1]).strip() != encoder.answer(example).strip()
        for pair, example in sample
    )
    if changed:
        yield (
            f"The tokenizer does not give back {changed} of the first {len(sample)} answers as they were "
            "(or max_length cut them): such rows can never be an exact match."
        )


def _terms(train: EncodedPairs, views: EncodedPairs | None, config: DataConfig, jepa: JEPAConfig) -> Iterator[str]:
    """Say which rows have a JEPA term and which are under cross-entropy, if that is not all of them."""
    without = len(train) - train.facts.num_jepa
    if not config.task_views:
        yield "The task's training rows are under cross-entropy alone (task_views: false)."
    elif without:
        yield f"{without} of {len(train)} training rows are under cross-entropy alone (use_jepa: false)."
    if views is None:
        return
    if not config.trains_view_rows:
        yield f"{len(views)} view rows are used for the tokenizer only, not for training (views_ratio: 0)."
        return
    terms = ["the JEPA term"] if jepa.has_term and views.facts.num_jepa else []
    terms += ["cross-entropy"] if config.views_cross_entropy else []
    number = f"{len(views)} view rows, {config.views_ratio:g} for each task row of a step"
    yield f"{number}, train {' and '.join(terms)}."


def _begin_token(train: EncodedPairs, encoder: PairEncoder) -> Iterator[str]:
    """Say if a chat template leaves out the begin token that the tokenizer puts before any other text."""
    if encoder.bos_ids and is_chat(train.examples) and train.pairs[0].text_ids[:1] != encoder.bos_ids:
        yield (
            f"The tokenizer begins a text with {encoder.tokenizer.bos_token!r}, its chat template does not. So rows "
            "have no begin token, as in every other tool that uses the template."
        )


def _template_system(train: EncodedPairs, encoder: PairEncoder) -> Iterator[str]:
    """Say what a template writes before a chat without system message, and its share of the tokens."""
    if encoder.chat is None or not is_chat(train.examples):
        return
    before, kept = encoder.chat.opening()
    sample = list(islice(zip(train.pairs, train.examples, strict=True), _NUM_SAMPLED))
    num_longer = sum(example.system is None for _, example in sample)
    if before != kept and num_longer:
        whole, rest = encoder.tokenizer([before, kept], add_special_tokens=False)["input_ids"]
        added = len(whole) - len(rest)
        share = added * num_longer / sum(len(pair) for pair, _ in sample)
        yield (
            f"The chat template adds {added} tokens to a chat that has no system message: "
            f"{before.removesuffix(kept).strip()!r}. That is {share:.0%} of the tokens of the first {len(sample)} "
            "training rows. Set template_system: false to leave it out, or give the rows a system message of their own."
        )


def _serving(train: EncodedPairs, encoder: PairEncoder) -> Iterator[str]:
    """Say if the tokens of a prompt differ from those that a server makes with the chat template."""
    if encoder.chat is None:
        return
    chats = [example for example in islice(train.examples, _NUM_SAMPLED) if example.messages is not None]
    prompts = [(example.source, encoder.encode_prompt(example), encoder.served_prompt(example)) for example in chats]
    differing = [each for each in prompts if each[1] != each[2]]
    if not differing:
        return
    source, ours, theirs = differing[0]
    start = next((place for place, both in enumerate(zip(ours, theirs, strict=False)) if both[0] != both[1]), -1)
    shown = [encoder.tokenizer.convert_ids_to_tokens(ids[start:][:4]) for ids in (ours, theirs)]
    yield (
        f"{len(differing)} of the first {len(chats)} prompts are not those of apply_chat_template, which servers use: "
        f"in {source} it has {shown[1]}, but training has {shown[0]}. Possible causes: a control token's name in a "
        "message, or a template that writes today's date."
    )


def _open_tags(train: EncodedPairs, encoder: PairEncoder) -> Iterator[str]:
    """Say if a chat template opens a tag that the answers do not close."""
    both = [
        (re.search(r"<(\w+)>\s*\Z", decode_ids(encoder.tokenizer, list(pair.bridge_ids))), encoder.answer(example))
        for pair, example in islice(zip(train.pairs, train.examples, strict=True), _NUM_SAMPLED)
        if encoder.chat is not None and example.messages is not None
    ]
    found = [tag[1] for tag, answer in both if tag and f"</{tag[1]}>" not in answer]
    if found:
        yield (
            f"The chat template opens <{found[0]}> before an answer, and {len(found)} of the first {len(both)} answers "
            f"do not close it: servers will treat such an answer as the content of the tag. Write </{found[0]}> into "
            "the answers, or set chat_template_kwargs so that the template does not open it."
        )
