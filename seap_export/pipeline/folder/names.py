"""The names of files and folders in an output folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from seap_export.common.providers import OWN_FORMAT

# What lies in a variant's folder beside those of formats: its plan and its model folder.
PLAN: Final = "plan.json"
HF: Final = "hf"
#: The quality report of our own format.
QUALITY: Final = "quality.json"
#: The folder of rounded models within an output folder.
ROUNDING: Final = "rounding"
#: The model card, in the model folder.
CARD: Final = "README.md"


def output_named_after(model: str) -> Path:
    """The output folder of an export that is given none: in the current folder, and named after the model."""
    path = Path(os.path.abspath(os.path.expanduser(model.partition("@")[0])))
    return Path(f"{path.stem if path.suffix.lower() == '.gguf' else path.name}-export")


def answers_step(task: str) -> str:
    """The folder of the dense model's answers to a task's prompts within an output folder."""
    return f"answers/{task}"


def calibration_step(task: str) -> str:
    """The folder of a task's statistics within an output folder."""
    return f"calibration/{task}"


def fresh_step(task: str) -> str:
    """The folder of a task's fresh texts within an output folder."""
    return f"fresh/{task}"


def variant_name(task: str, ratio: float) -> str:
    """The folder of a variant of a task or a mixture: `gsm8k-0.2`."""
    return f"{task}-{ratio:g}"


def parity_file(folder: str) -> str:
    """The file name of a folder's parity report within a variant; that of our own format has no folder in it."""
    return "parity.json" if folder == OWN_FORMAT else f"parity-{folder}.json"


def quality_file(folder: str) -> str:
    """The file name of a folder's quality report within a variant, likewise."""
    return QUALITY if folder == OWN_FORMAT else f"quality-{folder}.json"
