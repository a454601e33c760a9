"""The names of what lies in an output folder."""

from __future__ import annotations

__all__ = ["calibration_step", "parity_file", "variant_name"]


def calibration_step(task: str) -> str:
    """The folder of a task's statistics within an output folder."""
    return f"calibration/{task}"


def variant_name(task: str, ratio: float) -> str:
    """The folder of a variant of a task or a mixture: `gsm8k-0.2`."""
    return f"{task}-{ratio:g}"


def parity_file(folder: str) -> str:
    """The report of a format's folder within a variant; that of `onnx` has had its name from the beginning."""
    return "parity.json" if folder == "onnx" else f"parity-{folder}.json"
