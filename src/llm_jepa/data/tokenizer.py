"""Byte-level tokenizers: one trained on the training rows, or one of the user's.

Text of the user's stays text: a `<|end|>` written in a data file is encoded as its characters and never as
the token that ends an answer. Everything that encodes a view goes through `encode_text`, or `PlainText`, which uses it.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Collection, Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from llm_jepa.errors import ConfigError, DataError, first_line
from llm_jepa.files import expanded, is_path

from .hub import not_downloaded, why_offline

logger = logging.getLogger(__name__)

PAD_TOKEN, END_TOKEN, SEP_TOKEN = "<|pad|>", "<|end|>", "<|sep|>"
SPECIAL_TOKENS = (PAD_TOKEN, END_TOKEN, SEP_TOKEN)  # ids 0, 1, 2
MIN_VOCAB_SIZE = 256 + len(SPECIAL_TOKENS)
"""All bytes and the special tokens: with these, any text can be written and given back."""

_GENERIC_CLASSES = ("TokenizersBackend", "PreTrainedTokenizerFast")


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on these texts: lossless for every text, the same for the same texts.

    Args:
        texts: The training rows' views, and nothing of the test rows.
        vocab_size: Size of the vocabulary, special tokens and the 256 bytes included. Few or short texts may
            have fewer merges to give; the tokenizer is then smaller.

    Raises:
        ConfigError: If `vocab_size` cannot hold all bytes and the special tokens.
    """
    if vocab_size < MIN_VOCAB_SIZE:
        raise ConfigError(
            f"vocab_size={vocab_size} must be at least {MIN_VOCAB_SIZE}: 256 bytes and the "
            f"{len(SPECIAL_TOKENS)} special tokens."
        )
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD_TOKEN,
        eos_token=END_TOKEN,
        sep_token=SEP_TOKEN,
        clean_up_tokenization_spaces=False,  # it would turn " ," into "," when decoding
    )
    if len(tokenizer) < vocab_size:
        logger.info("the texts gave %d tokens, fewer than vocab_size=%d", len(tokenizer), vocab_size)
    return tokenizer


def load_tokenizer(name_or_path: str) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a folder, or by its name on the hub. Code from the hub is never run.

    Raises:
        ConfigError: If there is no such folder, or nothing in it that is a tokenizer.
    """
    folder = expanded(name_or_path)
    if not folder.exists() and is_path(name_or_path):
        raise ConfigError(
            f"{name_or_path}: no such folder, to load a tokenizer from. Check model_name_or_path, and "
            "tokenizer_name_or_path if it is set."
        )
    if not folder.exists():
        why_offline()
    try:
        if _is_generic(folder):
            # For some model types AutoTokenizer puts the model's own class in place of a generic one, with
            # another splitting of text and more special tokens (transformers 5.23: qwen2, phi3, and others).
            return PreTrainedTokenizerFast.from_pretrained(str(folder))
        # Said, not left out: on a terminal, transformers would ask whether to run the code of a repository.
        return AutoTokenizer.from_pretrained(str(folder) if folder.exists() else name_or_path, trust_remote_code=False)
    except Exception as err:  # missing files, bad JSON, no network: each has its own kind, one remedy
        if not folder.exists() and (missing := not_downloaded(name_or_path, "tokenizer")):
            raise ConfigError(missing) from err
        raise ConfigError(
            f"{name_or_path}: its tokenizer cannot be loaded: {first_line(err)} Expected a folder that "
            "save_pretrained wrote (tokenizer.json, tokenizer_config.json), or a hub name and a network."
        ) from err


def check_tokenizer_fits(tokenizer: PreTrainedTokenizerBase, vocab_rows: int) -> None:
    """Check that every id of the tokenizer has a row in the model's embedding.

    Args:
        tokenizer: The tokenizer that will encode the data.
        vocab_rows: Rows of the model's embedding matrix.

    Raises:
        ConfigError: If an id is too large; the model would fail, or read past its table on some devices.
    """
    vocab = tokenizer.get_vocab()
    token, top = max(vocab.items(), key=lambda item: item[1])
    if top >= vocab_rows:
        raise ConfigError(
            f"The tokenizer has ids up to {top} ({token!r}), but the model's embedding has {vocab_rows} "
            f"rows. Use the model's own tokenizer, or a model with at least {top + 1} rows."
        )


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the ids of a text of the user's: no special token is added, and none is read out of the text."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]


class PlainText:
    """Encodes texts of the user's, in which the name of a control token is letters.

    The tokenizer itself can do that for special tokens. A token that was added as a word (`special=False`) it reads
    out of any text, also where that token ends a turn: then a copy of the tokenizer is used in which it is special.
    The copy is made when it is first needed.

    Args:
        tokenizer: The tokenizer.
        names: Names of tokens that no text may give; those of special tokens need not be among them.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, names: Iterable[str]) -> None:
        self.tokenizer = tokenizer
        self._names = frozenset(names)
        self._ids = frozenset(index for name, index in tokenizer.get_added_vocab().items() if name in self._names)
        self._strict: PreTrainedTokenizerBase | None = None

    def __call__(self, text: str) -> list[int]:
        """Return the ids of a text.

        Raises:
            DataError: If the text has such a name, and the tokenizer cannot be changed.
        """
        ids = encode_text(self.tokenizer, text)
        if self._ids.isdisjoint(ids):
            return ids
        if self._strict is None:
            self._strict = with_special(self.tokenizer, self._names)
        return encode_text(self._strict, text)


def with_special(tokenizer: PreTrainedTokenizerBase, names: Collection[str]) -> PreTrainedTokenizerBase:
    """Return a copy of a tokenizer in which these tokens are special, so that a text can be kept from giving them."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise DataError(
            f"A text has the name of a control token, one of {', '.join(sorted(names))}, and this tokenizer reads the "
            "token out of it. Mark the token as special in the tokenizer's files."
        )
    settings = json.loads(backend.to_str())
    for token in settings["added_tokens"]:
        token["special"] |= token["content"] in names
    changed = copy.deepcopy(tokenizer)
    changed._tokenizer = Tokenizer.from_str(json.dumps(settings))
    return changed


def default_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the chat template that a chat without tools gets; None if the tokenizer has none, or no default one."""
    template = tokenizer.chat_template
    return template.get("default") if isinstance(template, dict) else template


def decode_ids(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """Return the text of ids, character for character; special tokens among them show as their names."""
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _is_generic(folder: Path) -> bool:
    config_file = folder / "tokenizer_config.json"
    if not config_file.is_file() or not (folder / "tokenizer.json").is_file():
        return False
    config = json.loads(config_file.read_text(encoding="utf-8"))
    return config.get("tokenizer_class") in _GENERIC_CLASSES and "auto_map" not in config
