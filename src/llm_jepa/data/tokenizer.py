"""Tokenizers: a byte-level one that is trained on the training rows, or one that the user names.

The user's text stays text: a `<|end|>` in a data file is encoded as its characters, never as the token that ends
an answer. All code that encodes a view uses `encode_text`, or `PlainText`, which uses it.
"""

from __future__ import annotations

import copy
import functools
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

SPECIAL_TOKENS = PAD_TOKEN, END_TOKEN, SEP_TOKEN = ("<|pad|>", "<|end|>", "<|sep|>")  # ids 0, 1, 2
MIN_VOCAB_SIZE = 256 + len(SPECIAL_TOKENS)
"""All bytes and the special tokens: with these, any text can be encoded and decoded without loss."""

ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_GENERIC_CLASSES = ("TokenizersBackend", "PreTrainedTokenizerFast")


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on these texts. It is lossless for every text. Equal texts give an equal tokenizer.

    `vocab_size` includes the special tokens and the 256 bytes. The tokenizer is smaller if the texts have fewer tokens.

    Raises:
        ConfigError: If `vocab_size` cannot hold all bytes and the special tokens.
    """
    if vocab_size < MIN_VOCAB_SIZE:
        raise ConfigError(
            "value_out_of_range",
            f"vocab_size={vocab_size} must be at least {MIN_VOCAB_SIZE}: 256 bytes and the "
            f"{len(SPECIAL_TOKENS)} special tokens.",
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
        logger.info(
            "the tokenizer has %d tokens, fewer than vocab_size=%d: the texts have no more", len(tokenizer), vocab_size
        )
    return tokenizer


def load_tokenizer(name_or_path: str) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a folder, or by its name on the hub. Code from the hub is never run.

    Raises:
        ConfigError: If the folder does not exist, or has no tokenizer that can be loaded.
    """
    folder = expanded(name_or_path)
    if not folder.exists() and is_path(name_or_path):
        raise ConfigError(
            "folder_missing",
            f"{name_or_path}: no such folder, and the tokenizer should be there. Check model_name_or_path, and "
            "tokenizer_name_or_path if it is set.",
        )
    if not folder.exists():
        why_offline()
    try:
        if _is_generic(folder):
            # For some model types AutoTokenizer takes the model's own class instead of a generic one. That class splits
            # text in another way and has more special tokens (transformers 5.23: qwen2, phi3, and others).
            return PreTrainedTokenizerFast.from_pretrained(str(folder))
        # False explicitly: without it, transformers asks on a terminal whether to run the code of a repository.
        return AutoTokenizer.from_pretrained(str(folder) if folder.exists() else name_or_path, trust_remote_code=False)
    except Exception as err:  # missing files, bad JSON, no network: many kinds of errors, but the same remedy
        if not folder.exists() and (missing := not_downloaded(name_or_path, "tokenizer")):
            raise ConfigError("not_downloaded", missing) from err
        raise ConfigError(
            "tokenizer_not_loadable",
            f"{name_or_path}: its tokenizer cannot be loaded: {first_line(err)} Expected a folder that "
            "save_pretrained wrote (tokenizer.json, tokenizer_config.json), or a hub name and a network.",
        ) from err


def check_tokenizer_fits(tokenizer: PreTrainedTokenizerBase, vocab_rows: int) -> None:
    """Raise a ConfigError if an id has no row in the model's embedding of `vocab_rows`.

    The model would fail, or on some devices read beyond its table.
    """
    beyond = {name: index for name, index in tokenizer.get_vocab().items() if index >= vocab_rows}
    if beyond and (used := beyond.keys() - _unused_names(tokenizer)):
        token = max(used, key=lambda name: beyond[name])
        raise ConfigError(
            "vocabulary_too_large",
            f"The tokenizer has ids up to {beyond[token]} ({token!r}), but the model's embedding has {vocab_rows} "
            f"rows. Use the model's own tokenizer, or a model with at least {beyond[token] + 1} rows.",
        )


def _unused_names(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """Return the special tokens that no row can hold: they have no role, and the chat template does not write them.

    The tokenizer of Gemma-3's text models has one for images, for which the model has no row.
    """
    special = {each.content for each in tokenizer.added_tokens_decoder.values() if each.special}
    in_use = {tokenizer.special_tokens_map.get(f"{role}_token") for role in ROLES}  # not that of an image, and so on
    return {name for name in special - in_use if name not in str(tokenizer.chat_template or "")}


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the ids of a user's text. No special token is added, and none is recognised in the text."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]


class PlainText:
    """Encodes a user's texts, in which the name of a control token is plain letters.

    The tokenizer itself can do that for special tokens. But it recognises a token that was added as a word
    (`special=False`) in any text, even if that token ends a turn. If one of these `names` is found so, a copy of the
    tokenizer is used in which they are special.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, names: Iterable[str]) -> None:
        self.tokenizer = tokenizer
        self._names = frozenset(names)
        self._ids = frozenset(index for name, index in tokenizer.get_added_vocab().items() if name in self._names)

    @functools.cached_property
    def _strict(self) -> PreTrainedTokenizerBase:
        return with_special(self.tokenizer, self._names)

    def __call__(self, text: str) -> list[int]:
        """Return the ids of a text; a DataError if it has such a name, and the tokenizer cannot be changed."""
        ids = encode_text(self.tokenizer, text)
        return ids if self._ids.isdisjoint(ids) else encode_text(self._strict, text)


def with_special(tokenizer: PreTrainedTokenizerBase, names: Collection[str]) -> PreTrainedTokenizerBase:
    """Return a copy of a tokenizer in which these tokens are special, so that `encode_text` does not recognise them."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise DataError(
            "token_not_special",
            f"A text has the name of a control token, one of {', '.join(sorted(names))}, and this tokenizer turns it "
            "into that token. Mark the token as special in the tokenizer's files.",
        )
    settings = json.loads(backend.to_str())
    for token in settings["added_tokens"]:
        token["special"] |= token["content"] in names
    changed = copy.deepcopy(tokenizer)
    changed._tokenizer = Tokenizer.from_str(json.dumps(settings))
    return changed


def default_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the chat template for chats without tools; None if the tokenizer has none, or no default one."""
    template = tokenizer.chat_template
    return template.get("default") if isinstance(template, dict) else template


def decode_ids(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """Return the exact text of ids; special tokens among them appear as their names."""
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _is_generic(folder: Path) -> bool:
    config_file = folder / "tokenizer_config.json"
    if not config_file.is_file() or not (folder / "tokenizer.json").is_file():
        return False
    config = json.loads(config_file.read_text(encoding="utf-8"))
    return config.get("tokenizer_class") in _GENERIC_CLASSES and "auto_map" not in config
