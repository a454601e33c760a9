"""The step that lets the dense model write fresh texts of a task, to refit and distil on."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seap_export.model.layers.kept import UNFINISHED
from seap_export.pipeline.folder.dense_folder import dense_folder
from seap_export.pipeline.folder.keys import RELEASE
from seap_export.pipeline.folder.names import fresh_step
from seap_export.pipeline.progress import Advance
from seap_export.pipeline.steps.single.calibration import CalibrationStep
from seap_export.pipeline.steps.step import PathStep, StepContext
from seap_export.pruning.activations.statistics import TOKENS, Calibration, read_tokens, write_tokens
from validation.generation.fresh import PARTS, write_fresh_texts

#: Increased when the same inputs give different bytes than before.
_VERSION = 2


@dataclass(frozen=True)
class FreshStep(PathStep):
    """Lets the dense model continue the beginnings of a task's calibration texts."""

    resumes = True
    unit = "parts"

    calibration: CalibrationStep
    number: int

    @property
    def name(self) -> str:
        return fresh_step(self.calibration.task)

    @property
    def needs(self) -> tuple[PathStep, ...]:
        return (self.calibration,)

    @property
    def label(self) -> str:
        return f"writing fresh texts of {self.calibration.task}"

    @property
    def reused(self) -> str:
        return f"fresh texts of {self.calibration.task}: reused"

    @property
    def units(self) -> int:
        return PARTS

    def _inputs(self) -> dict[str, Any]:
        return {self.calibration.name: self.calibration.key, "fresh_tokens": self.number, RELEASE: _VERSION}

    def make(self, work: StepContext, path: Path, advance: Advance) -> None:
        """Writes the token ids of the texts."""
        unfinished = path / UNFINISHED
        unfinished.mkdir(exist_ok=True)
        statistics = Calibration(work.of_task(self.calibration))
        with dense_folder(work.source) as model:
            fresh = write_fresh_texts(
                model, statistics, self.number, unfinished, compute=work.compute, on_part=advance
            )
        write_tokens(path / TOKENS, fresh.texts)
        shutil.rmtree(unfinished)
        work.progress.say(f"{self.calibration.task}: {fresh.summary}")

    def token_ids(self, work: StepContext) -> list[list[int]]:
        """The token ids of the texts, once they are made."""
        return read_tokens(work.of_task(self) / TOKENS)
