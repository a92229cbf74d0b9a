"""Multiple choice by likelihood: the answer is the choice that the model finds most likely after the prompt.

Nothing is generated. Letters: N choices in a batch, T tokens in a row, V vocabulary.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from llm_jepa.data.encode import PairEncoder
from llm_jepa.data.example import Example
from llm_jepa.objective import LLMJEPA, FusedCollator, JEPAConfig, Pair
from llm_jepa.objective.backbone import evaluating
from llm_jepa.objective.layout import IGNORED, FusedBatch
from llm_jepa.processes import gather, turns
from llm_jepa.progress import Progress
from llm_jepa.training.sharding import whole_at_root

from .scorers.verdict import GoldError, Verdict, quoted

CHOICES, ANSWER = "choices", "answer"  # columns of a row
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def row_choices(row: Mapping[str, Any]) -> list[str]:
    """Return the choices of a row; GoldError unless they are two or more different texts, none of them blank."""
    choices: Any = row.get(CHOICES)
    is_list = isinstance(choices, list) and all(isinstance(each, str) and each.strip() for each in choices)
    if not is_list or len(set(choices)) < max(len(choices), 2):
        raise GoldError(
            "choices_not_usable",
            f"The column {CHOICES} is {quoted(str(choices))}, expected a list of two or more different texts.",
        )
    return choices


def gold_choice(choices: Sequence[str], answer: Any, notation: str) -> int:
    """Return the place of the right choice, from 0; GoldError if the answer names none in this notation.

    The notation, one of `NOTATIONS`, is the same in the whole file (`notation_of`): the answer is the right choice word
    for word, without regard to white space around it; or its letter, from `A`; or its place, from 0.

    Example:
        >>> gold_choice(["red", "blue"], "blue", "word"), gold_choice(["red", "blue"], "A", "letter")
        (1, 0)
    """
    read, meaning = NOTATIONS[notation]
    place = read(choices, answer)
    if place is None:
        text = f"The answer {quoted(str(answer))} is not {meaning}, and the answers of this file are read as such."
        raise GoldError("answer_not_a_choice", f"{text} Write all answers of the file in the same way.")
    return place


def notation_of(rows: Iterable[tuple[Sequence[str], Any]]) -> str:
    """Return how the answers of a file are written: the one of `NOTATIONS` in which most answers can be read.

    If several can read equally many, it is the first of them. So if every answer is a choice word for word, the answers
    are read as that. `rows` are the choices and the answer of each row. Places that count from 1 are a GoldError.
    """
    fits, zero, last = Counter(dict.fromkeys(NOTATIONS, 0)), False, None
    for choices, answer in rows:
        fits.update(name for name, (read, _) in NOTATIONS.items() if read(choices, answer) is not None)
        number = _number(answer)
        zero |= number == 0
        last = answer if number == len(choices) else last
    notation = max(NOTATIONS, key=lambda name: fits[name])  # the first of equals
    if notation == "place" and last is not None and not zero:
        raise GoldError(
            "places_count_from_one",
            f"The answers seem to count from 1: none is 0, and one is {last}, the number of its choices. Write places "
            "from 0, or letters.",
        )
    return notation


def _word_place(choices: Sequence[str], answer: Any) -> int | None:
    if not isinstance(answer, str):
        return None
    if answer in choices:
        return list(choices).index(answer)
    text, stripped = answer.strip(), [each.strip() for each in choices]
    return stripped.index(text) if stripped.count(text) == 1 else None


def _letter_place(choices: Sequence[str], answer: Any) -> int | None:
    text = answer.strip() if isinstance(answer, str) else ""
    place = LETTERS.find(text.upper()) if len(text) == 1 and text.isascii() else -1
    return place if 0 <= place < len(choices) else None


def _number_place(choices: Sequence[str], answer: Any) -> int | None:
    number = _number(answer)
    return number if number is not None and 0 <= number < len(choices) else None


def _number(answer: Any) -> int | None:
    if isinstance(answer, str):
        text = answer.strip()
        return int(text) if len(text) < 4 and text.isascii() and text.isdigit() else None
    return answer if isinstance(answer, int) and not isinstance(answer, bool) else None


NOTATIONS: dict[str, tuple[Callable[[Sequence[str], Any], int | None], str]] = {
    "word": (_word_place, "a choice word for word"),
    "letter": (_letter_place, "the letter of a choice"),
    "place": (_number_place, "the place of a choice from 0"),
}
"""How an answer names a choice: what reads it, and what it is then."""


def judge_choices(choices: Sequence[str], log_likelihoods: Sequence[float], gold: int, per_byte: bool) -> Verdict:
    """Right if the gold choice is more likely than every other; a tie is wrong.

    `log_likelihoods` are from `choice_log_likelihoods`; `gold` is a place from 0. With `per_byte`, each is divided by
    its choice's UTF-8 bytes, so that a long choice has no disadvantage.
    """
    bytes_of = [len(choice.encode("utf-8", "surrogatepass")) if per_byte else 1 for choice in choices]
    values = [value / count for value, count in zip(log_likelihoods, bytes_of, strict=True)]
    if not all(math.isfinite(value) for value in values):
        return Verdict(False, "a likelihood is not finite: the model has diverged")
    best = max(range(len(values)), key=lambda place: (values[place], place != gold))
    unit = "nats per byte" if per_byte else "nats"
    if best == gold:
        return Verdict(True, f"the gold choice {quoted(choices[gold])} is the likeliest: {values[gold]:.3f} {unit}")
    shown = f"{values[best]:.3f} against {values[gold]:.3f} {unit}"
    return Verdict(False, f"{quoted(choices[best])} is as likely as {quoted(choices[gold])}, or likelier: {shown}")


def choice_log_likelihoods(
    jepa: LLMJEPA,
    encoder: PairEncoder,
    asked: Sequence[tuple[Example, Sequence[str]]],
    *,
    batch_size: int = 32,
) -> list[list[float]]:
    """Return the log likelihood of each choice after its row's prompt, in nats, summed over the choice's tokens.

    The prompt is the one that generation starts from. A choice is tokenised like an answer, and its end token does not
    count. A choice without any token has nan. A batch has `batch_size` choices. Several processes divide the batches
    among them, and each gets all values, so every process must call it.
    """
    pairs = []
    for example, choices in asked:
        prompt = encoder.encode_prompt(example)
        code_ids = [[*encoder.encode_words(choice), encoder.end_ids[0]] for choice in choices]
        pairs += [Pair(prompt, ids, source=example.source) for ids in code_ids]
    with_tokens = [place for place, pair in enumerate(pairs) if len(pair.code_ids) > 1]
    order = sorted(with_tokens, key=lambda place: len(pairs[place]))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    collate = FusedCollator(JEPAConfig(jepa_lambda=0.0, loss_on="code"), encoder.pad_id)
    own: dict[int, float] = {}
    with evaluating(jepa), whole_at_root(jepa), Progress("score", len(pairs), "choices") as shown:
        for turn, is_own in turns(len(batches)):
            batch = [pairs[place] for place in batches[turn]]
            values = _sums(jepa, collate(batch), [len(pair) for pair in batch])
            if is_own:
                own |= dict(zip(batches[turn], values.tolist(), strict=True))
            shown.set((turn + 1) * batch_size)
    found = {place: value for share in gather(own) for place, value in share.items()}
    places = iter(range(len(pairs)))
    return [[found.get(next(places), math.nan) for _ in choices] for _, choices in asked]


def _sums(jepa: LLMJEPA, batch: FusedBatch, lengths: Sequence[int]) -> Tensor:
    """Return the summed log probability of each row's labelled tokens except the end token, (N,), float64."""
    batch = batch.to(next(jepa.model.parameters()).device)
    batch.labels[torch.arange(len(lengths)), torch.tensor(lengths) - 1] = IGNORED  # the end token
    labels = torch.nn.functional.pad(batch.labels[:, 1:], (0, 1), value=IGNORED)  # what each state predicts, (N, T)
    at = (labels.flatten() != IGNORED).nonzero().squeeze(1)  # (number of labels,)
    _, logits = jepa.backbone.states_and_logits(batch.rows, None, at)  # (number of labels, V)
    wanted = labels.flatten()[at]
    log_probs = logits.float().log_softmax(-1).gather(1, wanted[:, None]).squeeze(1).double()
    rows = torch.div(at, labels.shape[1], rounding_mode="floor")
    return log_probs.new_zeros(len(labels)).index_add(0, rows, log_probs)
