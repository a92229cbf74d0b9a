"""Annotating one PDF in the child process of guard.py (llm_jepa/sandbox.py)."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llm_jepa.errors import DataError

from .notes_file import Note

OUT_OF_MEMORY = "memory_limit_exceeded"


def answer(request: dict[str, Any], send: Callable[[dict[str, Any]], None]) -> None:
    """Send the result of `annotate_file`, or `code` and `error`, its text."""
    send(_attempt(request))


def _attempt(request: dict[str, Any]) -> dict[str, Any]:
    try:
        from .annotate import annotate_file

        notes = [_note(each) for each in request["notes"]]
        return annotate_file(
            Path(request["source"]), notes, Path(request["target"]), skip_missing=request["skip_missing"]
        )
    except DataError as error:
        return {"code": error.code, "error": error.text}
    except MemoryError:
        return {"code": OUT_OF_MEMORY, "error": "it needs more memory than the limit."}
    except RecursionError:
        return {"code": "pdf_damaged", "error": "its objects are nested too deeply: it is damaged."}
    except Exception as error:  # of the many kinds that pypdf and pdfium raise on a damaged file
        said = " ".join(str(error).split())[:200]
        text = f"it cannot be read, or cannot be written again ({type(error).__name__}: {said}): it is damaged."
        return {"code": "pdf_damaged", "error": text, "traceback": traceback.format_exc()}


def _note(fields: dict[str, Any]) -> Note:
    """Return a note from its fields in JSON, which has no tuples."""
    values: dict[str, Any] = {name: tuple(each) if isinstance(each, list) else each for name, each in fields.items()}
    return Note(**values)
