"""A finished run that can answer questions: its model, its tokenizer, its settings."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llm_jepa.data.config import DataConfig
from llm_jepa.data.context import Context
from llm_jepa.data.encode import PairEncoder
from llm_jepa.data.encoded_pairs import EncodedPairs, encode_examples, longest_part
from llm_jepa.data.example import Example
from llm_jepa.data.generated_files import with_files
from llm_jepa.data.prepare import load_rows
from llm_jepa.data.rows import holds_pairs, read_texts
from llm_jepa.data.tokenizer import check_tokenizer_fits, load_tokenizer
from llm_jepa.errors import ConfigError, DataError
from llm_jepa.evaluation.embed import embed_side
from llm_jepa.evaluation.evaluate import EvaluationConfig, answer
from llm_jepa.evaluation.generation import learned_positions
from llm_jepa.files import nearest_file
from llm_jepa.objective import LLMJEPA, JEPAConfig
from llm_jepa.objective.distances import unit
from llm_jepa.training.resume import digest_tokenizer
from llm_jepa.training.saving import load_jepa
from llm_jepa.training.view_embeddings import first_of_each, view_embeddings

from .data_paths import find_file
from .folder import RunFolder
from .settings import own_settings

logger = logging.getLogger(__name__)

FILLER = "x"  # the other side of a row that has only one: a row needs both, but neither view sees the other


@dataclass
class TrainedRun:
    """A finished run."""

    jepa: LLMJEPA  # in evaluation mode
    encoder: PairEncoder
    data: DataConfig
    evaluation: EvaluationConfig  # with max_new_tokens set
    folder: RunFolder
    context: Context  # what all of its training rows have around the text that is asked

    def test_file(self) -> str:
        """Return where the file of its test rows is now; an error if it has none, or the file is not found."""
        name = with_files(self.data, self.folder.generated).test_file
        if name is None:
            raise ConfigError("setting_missing", f"{self.folder} has no test_file. Name a file with --data.")
        return find_file(self.folder, name)

    def data_with_files(self) -> DataConfig:
        """Return its data settings with the current places of all files; a missing file is a DataError."""
        data = with_files(self.data, self.folder.generated)
        single = ("test_file", "validation_file", "views_file")
        names = {key: name for key in single if (name := getattr(data, key)) is not None}
        found: dict[str, Any] = {key: find_file(self.folder, name) for key, name in names.items()}
        if data.test_files is not None:
            found["test_file"] = None  # it is the first of these
            found["test_files"] = {key: find_file(self.folder, name) for key, name in data.test_files.items()}
        return replace(data, train_file=[find_file(self.folder, name) for name in data.train_files], **found)

    def rows(self, file: str, limit: int | None = None) -> EncodedPairs:
        """Read and encode the rows of a file, or the first `limit` of them, as this run would."""
        rows = self._with_room(load_rows(file, self.encoder, limit=limit))
        for difference in self.context.differences(context_of(rows.examples, self.encoder), f"rows of {file}"):
            logger.warning(difference)
        return rows

    def rows_of_side(self, file: str, side: str, column: str | None = None) -> EncodedPairs:
        """Read and encode a file of pairs, or a file with only one side: candidates, or texts to embed.

        Args:
            file: Any file, folder or data set that training reads.
            side: "text" or "code": the side that a file of one column has.
            column: The column of the side. Default: that of training rows, or the only column.
        """
        if column is None and holds_pairs(file, self.data):
            return self.rows(file)
        return self.lone(read_texts(file, side, self.data, column), side)

    def lone(self, texts: Sequence[tuple[str, str]], side: str) -> EncodedPairs:
        """Encode texts of one side; each is given after its source. The other side is a filler.

        A text gets the same context as in the training rows: their system message and first turns.
        """
        rows = []
        for source, text in texts:
            sides = (text, FILLER) if side == "text" else (FILLER, text)
            rows.append(replace(self.context.labelled(*sides), source=source))
        return self._with_room(encode_examples(rows, self.encoder))

    def embed(self, rows: EncodedPairs, side: str, **options: Any) -> Tensor:
        """Return the embeddings of one side of some rows, (N, C); `options` are those of `embed_side`."""
        return embed_side(self.jepa, rows.pairs, self.encoder.pad_id, side, **options)

    def generate(self, text: str, *, system: str | None = None) -> str:
        """Return the greedy answer to one text, with the same context as in the training rows.

        `system` is a system message instead of that of the training rows; "" for none. It is a ConfigError if the run
        was trained without one.
        """
        return answer(self.jepa, self.encoder, [self._ask(text, system)], self.evaluation)[0]

    def retrieve(
        self, text: str, candidates: EncodedPairs, num: int, *, system: str | None = None
    ) -> list[tuple[float, str]]:
        """Return the `num` distinct codes nearest to Pred(Enc(text)), each with its cosine, nearest first.

        `system` is as in `generate`. Candidates without a JEPA term are left out; it is a DataError if all are.
        """
        views = view_embeddings(self.jepa, candidates.pairs, self.encoder.pad_id)
        if not len(views.numbers):
            raise DataError(
                "no_jepa_rows",
                f"None of the {len(candidates.pairs)} rows from {candidates.examples[0].source} on has a JEPA term "
                "(use_jepa is false in all), so there is no code to find. Remove use_jepa from the rows, or set it to "
                "true.",
            )
        first = first_of_each(views.code_groups)
        # The query needs a code view, but any code will do.
        query = self.encoder.encode_query(self._ask(text, system), candidates.pairs[0].code_ids)
        self._check_room(longest_part(query), "The text")
        text_pred = view_embeddings(self.jepa, [query], self.encoder.pad_id).text_pred
        cosines: Tensor = unit(views.code_emb[first]) @ unit(text_pred)[0]
        nearest = torch.topk(cosines, min(num, len(cosines)))
        return [
            (value, self.encoder.decode_code(candidates.pairs[int(views.numbers[first[place]])].code_ids))
            for value, place in zip(nearest.values.tolist(), nearest.indices.tolist(), strict=True)
        ]

    def _with_room(self, rows: EncodedPairs) -> EncodedPairs:
        self._check_room(rows.facts.longest, f"A row from {rows.examples[0].source} on")
        return rows

    def _check_room(self, num_tokens: int, what: str) -> None:
        """Raise DataError if the model has learned positions, and too few of them."""
        positions, k = learned_positions(self.jepa.model) or math.inf, self.jepa.config.jepa_k
        if num_tokens + k > positions:
            text = (
                f"{what} has {num_tokens} tokens, and {k} for [PRED]; the model has {positions} positions. Shorten it."
            )
            raise DataError("row_too_long", text)

    def _ask(self, text: str, system: str | None) -> Example:
        context = self.context if system is None else self.context.with_system(system)
        for note in context.notes(text):
            logger.warning(note)
        return context.ask(text)


def context_of(examples: Sequence[Example], encoder: PairEncoder) -> Context:
    """Return what all of these rows have around the text that is asked."""
    is_chat = encoder.chat is not None and bool(examples) and examples[0].messages is not None
    return Context.of(examples, is_chat=is_chat, include_system=encoder.config.include_system)


def load_run(folder: Path) -> TrainedRun:
    """Load a finished run.

    Raises:
        ConfigError: If the folder is not a finished run, or its tokenizer is not the one that it was trained with.
        DataError: If its model cannot be loaded.
    """
    run = RunFolder(folder)
    encoder, about = load_run_encoder(run), run.data()
    jepa = load_jepa(run.model)
    check_tokenizer_fits(encoder.tokenizer, len(jepa.backbone.embeddings.weight))  # type: ignore[arg-type]
    if (device := torch.accelerator.current_accelerator(check_available=True)) is not None:
        jepa.to(device)  # CUDA, or MPS, as in training
    evaluation = EvaluationConfig(**own_settings(EvaluationConfig, run.settings()))
    if evaluation.max_new_tokens is None:
        evaluation = replace(evaluation, max_new_tokens=int(about["max_new_tokens"]))
    return TrainedRun(jepa.eval(), encoder, encoder.config, evaluation, run, Context(**about["context"]))


def read_run_settings(run: RunFolder) -> dict[str, Any]:
    """Return the flat settings of a finished run; ConfigError if the folder is not one."""
    if not run.has_settings or not run.model.is_dir():
        expected = "Expected the folder of a finished run, such as OUT/jepa-s82."
        if not run.path.exists():
            raise ConfigError("folder_missing", f"{run} does not exist.{nearest_file(run.path)} {expected}")
        if not run.has_settings:
            raise ConfigError("not_a_run", f"{run} holds no {run.config_file.name}. {expected}")
        raise ConfigError("run_not_finished", f"{run} holds no {run.model.name}/. {expected}")
    return run.settings()


def load_run_encoder(run: RunFolder) -> PairEncoder:
    """Load the encoder of a finished run without its model. The errors are those of `load_run`."""
    settings = read_run_settings(run)
    tokenizer = load_tokenizer(str(run.model))
    expected, found = run.data()["tokenizer_sha256"], digest_tokenizer(tokenizer)
    if found != expected:
        raise ConfigError(
            "tokenizer_changed",
            f"The tokenizer in {run.model} is not the one that this run was trained with: its sha256 is "
            f"{str(found)[:12]}, but {run.data_file} has {expected[:12]}. Restore the tokenizer files of the run; its "
            "checkpoints have them too.",
        )
    split, views = (settings.get(name, getattr(JEPAConfig, name)) for name in ("jepa_split", "jepa_views"))
    return PairEncoder(tokenizer, DataConfig(**own_settings(DataConfig, settings)), split, views)
