"""What an export is asked to make."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from converters.format import Format, named_folders
from converters.onnx.format import OnnxFormat
from seap_export.corpus import Task
from seap_export.errors import UsageError
from seap_export.pipeline.measured import Measured, measured_of
from seap_export.pipeline.mixtures import MixtureSpec, Support
from seap_export.pipeline.router import RouterSettings
from seap_export.pipeline.settings import CalibrationSettings, ParitySettings, variant_name
from seap_export.plan.recipes import PlanSettings
from seap_export.vocabulary.choice import VocabularySize

__all__ = ["ExportRequest"]


@dataclass(frozen=True)
class ExportRequest:
    """Everything that an export depends on except the model.

    Attributes:
        tasks: Tasks; each gets a variant for each ratio.
        ratios: Fractions of the weights to remove.
        mixtures: Variants for several tasks.
        support: Text that every variant is made from as well.
        calibration: How texts are sampled and run.
        plan: How heads and neurons are chosen and compensated.
        formats: What is written beside the model folder.
        parity: How written folders and torch are compared, and on which execution provider.
        router: Whether a router is made, if there are several tasks.
        threshold: The router's confidence, below which it takes the general variant.
        quality: Whether variants are compared with the dense model.
        general_text: The corpus of the general text that they are compared on; None: the one of the package.
        speed: Whether variants are timed against the dense model.
        vocabulary: How many tokens each variant keeps.
    """

    tasks: tuple[Task, ...]
    ratios: tuple[float, ...]
    mixtures: tuple[MixtureSpec, ...] = ()
    support: Support | None = None
    calibration: CalibrationSettings = CalibrationSettings()
    plan: PlanSettings = PlanSettings()
    formats: tuple[Format, ...] = (OnnxFormat("fp32"),)
    parity: ParitySettings = ParitySettings()
    router: bool = True
    threshold: float = 0.7
    quality: bool = True
    general_text: Path | None = None
    speed: bool = True
    vocabulary: VocabularySize = "all"

    def __post_init__(self) -> None:
        if not self.tasks:
            raise UsageError("no task given; give at least one --task NAME=FILE")
        if not self.ratios:
            raise UsageError("no ratio given; give at least one, e.g. --ratio 0.2")
        names = [variant_name("", ratio) for ratio in self.ratios]
        if len(set(names)) < len(names):
            raise UsageError("a ratio is given twice; give each --ratio once")
        if any(own.name == "hf" for own in self.formats):
            raise UsageError("hf is always written, in the precision of MODEL; write --format hf, or leave it out")
        twice = [own for index, own in enumerate(self.formats) if _label(own) in map(_label, self.formats[:index])]
        if twice:
            raise UsageError(f"the format {_label(twice[0])} is given twice; give each --format once")
        for name, is_asked in (("quality", self.quality), ("speed", self.speed)):
            if is_asked and self.measured is None:
                raise UsageError(f"{name} is not measured on hf alone; add --format onnx, or use --no-{name}")
        _router_settings(self)  # refuses an invalid threshold

    @property
    def folders(self) -> dict[str, Format]:
        """The formats by their folders within a variant."""
        return named_folders(self.formats)

    @property
    def measured(self) -> Measured | None:
        """The folder whose quality and speed are measured; None: none is written beside `hf`."""
        return measured_of(self.folders)

    @property
    def all_mixtures(self) -> tuple[MixtureSpec, ...]:
        """The single tasks, and the mixtures, each with the support."""
        found = (*(MixtureSpec(task.name, {task.name: 1.0}) for task in self.tasks), *self.mixtures)
        return found if self.support is None else tuple(map(self.support.added_to, found))

    @property
    def variants(self) -> dict[str, tuple[MixtureSpec, float]]:
        """The name of every requested variant, with its mixture and its ratio."""
        return {
            variant_name(mixture.name, ratio): (mixture, ratio)
            for mixture in self.all_mixtures
            for ratio in self.ratios
        }

    @property
    def router_settings(self) -> RouterSettings | None:
        """None if no router is made."""
        if not self.router or len(self.tasks) < 2:
            return None
        return _router_settings(self)


def _label(own: Format) -> str:
    return f"{own.name}:{own.precision}"


def _router_settings(request: ExportRequest) -> RouterSettings:
    return RouterSettings(request.calibration.seed, request.calibration.max_length, request.threshold)
