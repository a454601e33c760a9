"""The step that computes a task's calibration statistics by running its texts through the dense model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seap_export.corpus import Split, text_digest
from seap_export.model.sources.source import Source
from seap_export.pipeline.cost.sizes import Sizes
from seap_export.pipeline.folder.keys import RELEASE
from seap_export.pipeline.folder.names import calibration_step
from seap_export.pipeline.progress import Advance
from seap_export.pipeline.request.options import CalibrationSettings
from seap_export.pipeline.steps.step import PathStep, StepContext
from seap_export.pipeline.texts.split_tasks import tokenize
from seap_export.pruning.activations.statistics import (
    CALIBRATION_SCHEMA,
    CalibrationRecord,
    covariance_bytes,
    write_record,
)
from validation.quiet import quiet_transformers

#: Increased when the same inputs give different bytes than before, so that older steps are not reused.
_VERSION = 2


@dataclass(frozen=True)
class CalibrationStep(PathStep):
    """Runs a task's texts through the dense model."""

    resumes = True

    task: str
    split: Split
    settings: CalibrationSettings
    model: str
    layers: int
    checks: bool

    @property
    def name(self) -> str:
        return calibration_step(self.task)

    @property
    def tasks(self) -> tuple[str, ...]:
        return (self.task,)

    @property
    def label(self) -> str:
        return f"calibrating {self.task}"

    @property
    def reused(self) -> str:
        return f"calibration of {self.task}: reused"

    @property
    def units(self) -> int:
        return self.layers

    def size(self, dense: Sizes) -> int:
        spec, tokens = dense.spec, self.split.num_tokens or 0
        return covariance_bytes(spec, tokens) + 16 * sum(spec.channels) + 4 * tokens  # two moments in float64

    @property
    def _held_out(self) -> list[dict[str, str]]:
        """The held-out samples for the record; the question only if it is not the prompt or the completion."""
        samples = self.split.held_out
        parts = [{"prompt": sample.prompt, "completion": sample.completion} for sample in samples]
        questions = [self.split.question(sample) for sample in samples]
        return [
            of if question in of.values() else {**of, "question": question}
            for of, question in zip(parts, questions, strict=True)
        ]

    def _inputs(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "model": self.model,
            "answers": settings.answers == "model",
            "seed": settings.seed,
            "max_length": settings.max_length,
            "calibration texts": self.split.digests()["calibration"],
            "held-out texts": [list(held_out.values()) for held_out in self._held_out],
            RELEASE: [CALIBRATION_SCHEMA, _VERSION],
        }

    def make(self, work: StepContext, path: Path, advance: Advance) -> None:
        from seap_export.pruning.activations.calibrate import collect_statistics, storage_for

        source = work.source
        for name in source.spec.outer_names[1:]:
            source.read_outer(name)  # not used here, but NaN weights should be reported before the work begins
        token_ids = tokenize(source, {self.task: self.split.calibration}, self.settings.max_length)[self.task]
        work.progress.say(f"{self.task}: {storage_for(source, token_ids, path, work.compute).description}")
        with quiet_transformers():
            collect_statistics(source, token_ids, path, work.compute, check=self.checks, on_layer=advance)
        write_record(path, self._record(source, sum(map(len, token_ids))))

    def _record(self, source: Source, num_tokens: int) -> CalibrationRecord:
        digests = self.split.digests()
        return CalibrationRecord(
            task=self.task,
            source_name=source.name,
            source_sha256=source.digest,
            seed=self.settings.seed,
            max_length=self.settings.max_length,
            num_tokens=num_tokens,
            calibration_texts=tuple(digests["calibration"]),
            held_out_texts=tuple(digests["held_out"]),
            held_out=tuple(self._held_out),
            calibration_prompts=tuple(sorted(text_digest(sample.prompt) for sample in self.split.calibration))
            if self.settings.answers == "model"
            else (),
        )


def calibration_steps(
    source: Source, splits: Mapping[str, Split], settings: CalibrationSettings
) -> dict[str, CalibrationStep]:
    """The step of each task; the first one compares the walk with transformers."""
    layers = len(source.spec.layers)
    return {
        task: CalibrationStep(task, split, settings, source.digest, layers, checks=index == 0)
        for index, (task, split) in enumerate(splits.items())
    }
