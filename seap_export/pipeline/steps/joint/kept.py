"""Keeps the rounded whole model where it is recommended."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from seap_export.pipeline.evaluation.quality import recorded_quality
from seap_export.pipeline.evaluation.speed import recorded_speed
from seap_export.pipeline.folder.contents import Export
from seap_export.pipeline.folder.whole import read_whole
from seap_export.pipeline.gate.recommended import Limits, recommended
from seap_export.pipeline.gate.report import describe_variant
from seap_export.pipeline.gate.whole import whole_rows
from seap_export.pipeline.steps.joint.whole import REFUSALS, WholeStep
from seap_export.pipeline.steps.step import Made, Step
from seap_export.pipeline.steps.variant_steps import VariantSteps
from seap_export.pipeline.targets.frontier import read_frontier


@dataclass(frozen=True)
class KeptStep(Step):
    """Moves the recommended whole models out of the hidden folder, each into a folder of its name."""

    variants: Mapping[str, VariantSteps]
    whole: WholeStep
    min_accuracy_retained: float | None = None

    def run(self, made: Made) -> None:
        """Keeps those that are not there yet; one that the last run made but did not keep is made again."""
        folder, workspace = made.work.folder, made.workspace
        made.performance.write(folder)
        known = read_whole(folder)
        for name in [name for name in self._recommended(made) if name in self.whole.models]:
            key = known[name]["key"]
            if workspace.manifest.steps.get(name) == key and not workspace.manifest.damages(folder, name):
                continue
            with suppress(*REFUSALS):  # the report then has the command that makes it
                made_folder = made.whole.get(name) or self.whole.make(made, name)
                with workspace.writing(name, key, folder=True) as path:
                    shutil.copytree(made_folder, path, dirs_exist_ok=True, copy_function=_link)

    def _recommended(self, made: Made) -> list[str]:
        """The files to ship, as the validation that follows finds them if no check fails."""
        export, frontier = Export(made.work.folder), read_frontier(made.work.folder)
        described = {}
        for name in made.variants:
            variant = export.variant(name)
            figures = {"quality": recorded_quality(variant), "speed": recorded_speed(variant)}
            described[name] = describe_variant(variant, made.workspace.manifest, figures)
        limits = Limits.of_targets(frontier and frontier["targets"], None, self.min_accuracy_retained)
        whole = whole_rows(export, {one["task"] for one in described.values()})
        found = recommended(described, whole, limits, (), frontier)
        return [of_task["file"] for of_task in found.values()]


def _link(source: str, target: str) -> None:
    """Gives a file a second name, so that models that several tasks share take no more space; else copies it."""
    try:
        os.link(source, target)
    except OSError:  # on file systems without links
        shutil.copyfile(source, target)
