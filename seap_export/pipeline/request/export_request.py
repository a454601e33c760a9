"""The request of an export, which holds everything but the model, and the variants that follow from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from converters.form_options import FormOptions
from converters.format import Format, named_folders
from converters.formats import format_class
from seap_export.common.options import options
from seap_export.common.providers import OWN_FORMAT
from seap_export.corpus import Task
from seap_export.errors import UsageError
from seap_export.model.families import ModelSpec
from seap_export.model.vocabulary.choice import VocabularySize
from seap_export.pipeline.folder.names import variant_name
from seap_export.pipeline.request.measured import Measured, measured_of
from seap_export.pipeline.request.mixtures import MixtureSpec, Support
from seap_export.pipeline.request.options import CalibrationSettings, VariantOptions
from seap_export.pipeline.request.settings import ParitySettings, RouterSettings
from seap_export.pipeline.targets.candidate import Candidate
from seap_export.pipeline.targets.targets import Targets
from seap_export.pruning.plan.settings import PlanSettings
from seap_export.pruning.rounding.grid import BlockQuantization


@dataclass(frozen=True)
class VariantRequest:
    """The settings of one requested variant.

    Attributes:
        ratio: Fraction of the weights to remove.
    """

    mixture: MixtureSpec
    ratio: float
    formats: tuple[Format, ...]
    vocabulary: VocabularySize

    @property
    def folders(self) -> dict[str, Format]:
        return named_folders(self.formats)

    @property
    def measured(self) -> Measured | None:
        """The folder whose quality and speed are measured; None: none is written beside `hf`."""
        return measured_of(self.folders)


@options
class ExportRequest(VariantOptions):
    """Everything that an export depends on except the model.

    Attributes:
        tasks: Tasks; each gets a variant for each ratio, or one that meets the targets.
        ratios: Fractions of the weights to remove; none if there are targets.
        mixtures: Variants for several tasks.
        support: Text that every variant is made from as well.
        calibration: How texts are sampled and run.
        plan: How heads and neurons are chosen and compensated.
        formats: Formats to write beside the model folder; with targets, one of them is chosen for each variant.
        parity: How written folders and torch are compared, and on which execution provider.
        router: Whether a router is made, if there are several tasks.
        threshold: The router's confidence, below which it takes the general variant.
        quality: Whether variants are compared with the dense model.
        speed: Whether variants are timed against the dense model.
        vocabulary: How many tokens each variant keeps; with targets, `auto` is tried beside `all`.
        targets: Targets that the variants must meet; their ratios and formats are then chosen.
        choices: The candidates chosen to meet the targets, by the name of the task or mixture.
    """

    tasks: tuple[Task, ...] = field(kw_only=False)
    ratios: tuple[float, ...] = field(kw_only=False)
    mixtures: tuple[MixtureSpec, ...] = field(default=(), kw_only=False)
    support: Support | None = None
    calibration: CalibrationSettings = CalibrationSettings()
    plan: PlanSettings = PlanSettings()
    formats: tuple[Format, ...] = (format_class(OWN_FORMAT).of_options(None, FormOptions()),)
    parity: ParitySettings = ParitySettings()
    router: bool = True
    threshold: float = RouterSettings.threshold
    quality: bool = True
    speed: bool = True
    vocabulary: VocabularySize = "all"
    targets: Targets | None = None
    choices: Mapping[str, Candidate] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.tasks:
            raise UsageError("no task given; give at least one --task NAME=FILE")
        if self.targets is not None:
            self.targets.refuse_beside(self.ratios, self.formats, self.quality, self.speed)
        elif not self.ratios:
            raise UsageError(
                "no ratio given; add --ratio 0.2, which removes a fifth, --ratio 0, which rounds alone, or a target, "
                "such as --target-size 60MB"
            )
        names = [variant_name("", ratio) for ratio in self.ratios]
        if len(set(names)) < len(names):
            raise UsageError("a ratio is given twice; give each --ratio once")
        if any(format.name == "hf" for format in self.formats):
            raise UsageError("hf is always written, in the precision of MODEL; write --format hf, or leave it out")
        labels = [f"{format.name}:{format.precision}" for format in self.formats]
        twice = [label for index, label in enumerate(labels) if label in labels[:index]]
        if twice:
            raise UsageError(f"the format {twice[0]} is given twice; give each --format once")
        mixed = next((format for format in self.formats if format.average is not None), None)
        if mixed is not None and self.rounding == "nearest":
            raise UsageError(
                f"--rounding nearest contradicts {mixed.name}:{mixed.precision}, whose bits are chosen with the "
                "calibration texts; leave out one of them"
            )
        for name, is_asked in (("quality", self.quality), ("speed", self.speed)):
            if is_asked and self.measured is None:
                raise UsageError(f"{name} is not measured on hf alone; add --format {OWN_FORMAT}, or use --no-{name}")
        self._refuse_accuracy_that_is_not_measured()
        _router_settings(self)  # refuses an invalid threshold

    def _refuse_accuracy_that_is_not_measured(self) -> None:
        least = self.min_accuracy_retained
        if least is None:
            return
        if not 0.0 <= least < math.inf:
            raise UsageError(f"--min-accuracy-retained {least:g} is out of range; give 0 or more")
        if not self.quality:
            raise UsageError("--no-quality contradicts --min-accuracy-retained, which is measured; leave out one")
        silent = [task.name for task in self.tasks if not task.says_what_is_right]
        if silent:
            raise UsageError(
                f"--min-accuracy-retained needs to know what is right, which {', '.join(silent)} does not say; give a "
                "task file with choices or an answer"
            )

    def grid(self, format: Format, spec: ModelSpec) -> BlockQuantization | None:
        """The grid that a model of these shapes is rounded to with the calibration texts before it is written."""
        return format.grid(spec) if self.rounding == "calibrated" else None

    @property
    def timed_prompts(self) -> tuple[int, ...]:
        """The tokens of the prompts that are timed because a target asks for the time to the first token."""
        target = None if self.targets is None else self.targets.first_token
        return () if target is None else (target.tokens,)

    @property
    def measured(self) -> Measured | None:
        """The folder to measure of a variant that has all formats; None: no format is written beside `hf`."""
        return measured_of(named_folders(self.formats))

    @property
    def all_mixtures(self) -> tuple[MixtureSpec, ...]:
        """The single tasks, and the mixtures, each with the support."""
        mixtures = (*(MixtureSpec(task.name, {task.name: 1.0}) for task in self.tasks), *self.mixtures)
        return mixtures if self.support is None else tuple(map(self.support.added_to, mixtures))

    @property
    def variants(self) -> dict[str, VariantRequest]:
        """Every requested variant by its name; none before those that meet the targets are chosen."""
        if self.targets is not None:
            chosen = [(mixture, self.choices.get(mixture.name)) for mixture in self.all_mixtures]
            variants = [
                VariantRequest(mixture, candidate.ratio, (candidate.format,), candidate.vocabulary)
                for mixture, candidate in chosen
                if candidate is not None
            ]
        else:
            variants = [
                VariantRequest(mixture, ratio, self.formats, self.vocabulary)
                for mixture in self.all_mixtures
                for ratio in self.ratios
            ]
        return {variant_name(variant.mixture.name, variant.ratio): variant for variant in variants}

    @property
    def refits(self) -> bool:
        """Whether any variant's weights are fitted to the calibration texts."""
        fitted = self.plan.compensation in ("one-shot", "sequential")
        return fitted and any(variant.ratio for variant in self.variants.values())

    @property
    def router_settings(self) -> RouterSettings | None:
        """The settings of the router; None if no router is made."""
        if not self.router or len(self.tasks) < 2:
            return None
        return _router_settings(self)


def _router_settings(request: ExportRequest) -> RouterSettings:
    return RouterSettings(request.calibration.seed, request.calibration.max_length, request.threshold)
