"""What a result depends on apart from its settings: versions, machine, commit. It has no secrets, and no values of
environment variables."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from llm_jepa.training.bf16_products import CPUINFO

PACKAGES = ("llm-jepa", "torch", "transformers", "accelerate", "tokenizers", "datasets", "peft", "safetensors", "numpy")


def describe_environment() -> dict[str, Any]:
    """Return versions, processor, accelerator, threads and the source's commit, as plain JSON values."""
    cuda = torch.cuda.is_available()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "cpu": _cpu_name(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "num_devices": torch.cuda.device_count() if cuda else 0,
        "world_size": int(os.environ.get("WORLD_SIZE", "1")),
        "commit": _commit(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    lines = CPUINFO.read_text().splitlines() if CPUINFO.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, None) or platform.processor() or platform.machine()


def _commit() -> str | None:
    """Return the commit of this source, with "+changes" if files differ from it; None outside git."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit, status = (
            subprocess.run([*git, *command], capture_output=True, text=True, check=True).stdout.strip()
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "."])
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+changes" if status else "")
