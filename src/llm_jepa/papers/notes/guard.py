"""Work on a stranger's PDF in a child process with a limit on time and memory.

Whatever the file does to the libraries (an endless loop, ever more memory, a crash in native code), the child ends,
nothing is written, and the caller gets one DataError.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llm_jepa.errors import ConfigError, DataError
from llm_jepa.files import whole_file
from llm_jepa.sandbox import DiedError, Sandbox

from .notes_file import Note

logger = logging.getLogger(__name__)

MAX_SECONDS = 8.0  # of processor time: on an idle machine the whole command then answers within ten seconds
BUSY = 5  # the limit by the clock is this many times as long: on a busy machine a good file has to wait
MAX_MEMORY_MIB = 448  # of address space, with the libraries: together with the parent less than 512
MIN_MEMORY_MIB = 256  # with the libraries loaded and one plain page rendered, 200 are in use
_MORE_MEMORY = "If you trust the file, allow more with --max-memory."
_LIBRARIES = ("pypdf", "pypdfium2", "reportlab")


def annotate_pdf(
    source: Path,
    notes: Sequence[Note],
    out: Path,
    *,
    force: bool = False,
    skip_missing: bool = False,
    max_seconds: float = MAX_SECONDS,
    max_memory_mib: int = MAX_MEMORY_MIB,
) -> dict[str, Any]:
    """Write a copy of a PDF with notes on its pages: `out` appears complete, or not at all.

    Args:
        source: The PDF; it is only read.
        notes: What `read_notes` returned.
        out: The file to write.
        force: Write over `out` if it is there.
        skip_missing: Leave out notes on pages that the PDF does not have, and return their numbers.
        max_seconds: Processor time for the work on the PDF, rounded up to whole seconds; five times that by the clock.
        max_memory_mib: Memory for the work, in MiB of address space; enforced if the system can do so (Linux).

    Returns:
        `out`, `notes` (drawn), `pages` (of `out`), `bands`, `inserted_pages`, `skipped`.

    Raises:
        ConfigError: If the libraries of the extra `pdf` are missing, `out` cannot be written, or a limit is too low.
        DataError: If the PDF cannot be used, or needs more than the limits.
    """
    _check_call(source, notes, out, force)
    if max_memory_mib < MIN_MEMORY_MIB:
        text = f"--max-memory {max_memory_mib}: expected {MIN_MEMORY_MIB} MiB or more, most of it for the libraries."
        raise ConfigError("value_out_of_range", text)
    with source.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
    if size > max_memory_mib * 2**20 // 4:
        raise DataError(
            "file_too_large",
            f"{source} has {size / 2**20:,.0f} MiB, too many for {max_memory_mib} MiB of memory. Allow more with "
            f"--max-memory {4 * size // 2**20 + 1}, or annotate a part of the file.",
        )
    with tempfile.TemporaryDirectory(prefix="llm-jepa-") as name:
        made = Path(name) / "annotated.pdf"
        request = {
            "source": str(source.resolve()),
            "notes": [asdict(note) for note in notes],
            "skip_missing": skip_missing,
            "target": str(made),
            "out_of_memory": f"it needs more than {max_memory_mib} MiB of memory. {_MORE_MEMORY}",
        }
        result = _run_child(source, request, max_seconds, max_memory_mib)
        out.parent.mkdir(parents=True, exist_ok=True)
        with made.open("rb") as annotated, whole_file(out) as file:
            shutil.copyfileobj(annotated, file)
    return {"out": str(out), **result}


def _check_call(source: Path, notes: Sequence[Note], out: Path, force: bool) -> None:
    """Refuse a wrong call before any work."""
    if missing := [name for name in _LIBRARIES if importlib.util.find_spec(name) is None]:
        text = f"Notes on a PDF need {', '.join(missing)}. Install them: pip install 'llm-jepa[pdf]'."
        raise ConfigError("package_missing", text)
    if not notes:
        raise ConfigError("no_notes", "There are no notes. Expected at least one.")
    if not source.exists():
        raise DataError("file_missing", f"{source} does not exist. Expected a PDF.")
    if not source.is_file():  # a pipe or a device might never end
        kind = "a folder" if source.is_dir() else "not a regular file"
        raise DataError("not_a_file", f"{source} is {kind}. Expected a PDF.")
    if out.exists() and out.samefile(source):
        text = f"--out {out} is the PDF itself, which is never changed. Choose another name."
        raise ConfigError("output_is_input", text)
    if out.is_dir():
        raise ConfigError("not_a_file", f"--out {out} is a folder. Name a file in it.")
    if (out.exists() or out.is_symlink()) and not force:
        raise ConfigError("file_exists", f"{out} already exists. Choose another name, or overwrite it with --force.")


def _run_child(source: Path, request: dict[str, Any], max_seconds: float, max_memory_mib: int) -> dict[str, Any]:
    """Do the work in a child process; return its result."""
    child = Sandbox(
        "llm_jepa.papers.notes.annotate",
        memory_bytes=max_memory_mib * 2**20,
        file_bytes=max_memory_mib * 2**20,
        cpu_s=math.ceil(max_seconds),
        # Each additional thread of numpy would take address space.
        environment={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    )
    try:
        child.ask(request)
        result = child.read(BUSY * max_seconds)
    except DiedError as error:
        raise DataError(
            "pdf_crashes",
            f"{source}: the process that read it crashed ({error}). The file is damaged, or needs more than "
            f"{max_memory_mib} MiB of memory. {_MORE_MEMORY}",
        ) from None
    finally:
        child.close()
    if result is None:
        raise DataError(
            "time_limit_exceeded",
            f"{source}: not done after {max_seconds:g} seconds of processor time. The file is damaged, very large, or "
            "keeps its reader in an endless loop. "
            f"If you trust it, allow more with --max-seconds {10 * max_seconds:g}.",
        )
    if "error" in result:
        logger.debug("%s", result.get("traceback", ""))
        raise DataError(result["code"], f"{source}: {result['error']}")
    return result
