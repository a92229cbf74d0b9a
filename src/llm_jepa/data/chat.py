"""Rendering chats with a tokenizer's chat template, so that the place of each message's text is known.

A view must end where the user's last word ends. Searching for the text would not be safe: a question may contain its
answer, and a system message may contain the question. So the template is rendered again with a marker instead of each
content. The text between the markers is written by the template, and shows where each content is.
"""

from __future__ import annotations

import functools
import logging
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import jinja2
from transformers import PreTrainedTokenizerBase

from llm_jepa.errors import ConfigError, DataError, nearest

from .tokenizer import PlainText, default_template

logger = logging.getLogger(__name__)

Message = dict[str, Any]
Span = tuple[int, int]  # characters, from the first up to, not including, the last

# Private-use characters: no template writes them, none strips them.
_MARKER = re.compile("\ue000([0-9]+)\ue001")
# The beginning of a template from which the system message was removed.
_WITHOUT_SYSTEM = "{# template_system: false #}"
# Some templates get the date from this function, and do not read date_string.
_FROZEN_DATE = "{%- macro strftime_now(format) -%}{{ date_string }}{%- endmacro -%}"
# The name of an added word that can be a control token. One of letters or spaces only is none, also in a template.
_NAME = re.compile(r"[^\w\s](.*[^\w\s])?", re.DOTALL)
# Tags that a model writes itself. They are part of an answer, even if a template writes them too.
_WORD_TAG = re.compile(r"</?\w+>")
_TAG = re.compile(r"</?\w+>|\[/?\w+\]")
_TAGS_AT_THE_END = re.compile(rf"((?:{_TAG.pattern})\s*)+\Z")


class Content(NamedTuple):
    """Where the text of a message is in a prompt, in characters, and whether it is an answer."""

    start: int
    end: int
    is_answer: bool


@dataclass(frozen=True)
class RenderedPrompt:
    """A prompt as the template writes it, generation prompt included.

    Attributes:
        contents: Places of the messages' texts, perhaps without those that have no name of a control token. All other
            text is written by the template.
        last_user: Place of the last user message's text; the text view ends at its end.
    """

    string: str
    contents: list[Content]
    last_user: Span


def remove_template_system(tokenizer: PreTrainedTokenizerBase, kwargs: dict[str, Any]) -> None:
    """Change a tokenizer's chat template (once), so that it adds no system message to a chat that has none.

    The tokenizer is saved with the model, so that servers write the same prompts as training.

    Raises:
        ConfigError: If there is no template, or it adds no system message, or the message cannot be removed.
    """
    source = default_template(tokenizer)
    if source is not None and source.startswith(_WITHOUT_SYSTEM):
        return
    before, kept = ChatTemplate(tokenizer, kwargs).opening() if source is not None else ("", "")
    if source is None or before == kept:
        raise ConfigError(
            "setting_without_effect",
            "template_system=false has no effect: the tokenizer's chat template adds no system message, or none that "
            "can be told from the user's turn. Remove the setting.",
        )
    cut = f"{kept!r} + whole[{len(before)}:]"
    condition = f"messages[0]['role'] != 'system' and whole.startswith({before!r})"
    changed = f"{_WITHOUT_SYSTEM}{{% set whole %}}{source}{{% endset %}}{{{{ {cut} if {condition} else whole }}}}"
    old = tokenizer.chat_template
    tokenizer.chat_template = {**old, "default": changed} if isinstance(old, dict) else changed
    is_fixed = "strftime_now" not in source  # with the date in it, the message of another day would not be found
    if not is_fixed or ChatTemplate(tokenizer, kwargs).opening() != (kept, kept):
        tokenizer.chat_template = old
        raise ConfigError(
            "template_not_changeable",
            "template_system=false cannot remove the system message from this chat template. Give the rows a system "
            "message of their own, or edit chat_template.jinja in a copy of the tokenizer (tokenizer_name_or_path).",
        )


class Controls:
    """The tokens that a tokenizer and its template use to structure a text. In a user's text, their names are text.

    These are the special tokens, and added words that are used as one or occur in `written`, which is all that the
    template may write. Tags that a model writes itself, such as `<think>`, are control tokens in a question, but plain
    words in an answer.

    Attributes:
        ids: The id of each added token, by its name.
        questions: Encodes the text of users and system messages.
        answers: Encodes the text of answers.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, written: str = "") -> None:
        added = tokenizer.added_tokens_decoder
        self.ids = {token.content: index for index, token in added.items()}
        special = {token.content for token in added.values() if token.special}
        words = self.ids.keys() - special
        serving = words & (set(tokenizer.all_special_tokens) - {tokenizer.unk_token})
        in_template = {name for name in words if name in written and _NAME.fullmatch(name)}
        tags = {name for name in in_template - serving if _WORD_TAG.fullmatch(name)}
        in_questions = serving | in_template
        in_answers = in_questions - tags
        self.in_questions, self.in_answers = _any_of(special | in_questions), _any_of(special | in_answers)
        self.questions, self.answers = PlainText(tokenizer, in_questions), PlainText(tokenizer, in_answers)


def _any_of(names: set[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))) or "(?!)")


class ChatTemplate:
    """The chat template of a tokenizer, with frozen arguments.

    Attributes:
        end_id: The token that ends an answer: the one that the template writes after the assistant's text.
        controls: The tokens whose names in a message are text.

    Raises:
        ConfigError: If neither the template nor the tokenizer has an end token, if what the template writes after an
            answer is not a token, or if it cannot render a user's turn and an answer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, kwargs: dict[str, Any]) -> None:
        self.tokenizer = tokenizer
        self.kwargs = dict(kwargs)
        source = default_template(tokenizer) or ""
        self._template = _FROZEN_DATE + source if "date_string" in kwargs else None  # None: the tokenizer's own
        self._skeletons: dict[tuple[Any, ...], str] = {}
        whole, header = self._render_one()
        self.controls = Controls(tokenizer, "\0".join([source, whole, header]))
        before, _, after = whole.partition(_marker(1))
        self._prefill = header[len(before) :] if header.startswith(before) else ""
        self.end_id = self._find_end_id(before, header, after)
        known = set(re.findall(r"\w+", source))
        for name in sorted(self.kwargs.keys() - known - {"date_string"}):
            logger.warning(
                "chat_template_kwargs.%s has no effect: the chat template does not read it.%s",
                name,
                nearest(name, known),
            )
        if "strftime_now" in source and "date_string" not in self.kwargs:
            logger.warning(
                "the chat template writes today's date: rows will differ from day to day. "
                "Set chat_template_kwargs to a fixed date_string."
            )

    def render_code_view(self, answer: str, source: str) -> RenderedPrompt:
        """Render an answer alone in the template; the view ends at its last word.

        If the template refuses an answer without a question (Gemma's does), it is rendered as a user's turn,
        as in the published code.
        """
        alone = [{"role": self._lone_answer_role, "content": answer}]
        return self.render_prompt(alone, source, add_generation_prompt=False)

    def without_opening(self, messages: list[Message], answer: str, source: str) -> str:
        """Return an answer without what the template already writes at its beginning, such as `<think>`.

        An answer that opens again what the template has opened and closed is a DataError.
        """
        begins = answer.lstrip()
        if not _TAG.match(begins) and not (self._prefill.strip() and begins.startswith(self._prefill.strip())):
            return answer
        prompt = self.render_prompt(messages, source)
        after = prompt.string[prompt.last_user[1] :]
        tags = _TAGS_AT_THE_END.search(after)
        opening = tags.group() if tags else self._prefill if after.endswith(self._prefill) else ""
        written = opening.strip()
        if written and begins.startswith(written):
            return begins[len(written) :].removeprefix(opening[len(opening.rstrip()) :])
        first = _TAG.match(written)
        if first and begins.startswith(first.group()):
            raise DataError(
                "answer_opened_twice",
                f"{source}: the chat template opens the answer with {written!r}, and the answer begins with "
                f"{first.group()!r} again. Remove it from the answers, or set chat_template_kwargs so that the "
                "template does not write it (such as enable_thinking).",
            )
        return answer

    @functools.cached_property
    def _lone_answer_role(self) -> str:
        alone = _marked([{"role": "assistant", "content": ""}])
        try:
            if self._render(alone, "chat template", add_generation_prompt=False).count(_marker(0)) == 1:
                return "assistant"
        except DataError:
            pass
        logger.warning("the chat template renders no answer alone: the code view is rendered as a user's turn")
        return "user"

    def encode_prompt(self, prompt: RenderedPrompt) -> tuple[list[int], list[int]]:
        """Return the ids of a prompt up to the last user's last word, and those after it.

        Together they are the ids of the whole prompt, with one exception: if a token would contain the end of the
        user's text and what follows it, both parts are encoded separately, and the ids differ.
        """
        end = prompt.last_user[1]
        text_ids, whole = self.encode(prompt, 0, end), self.encode(prompt, 0, len(prompt.string))
        if whole[: len(text_ids)] == text_ids:
            return text_ids, whole[len(text_ids) :]
        return text_ids, self.encode(prompt, end, len(prompt.string))

    def opening(self) -> tuple[str, str]:
        """Return what the template writes before the first user's text, and the part of it that opens the user's turn.

        The first is longer if the template adds a system message to a chat that has none. The second is the begin
        token, if there is one, and what the template writes before the text of a later user's turn. If a template
        refuses a chat of two questions, or opens the first turn in another way, both are its whole opening.
        """
        roles = ("user", "assistant", "user")
        chat = [{"role": role, "content": ""} for role in roles]
        try:
            three = self._skeleton(chat, "chat template", add_generation_prompt=False)
            two = self._skeleton(chat[:2], "chat template", add_generation_prompt=False)
        except DataError:
            two, three = self._render_one()[0], ""
        before, end = two.partition(_marker(0))[0], two.partition(_marker(1))[2]
        header = three.partition(_marker(1))[2].partition(_marker(2))[0]
        if not header.startswith(end) or not before.endswith(header[len(end) :]):
            return before, before
        header = header[len(end) :]
        begin = self.tokenizer.bos_token or ""
        return before, begin + header if before.startswith(begin) and not header.startswith(begin) else header

    def encode(self, prompt: RenderedPrompt, start: int, end: int) -> list[int]:
        """Return the ids of the characters from `start` to `end`; in a message's text, names of tokens are text."""
        string = prompt.string[start:end]
        contents = [
            Content(max(each.start, start) - start, min(each.end, end) - start, each.is_answer)
            for each in prompt.contents
            if each.start < end and each.end > start
        ]
        has_names = any(
            match.start() < content.end and content.start < match.end()
            for content in contents
            for match in (self.controls.in_answers if content.is_answer else self.controls.in_questions).finditer(
                string
            )
        )
        if not has_names:  # the name of a control token is in no message's text, in whole or in part
            # The common case is left to the tokenizer: exactly the ids that every other tool gives this prompt.
            encoded = self.tokenizer(string, add_special_tokens=False, split_special_tokens=False, verbose=False)
            return encoded["input_ids"]
        return self._encode_around_contents(string, contents)

    def _encode_around_contents(self, string: str, contents: list[Content]) -> list[int]:
        ids: list[int] = []
        done = 0
        gap_starts = [0, *(content.end for content in contents)]
        gap_ends = [*(content.start for content in contents), len(string)]
        for gap_start, gap_end in zip(gap_starts, gap_ends, strict=True):
            for match in self.controls.in_questions.finditer(string, gap_start, gap_end):
                ids += self._encode_words(string, done, match.start(), contents)
                ids.append(self.controls.ids[match.group()])
                done = match.end()
        return ids + self._encode_words(string, done, len(string), contents)

    def _encode_words(self, string: str, start: int, end: int, contents: list[Content]) -> list[int]:
        inside = [content for content in contents if content.start < end and content.end > start]
        is_answer = bool(inside) and all(content.is_answer for content in inside)
        return (self.controls.answers if is_answer else self.controls.questions)(string[start:end])

    def render_prompt(
        self, messages: list[Message], source: str, *, add_generation_prompt: bool = True
    ) -> RenderedPrompt:
        """Render messages and, by default, the header of the answer after them; find the place of each content.

        A template may write other text because of a message: it may remove the thinking of an earlier answer, or
        change its mode (SmolLM3's `/no_think`). Then only the last message is replaced by a marker. That is enough if
        the other messages have no name of a control token.

        Raises:
            DataError: If the template refuses these messages, or changes more of a content than the white space
                around it, so that the end of a view is not known.
        """
        options = {"add_generation_prompt": add_generation_prompt}
        string = self._render(messages, source, **options)
        last = len(messages) - 1
        contents = [message["content"] for message in messages]
        places = _locate(contents, self._skeleton(messages, source, **options), string)
        written = {index for index, _ in places or ()} | {last}
        if lost := [place for place, each in enumerate(contents) if places and place not in written and each.strip()]:
            text = f"{source}: the chat template leaves out message {lost[0] + 1}, of the {messages[lost[0]]['role']}."
            raise DataError("template_drops_message", f"{text} Write it into the user's turn, or remove it.")
        if places is None and not any(self.controls.in_questions.search(each) for each in contents[:-1]):
            marked = [*messages[:-1], _marked(messages)[-1]]
            places = _locate_last(messages, self._render(marked, source, **options), string)
        if places is None or sum(index == last for index, _ in places) != 1:
            raise DataError(
                "template_changes_text",
                f"{source}: the chat template does not write the last user message unchanged and exactly once, or it "
                "changes an earlier message that has the name of a control token. So the end of the text view is not "
                "known. Use rows of prompt and completion strings, or another chat template.",
            )
        return RenderedPrompt(
            string=string,
            contents=[Content(*span, messages[index]["role"] == "assistant") for index, span in places],
            last_user=next(span for index, span in places if index == last),
        )

    def _render(self, messages: list[Message], source: str, *, add_generation_prompt: bool) -> str:
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    messages,
                    chat_template=self._template,
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                    **self.kwargs,
                )
            )
        except (jinja2.TemplateError, TypeError, KeyError) as err:
            roles = ", ".join(message["role"] for message in messages)
            raise DataError(
                "template_refuses_chat",
                f"{source}: the chat template refuses this chat ({roles}): {_readable(str(err))}. Change the roles, or "
                "use rows of prompt and completion strings.",
            ) from err

    def _skeleton(self, messages: list[Message], source: str, *, add_generation_prompt: bool) -> str:
        """Render the messages with a marker for each content, once for each order of roles."""
        key = (add_generation_prompt, *(message["role"] for message in messages))
        if key not in self._skeletons:
            self._skeletons[key] = self._render(_marked(messages), source, add_generation_prompt=add_generation_prompt)
        return self._skeletons[key]

    def _render_one(self) -> tuple[str, str]:
        """Return a question and an answer as the template writes them, and a question with the header of an answer."""
        chat = _marked([{"role": "user", "content": ""}, {"role": "assistant", "content": ""}])
        try:
            whole = self._render(chat, "chat template", add_generation_prompt=False)
            return whole, self._render(chat[:1], "chat template", add_generation_prompt=True)
        except DataError as err:
            text = f"The tokenizer's chat template cannot render a question and an answer: {err}"
            raise ConfigError(err.code, text) from err

    def _find_end_id(self, before: str, header: str, after: str) -> int:
        if before != header:
            logger.warning(
                "the chat template opens an answer with %r in a chat, and with %r where it asks for one; "
                "training uses the second, as generation does",
                _readable(before)[-40:],
                _readable(header)[-40:],
            )
        written = [token for token in self.controls.ids if after.lstrip().startswith(token)]
        if written:
            return self.controls.ids[max(written, key=len)]
        # An answer that is written twice (a marker after it) is refused later, with its row.
        if after.strip() and not _MARKER.search(after):
            raise ConfigError(
                "unknown_end_token",
                f"The chat template writes {after.strip()[:40]!r} after an answer, which is not a token of the "
                "tokenizer and so would not end it. Use the template's own tokenizer, or add the token to this one.",
            )
        end_id = self.tokenizer.eos_token_id
        if end_id is None:
            raise ConfigError(
                "end_token_missing",
                "The chat template writes no token after an answer, and the tokenizer has no eos_token: a "
                "model could not learn to stop. Set the tokenizer's eos_token.",
            )
        logger.warning("the chat template writes no token after an answer; %r ends it", self.tokenizer.eos_token)
        return int(end_id)


def _readable(text: str) -> str:
    return _MARKER.sub("...", text)


def _marker(index: int) -> str:
    return f"\ue000{index}\ue001"


def _marked(messages: list[Message]) -> list[Message]:
    return [{**message, "content": _marker(index)} for index, message in enumerate(messages)]


def _locate(contents: list[str], skeleton: str, string: str) -> list[tuple[int, Span]] | None:
    """Return `(message index, place in string)` of each content, in the order of the string.

    None if the string is not the skeleton with the contents (whole or stripped) instead of the markers.

    >>> _locate([" hi "], "<u>\\ue0000\\ue001</u>", "<u>hi</u>")
    [(0, (3, 5))]
    """
    first, *rest = _MARKER.split(skeleton)
    if not string.startswith(first):
        return None
    places: list[tuple[int, Span]] = []
    at = len(first)
    for index, literal in zip(map(int, rest[::2]), rest[1::2], strict=True):
        content = contents[index]
        # Templates of reasoning models leave the thinking of earlier answers out.
        said = content.rpartition("</think>")[2]
        variants = dict.fromkeys(variant for words in (content, said) for variant in _stripped(words))
        written = next((v for v in variants if string.startswith(v + literal, at)), None)
        if written is None:
            return None
        places.append((index, (at, at + len(written))))
        at += len(written) + len(literal)
    return places if at == len(string) else None


def _locate_last(messages: list[Message], skeleton: str, string: str) -> list[tuple[int, Span]] | None:
    """Return the place of the last content. The skeleton has a marker for it only; the other contents are in it."""
    last = len(messages) - 1
    before, marker, after = skeleton.partition(_marker(last))
    if marker:
        for written in _stripped(messages[last]["content"]):
            if string == before + written + after:
                return [(last, (len(before), len(before) + len(written)))]
    return None


def _stripped(words: str) -> tuple[str, ...]:
    return words, words.strip(), words.lstrip(), words.rstrip()
