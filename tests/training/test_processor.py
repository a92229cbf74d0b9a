"""Which processors multiply in bfloat16, by what Linux says of them."""

from __future__ import annotations

import pytest

from llm_jepa.training.processor import has_bf16_instructions

MILAN = "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu avx2 fma sha_ni\nbugs\t\t: bf16\n"
GENOA = MILAN.replace("avx2", "avx2 avx512f avx512_bf16")
SAPPHIRE_RAPIDS = MILAN.replace("avx2", "avx2 amx_bf16 amx_tile")
GRAVITON_2 = "processor\t: 0\nFeatures\t: fp asimd asimdhp\n"
GRAVITON_3 = GRAVITON_2.replace("asimdhp", "asimdhp svebf16 i8mm bf16")


@pytest.mark.parametrize(
    ("cpuinfo", "has_it"),
    [(MILAN, False), (GENOA, True), (SAPPHIRE_RAPIDS, True), (GRAVITON_2, False), (GRAVITON_3, True), ("", False)],
)
def test_bf16_instructions_are_found_among_the_flags(cpuinfo, has_it, tmp_path):
    """Whole names of the line of flags alone count."""
    file = tmp_path / "cpuinfo"
    file.write_text(cpuinfo)
    assert has_bf16_instructions(file) is has_it


def test_a_system_that_says_nothing_has_none(tmp_path):
    assert not has_bf16_instructions(tmp_path / "cpuinfo")
