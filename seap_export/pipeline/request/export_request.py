"""The request of an export: its options, checked once, and what follows from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from converters.form_options import FormOptions
from seap_export.common.options import options, part
from seap_export.common.providers import OWN_FORMAT
from seap_export.errors import UsageError
from seap_export.pipeline.request.main_options import MainOptions
from seap_export.pipeline.request.options import (
    BatchOptions,
    CalibrationSettings,
    ComparisonOptions,
    VariantOptions,
)

if TYPE_CHECKING:
    from converters.format import Format
    from seap_export.model.families import ModelSpec
    from seap_export.model.vocabulary.choice import VocabularySize
    from seap_export.pipeline.request.measured import Measured
    from seap_export.pipeline.request.mixtures import MixtureSpec
    from seap_export.pipeline.request.settings import ParitySettings, RouterSettings
    from seap_export.pipeline.targets.targets import Targets
    from seap_export.pruning.plan.settings import PlanSettings
    from seap_export.pruning.rounding.grid import BlockQuantization


#: The ratios of tasks whose right answers are learnt, unless others are given: the table says which file is enough.
RATIOS_IF_LEARNT = (0.5, 0.8)


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
        from converters.format import named_folders

        return named_folders(self.formats)

    @property
    def measured(self) -> Measured | None:
        """The folder whose quality and speed are measured; None: none is written beside `hf`."""
        from seap_export.pipeline.request.measured import measured_of

        return measured_of(self.folders)


@options
class ExportRequest(ComparisonOptions, VariantOptions, FormOptions, BatchOptions, CalibrationSettings, MainOptions):
    """Everything that an export depends on.

    Attributes:
        choices: The candidates chosen to meet the targets, by the name of the task or mixture.
    """

    choices: Mapping[str, Any] = field(default_factory=dict)

    def refuse_contradictions(self) -> None:
        """Refuses options that contradict each other, and settles those that others decide.

        Raises:
            UsageError: Options contradict each other, or a value is out of range.
            InputError, EnvironmentFailure: A recipe or a file of limits cannot be used.
        """
        from seap_export.pipeline.folder.names import variant_name
        from seap_export.pipeline.request.mixtures import SUPPORT

        if not self.tasks:
            raise UsageError("no task given; give at least one --task NAME=FILE")
        are_learnt = self.answers == "data" and all(task.is_learnt for task in self.tasks)
        if not self.ratio and self.targets is None and are_learnt:
            object.__setattr__(self, "ratio", RATIOS_IF_LEARNT)
            if self.precision is None and self.format == (OWN_FORMAT,):
                object.__setattr__(self, "precision", "int4")
        for name in ("quality", "speed"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, bool(self.formats))
        if self.support is not None and SUPPORT in (task.name.lower() for task in self.tasks):
            raise UsageError(f"a task is named '{SUPPORT}', which is the name of the --support text; rename the task")
        if self.targets is not None:
            self.targets.refuse_beside(self.ratio, self.formats, bool(self.quality), bool(self.speed))
        elif not self.ratio:
            raise UsageError(
                "no ratio given; add --ratio 0.2, which removes a fifth, --ratio 0, which rounds alone, or a target, "
                "such as --target-size 60MB"
            )
        names = [variant_name("", ratio) for ratio in self.ratio]
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
        if self.threshold is not None and not self.router:
            raise UsageError(
                "the threshold has no effect without a router; set router to true, or remove the threshold"
            )
        self.mixtures, self.plan, self.parity  # noqa: B018 - which refuse what is malformed
        if self.learnt and self.max_kl is not None:
            raise UsageError(
                f"--max-kl holds variants near to the dense model, from which the right answers of {self.learnt[0]} "
                "take them away; leave it out, or write 'learning = 0' in the recipe"
            )

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

    @property
    def learnt(self) -> tuple[str, ...]:
        """The names of the tasks whose right answers variants learn."""
        if self.answers != "data" or not self.plan.learned:
            return ()
        return tuple(task.name for task in self.tasks if task.is_learnt)

    @cached_property
    def targets(self) -> Targets | None:
        """Targets that the variants must meet, in place of ratios; their ratios and formats are then chosen."""
        from seap_export.model.layers.compute import parse_bytes
        from seap_export.pipeline.targets.first_token import FirstToken
        from seap_export.pipeline.targets.targets import Targets

        size = None if self.target_size is None else parse_bytes(self.target_size)
        first_token = None if self.target_first_token is None else FirstToken.parse(self.target_first_token)
        given = (size, self.target_decode_speedup, self.max_kl, first_token)
        return None if given == (None, None, None, None) else Targets(*given)

    @cached_property
    def formats(self) -> tuple[Format, ...]:
        """Formats to write beside the model folder; with targets, one of them is chosen for each variant."""
        from seap_export.pipeline.request.formats import all_formats_of, formats_of

        names, form = [text for text in self.format if text != "hf"], part(FormOptions, self)
        if self.targets is None:
            return formats_of(names, form)
        formats = all_formats_of(names, form, of_prompts=self.targets.first_token is not None)
        # rounding to the nearest level chooses no bits
        return tuple(format for format in formats if self.rounding != "nearest" or format.average is None)

    @cached_property
    def plan(self) -> PlanSettings:
        """How heads and neurons are chosen and compensated.

        Widths suit the first format for which they matter, and are whole blocks in all of them.
        """
        from seap_export.pruning.plan.recipes import Target, open_recipe

        targets = [format.target for format in self.formats if format.target is not None] or [Target()]
        block_size = math.lcm(*(target.block_size for target in targets))
        return open_recipe(self.recipe, layout=self.layout, target=replace(targets[0], block_size=block_size))

    @cached_property
    def calibration(self) -> CalibrationSettings:
        """How texts are sampled and run; as many tokens as the recipe says if nobody says how many."""
        settings = part(CalibrationSettings, self)
        is_given = (settings.samples, settings.calibration_tokens) != (None, None)
        return settings if is_given else replace(settings, calibration_tokens=self.plan.calibration_tokens)

    @cached_property
    def parity(self) -> ParitySettings:
        """How written folders and torch are compared, and on which execution provider."""
        from seap_export.pipeline.request.settings import parity_settings

        return parity_settings(self, self.provider, self.threads)

    @cached_property
    def mixtures(self) -> tuple[MixtureSpec, ...]:
        """Variants for several tasks."""
        from seap_export.pipeline.request.mixtures import parse_mixtures

        tasks = [task.name for task in self.tasks]
        return parse_mixtures(tasks, general=self.general, weights=self.weight, mixes=self.mix)

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
        from converters.format import named_folders
        from seap_export.pipeline.request.measured import measured_of

        return measured_of(named_folders(self.formats))

    @property
    def all_mixtures(self) -> tuple[MixtureSpec, ...]:
        """The single tasks, and the mixtures, each with the support."""
        from seap_export.pipeline.request.mixtures import MixtureSpec

        mixtures = (*(MixtureSpec(task.name, {task.name: 1.0}) for task in self.tasks), *self.mixtures)
        return mixtures if self.support is None else tuple(map(self.support.added_to, mixtures))

    @property
    def variants(self) -> dict[str, VariantRequest]:
        """Every requested variant by its name; none before those that meet the targets are chosen."""
        from seap_export.pipeline.folder.names import variant_name

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
                for ratio in self.ratio
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
        from seap_export.pipeline.request.settings import RouterSettings

        if not self.router or len(self.tasks) < 2:
            return None
        threshold = RouterSettings.threshold if self.threshold is None else self.threshold
        return RouterSettings(self.calibration.seed, self.calibration.max_length, threshold)
