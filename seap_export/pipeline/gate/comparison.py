"""The check of parity: the folders of a variant against torch, in results and weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from converters.comparison import Comparison as Written
from seap_export.errors import ArtifactError, ParityFailure
from seap_export.pipeline.folder.contents import FormatFolder, Variant
from seap_export.pipeline.gate.bisection import bisect_variant
from seap_export.pipeline.gate.parity import check_parity, prompts_of
from seap_export.pipeline.gate.report import NOT_JUDGED, Check
from seap_export.pipeline.gate.request import ValidationRequest
from seap_export.pipeline.progress import Progress
from validation.parity.stage import StageResult
from validation.runtimes.table import REFERENCE, runtime_row, runtime_title

#: The most differing weights that are named, since all weights of a wrong file differ.
_MOST_WEIGHTS = 5


def pairs_of(variant: Variant, runtimes: Sequence[str]) -> list[tuple[FormatFolder, str]]:
    """The folders of a variant that are compared with torch, each with a runtime: one of these, or its usual one."""
    return [
        (folder, runtime)
        for folder in variant.folders.values()
        for runtime in (folder.runtimes if runtimes else folder.runtimes[:1])
        if runtime != REFERENCE and (not runtimes or runtime in runtimes)
    ]


class Comparison:
    """Compares the folders of one variant."""

    def __init__(
        self,
        variant: Variant,
        request: ValidationRequest,
        progress: Progress,
        known: Mapping[str, Mapping[str, Any]],
        compared: Callable[[Path], Written],
    ) -> None:
        """`known` are parity reports of folders that were just compared; `compared` compares one with its model."""
        self._variant, self._request, self._progress, self._known = variant, request, progress, known
        self._compared = compared
        self.pairs = pairs_of(variant, request.runtimes)
        self.reports: dict[str, Mapping[str, Any]] = {}
        self.bisection: dict[str, Any] | None = None

    def check(self, folder: FormatFolder, runtime: str) -> Check:
        """Compares one of the pairs; a failure is reported at once, and traced if the request asks for it."""
        reasons, notes, code = [], (), ParityFailure.exit_code
        stages: Sequence[StageResult] = ()
        weights: Sequence[str] = ()
        try:
            report, stages = self._logits(folder, runtime)
            first, *others = report["reasons"] or [""]
            reasons += [f"{first}; {report['hint']}", *others] if first else []
            code = NOT_JUDGED if report["verdict"] == "not judged" else code
            notes = report.get("notes", ())
            self._progress.say(f"{self._variant.name}: comparing weights")
            weights = self._compared(folder.path).weights
            code = ParityFailure.exit_code if weights else code
            reasons += [f"weights: {line}" for line in weights[:_MOST_WEIGHTS]]
            if len(weights) > _MOST_WEIGHTS:
                reasons.append(f"weights: {len(weights) - _MOST_WEIGHTS} more differ")
        except ParityFailure as error:
            reasons, code = [*reasons, str(error)], ParityFailure.exit_code
        except ArtifactError as error:
            reasons, code = [str(error)], ArtifactError.exit_code
        subject = f"{folder.name} in {runtime}" if len(self.pairs) > 1 else None
        check = Check.of(self._variant.name, "parity", reasons, code, notes, subject)
        if reasons:
            self._progress.say(check.line)
        if reasons and code == ParityFailure.exit_code and self._request.bisect and runtime_row(runtime).traces:
            return self._bisected(check, folder, stages, weights)
        return check

    def _logits(self, folder: FormatFolder, runtime: str) -> tuple[Mapping[str, Any], Sequence[StageResult]]:
        """The report, and its inputs unless the report is an earlier one."""
        stages: Sequence[StageResult] = ()
        report = self._known.get(folder.name)
        if report is None or report["runtime"] != runtime:
            self._progress.say(f"{self._variant.name}: comparing {runtime_title(runtime)} with torch")
            settings = self._request.parity
            prompts = prompts_of(self._variant, self._request.prompt_file, settings.prompts)
            parity = check_parity(
                self._variant, folder.name, runtime, prompts, settings, self._progress.say, self._request.compute
            )
            report, stages = parity.to_json(), parity.stages
            self._progress.say(f"{self._variant.name}: {parity.summary()}")
        self.reports[f"{folder.name} in {runtime}" if folder.name in self.reports else folder.name] = report
        return report, stages

    def _bisected(
        self, check: Check, folder: FormatFolder, stages: Sequence[StageResult], weights: Sequence[str]
    ) -> Check:
        """The check with the first divergence in its first reason, if that is found."""
        variant, request = self._variant, self._request
        bisection = bisect_variant(
            variant, folder, request.parity, request.prompt_file, stages, weights, self._progress, request.compute
        )
        if bisection is None:
            return check
        self.bisection = bisection.to_json()
        if bisection.first is None:
            return check
        where = f"the first divergence is at {bisection.first.name}"
        self._progress.say(f"{variant.name}: {where}")
        first, *others = check.reasons
        return replace(check, reasons=(f"{first}; {where}", *others))
