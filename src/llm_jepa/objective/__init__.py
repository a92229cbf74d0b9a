"""What LLM-JEPA adds to a language model. Of ours, it imports only the errors. Start at `equation.py`."""

from .backbone import UnsupportedModelError
from .config import JEPAConfig
from .distances import register_distance
from .layout import FusedBatch, FusedCollator
from .llm_jepa import LLMJEPA
from .output import JEPAOutput
from .pair import Pair
from .reference import reference_loss

__all__ = [
    "LLMJEPA",
    "FusedBatch",
    "FusedCollator",
    "JEPAConfig",
    "JEPAOutput",
    "Pair",
    "UnsupportedModelError",
    "reference_loss",
    "register_distance",
]
