"""Errors that a user can act on, and the exit code that each gives on the command line.

An error's text is one paragraph: where (file and line, or the field), what was found, what was expected,
and what to do. Anything that is not one of these is our own mistake and keeps its traceback.
"""

import difflib
from collections.abc import Iterable


class LLMJEPAError(Exception):
    """The work failed; the text says what to do. Exit code 1.

    Args:
        code: The kind of error, in snake_case. It stays when the text is edited, so that programs can rely on it.
        text: Where, what was found, what was expected, what to do. None only where PyTorch makes the error again that a
            loader worker raised: it gives one argument, the text with the worker's traceback.
    """

    exit_code = 1

    def __init__(self, code: str, text: str | None = None) -> None:
        if text is None:
            code, text = "loader_worker_failed", code
        super().__init__(code, text)
        self.code = code
        self.text = text

    def __str__(self) -> str:
        return self.text


class ConfigError(LLMJEPAError, ValueError):
    """The call or its configuration is wrong: nothing was started. Exit code 2."""

    exit_code = 2


class DataError(LLMJEPAError, ValueError):
    """A data file is missing, broken, or does not hold what the configuration says. Exit code 2."""

    exit_code = 2


class CheckFailedError(LLMJEPAError):
    """A check that the user asked for did not hold. Exit code 3."""

    exit_code = 3


def nearest(name: object, known: Iterable[str]) -> str:
    """Return the end of an error's sentence: " Did you mean ...?" with the nearest known name, or nothing.

    >>> nearest("jepa_lamda", ["jepa_lambda", "jepa_k"]), nearest("colour", ["jepa_k"])
    (" Did you mean 'jepa_lambda'?", '')
    """
    near = difflib.get_close_matches(str(name), sorted(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def first_line(error: BaseException) -> str:
    """Return the first line of what an error of a library says, or its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
