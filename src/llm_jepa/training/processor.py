"""Whether the processor multiplies in bfloat16."""

from __future__ import annotations

from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""The names of bf16 instructions in /proc/cpuinfo: two of x86, and Arm's."""


def has_bf16_instructions(cpuinfo: Path = CPUINFO) -> bool:
    """Return whether the processor has instructions for products in bfloat16.

    Without them PyTorch converts every number to float32 and back, and bf16 is slower than float32
    (`benchmarks/pretrained_step.py` measures it). A system without `cpuinfo` counts as having none.
    """
    if not cpuinfo.is_file():
        return False
    lines = (line.partition(":") for line in cpuinfo.read_text().splitlines())
    return any(BF16_FLAGS & set(flags.split()) for key, _, flags in lines if key.strip() in ("flags", "Features"))
