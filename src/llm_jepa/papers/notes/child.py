"""The child process of guard.py: it limits itself, annotates one PDF, and leaves the result in a folder."""

from __future__ import annotations

import json
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from llm_jepa.errors import DataError
from llm_jepa.processes import end_with_parent

from .notes_file import Note

REQUEST_FILE, RESULT_FILE, PDF_FILE = "request.json", "result.json", "annotated.pdf"


def main(folder: Path) -> None:
    """Do what the request in a folder says, and leave the result there."""
    request = json.loads((folder / REQUEST_FILE).read_text(encoding="utf-8"))
    _limit(request["max_seconds"], request["max_memory_mib"])  # before the libraries are loaded
    end_with_parent()
    result = _attempt(request, folder / PDF_FILE)
    (folder / RESULT_FILE).write_text(json.dumps(result), encoding="utf-8")


def _limit(max_seconds: float, max_memory_mib: int) -> None:
    """Limit this process's memory and files, and its processor time should its parent no longer watch the clock."""
    try:
        import resource
    except ImportError:  # Windows: the clock alone
        return
    memory = max_memory_mib * 2**20
    limits = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_FSIZE: memory,
        resource.RLIMIT_CPU: int(max_seconds) + 2,
        resource.RLIMIT_CORE: 0,
    }
    for limit, value in limits.items():
        with suppress(ValueError, OSError):  # a lower limit holds already, or the system has none (macOS: memory)
            resource.setrlimit(limit, (value, value))


def _attempt(request: dict[str, Any], target: Path) -> dict[str, Any]:
    """Return the result, or `error` with what to say."""
    try:
        from .annotate import annotate_file

        notes = [_note(each) for each in request["notes"]]
        return annotate_file(Path(request["source"]), notes, target, skip_missing=request["skip_missing"])
    except DataError as error:
        return {"error": str(error)}
    except MemoryError:
        memory = request["max_memory_mib"]
        return {"error": f"it needs more than {memory} MiB of memory. If it is honest, --max-memory allows more."}
    except RecursionError:
        return {"error": "its objects are nested without end: it is damaged."}
    except Exception as error:  # of the many kinds that pypdf and pdfium raise on a damaged file
        said = " ".join(str(error).split())[:200]
        text = f"it cannot be read, or not be written again ({type(error).__name__}: {said}): it is damaged."
        return {"error": text, "traceback": traceback.format_exc()}


def _note(fields: dict[str, Any]) -> Note:
    """Return a note from its fields in JSON, which has no tuples."""
    values: dict[str, Any] = {name: tuple(each) if isinstance(each, list) else each for name, each in fields.items()}
    return Note(**values)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
