"""The whole gate: runs every requested check on an output folder or on one variant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from converters.formats import FORMATS, format_class, format_folders
from seap_export.errors import ArtifactError, InputError, ParityFailure, UsageError
from seap_export.layers.compute import Compute
from seap_export.pipeline.evaluation.bench import BenchRequest, bench, refuse_long_prompts
from seap_export.pipeline.evaluation.evaluate import evaluate
from seap_export.pipeline.evaluation.quality import recorded_quality
from seap_export.pipeline.evaluation.request import EvaluationRequest
from seap_export.pipeline.evaluation.speed import recorded_speed, speed_json
from seap_export.pipeline.folder.manifest import MANIFEST, Manifest, read_manifest
from seap_export.pipeline.folder.origin import refuse_another_model
from seap_export.pipeline.folder.performance import read_performance
from seap_export.pipeline.folder.rounded import differences
from seap_export.pipeline.gate.bisection import bisect_variant
from seap_export.pipeline.gate.integrity import folder_damages, variant_damages
from seap_export.pipeline.gate.parity import check_parity, prompts_of
from seap_export.pipeline.gate.report import CHECKS, Check, CheckName, ValidationReport, describe_variant
from seap_export.pipeline.gate.router_check import router_damages
from seap_export.pipeline.progress import Progress, Silent
from seap_export.pipeline.request.measured import ONNX
from seap_export.pipeline.request.settings import ParitySettings
from seap_export.pipeline.targets.frontier import read_frontier
from seap_export.plan.plan import read_plan
from seap_export.runtime.manifest import ROUTER_FOLDER
from seap_export.runtime.session import available_threads, probe
from seap_export.sources.source import open_source
from seap_export.toml_file import either
from validation.runtimes.table import REFERENCE, require_runtime, runtime_row, runtime_title
from validation.speed.gate import SpeedLimits, judge_speed, reason

__all__ = ["ValidationRequest", "validate"]

#: Parity reports by variant and folder.
_Known = Mapping[str, Mapping[str, Mapping[str, Any]]]
#: The most differing weights that are named, since all weights of a wrong file differ.
_MOST_WEIGHTS = 5


@dataclass(frozen=True)
class ValidationRequest:
    """What to check.

    Attributes:
        variants: Names of the variants; None: all.
        checks: Checks to run where they apply; quality and speed need the dense model and a limit.
        parity: How written folders and torch are compared.
        runtimes: The runtimes of parity; empty: of each folder's format the first.
        prompt_file: Prompts for parity; None: the held-out texts of the export.
        bisect: Whether a failed parity is followed to the sublayer that diverges first.
        dense: The dense model, for quality and speed.
        quality: Texts, tasks and limits of the quality gate; None: no gate.
        speed: Limits of the speed gate; None: no gate.
        bench: How speed is measured.
        compute: Where torch runs, and in how much memory; None: on the CPU, in what is free now.
    """

    variants: tuple[str, ...] | None = None
    checks: tuple[CheckName, ...] = CHECKS
    parity: ParitySettings = ParitySettings()
    runtimes: tuple[str, ...] = ()
    prompt_file: Path | None = None
    bisect: bool = False
    dense: str | None = None
    quality: EvaluationRequest | None = None
    speed: SpeedLimits | None = None
    bench: BenchRequest = field(default_factory=BenchRequest)
    compute: Compute | None = None

    def __post_init__(self) -> None:
        if not self.checks:
            raise UsageError("no check is given; give at least one --check")
        if (self.quality or self.speed) and self.dense is None:
            raise UsageError("the limits of quality and speed are against the dense model; give it as --dense")
        for name, gate in (("quality", self.quality), ("speed", self.speed)):
            if gate is None and name in self.checks and self.checks == (name,):
                raise UsageError(f"--check {name} needs a limit; see 'seap-export validate --help'")


def validate(
    path: Path,
    request: ValidationRequest,
    progress: Progress | None = None,
    known_parity: _Known | None = None,
) -> ValidationReport:
    """Checks an output folder of `export`, or one variant in it.

    A variant whose files are damaged is not run. One model is in memory at a time.

    Args:
        path: The folder.
        request: What to check.
        progress: Reports what happens.
        known_parity: The parity reports of variants that were just compared, by name and folder.

    Returns:
        The report; a failed check is a verdict in it, not an exception.

    Raises:
        UsageError: There is nothing to check at the path, or the request does not fit.
        ArtifactError: An output folder's manifest is missing or damaged.
        InputError: The dense model or a corpus cannot be used.
        EnvironmentFailure: The execution provider is not available, or memory or disk space runs out.
    """
    return _Validation(path, request, progress or Silent(), known_parity or {}).report()


class _Validation:
    def __init__(self, path: Path, request: ValidationRequest, progress: Progress, known: _Known) -> None:
        self._path, self._request, self._progress, self._known = path, request, progress, known
        self._checks: list[Check] = []
        self._results: dict[str, dict[str, Any]] = {}
        self._is_whole = (path / MANIFEST).is_file()
        self._manifest, self._variants = self._found()

    def report(self) -> ValidationReport:
        """Runs all checks."""
        self._refuse_missing_runtime()
        self._refuse_unusable_dense()
        if self._is_whole and self._asks("integrity") and self._manifest is not None:
            self._add(Check.of(None, "integrity", folder_damages(self._path, self._manifest), 7))
        for folder in self._variants:
            self._results[folder.name] = {}
            is_sound = self._integrity(folder)
            if self._asks("parity"):
                self._parity(folder, is_sound)
            if self._request.quality is not None and self._asks("quality"):
                self._quality(folder, is_sound)
        self._router()
        self._speed()
        if not any(check.verdict != "skipped" for check in self._checks):
            raise UsageError(
                f"{self._path}: {', '.join(self._request.checks)} cannot be checked here; use another --check"
            )
        return ValidationReport(
            name=self._name(),
            checks=tuple(self._checks),
            variants={
                folder.name: describe_variant(
                    folder, self._manifest, self._recorded(folder) | self._results[folder.name]
                )
                for folder in self._variants
            },
            manifest=self._manifest,
            threads=self._request.parity.threads or available_threads(),
            frontier=read_frontier(self._path) if self._is_whole else None,
        )

    def _recorded(self, folder: Path) -> dict[str, Any]:
        """Quality and speed as the export measured them, if its files are unchanged."""
        if self._manifest is None or not self._is_sound(folder):
            return {}
        speed = recorded_speed(read_performance(folder.parent), self._manifest, folder.name)
        return {"quality": recorded_quality(folder), "speed": speed}

    def _refuse_missing_runtime(self) -> None:
        """Tries runtimes and execution providers before anything is hashed or computed."""
        request = self._request
        compared = [runtime for folder in self._variants for _, runtime in self._comparisons(folder)]
        if request.runtimes and self._asks("parity") and not compared:
            asked = either(request.runtimes)
            raise UsageError(f"{self._path}: no folder here runs in {asked}; give another --runtime")
        for runtime in dict.fromkeys(compared) if self._asks("parity") else ():
            require_runtime(runtime)
        used = [request.parity.provider] if self._asks("parity") else []
        used += [request.quality.provider] if request.quality is not None and self._asks("quality") else []
        used += [request.bench.provider] if request.speed is not None and self._asks("speed") else []
        for provider in dict.fromkeys(used):
            probe(provider)

    def _refuse_unusable_dense(self) -> None:
        """Makes the checks of quality and speed inputs early, before the slow checks run."""
        if self._request.dense is None or not (self._request.quality or self._request.speed):
            return
        source = open_source(self._request.dense)
        if self._request.speed is not None:
            refuse_long_prompts(source.spec, self._request.bench)
        self._progress.say(f"hashing {source.name}")
        for folder in self._variants:
            with suppress(ArtifactError):  # of the plan, which the integrity check reports
                refuse_another_model(source, read_plan(folder / "plan.json"), folder.name)

    def _name(self) -> str:
        """The name of the variant, or of the dense model, since an output folder may have any name."""
        source = self._manifest.source if self._is_whole and self._manifest else {}
        return str(source.get("name") or self._path.resolve().name)

    def _found(self) -> tuple[Manifest | None, list[Path]]:
        path = self._path
        if self._is_whole:
            manifest = read_manifest(path)
            asked = self._request.variants
            return manifest, [path / name for name in sorted(manifest.variants) if asked is None or name in asked]
        if not any((path / part).exists() for part in ("plan.json", *FORMATS)):
            if (path / "calibration").is_dir() or any(path.glob("*/plan.json")):
                raise ArtifactError(f"{path}: {MANIFEST} is missing; export again, or copy the whole folder")
            raise UsageError(f"{path} is neither an export nor a variant; give OUT, or OUT/TASK-0.2")
        path = path.resolve()  # "." has a parent and a name, too
        manifest = read_manifest(path.parent)
        is_known = any(step.startswith(f"{path.name}/") for step in manifest.steps)
        return manifest if is_known else None, [path]

    def _asks(self, check: CheckName) -> bool:
        return check in self._request.checks

    def _add(self, check: Check) -> None:
        self._checks.append(check)
        if check.verdict == "failed":
            self._progress.say(check.line)

    def _skip(self, variant: str | None, check: CheckName, why: str) -> None:
        self._add(Check(variant, check, "skipped", notes=(why,)))

    def _integrity(self, folder: Path) -> bool:
        if not self._asks("integrity"):
            return True
        self._progress.say(f"{folder.name}: checking files")
        reasons = variant_damages(folder, self._manifest)
        notes = (
            []
            if self._manifest
            else [f"hashes were not compared, because no {MANIFEST} in the parent folder lists this variant"]
        )
        self._add(Check.of(folder.name, "integrity", reasons, ArtifactError.exit_code, notes))
        return not reasons

    def _comparisons(self, folder: Path) -> list[tuple[Path, str]]:
        """The folders of a variant that are compared with torch, each with a runtime."""
        found = []
        for written in format_folders(folder):
            own = format_class(written.name.partition("-")[0]).runtimes
            asked = [name for name in own if name in self._request.runtimes] if self._request.runtimes else own[:1]
            found += [(written, name) for name in asked if name != REFERENCE]
        return found

    def _parity(self, folder: Path, is_sound: bool) -> None:
        if not is_sound:
            self._skip(folder.name, "parity", "its files are damaged")
            return
        self._results[folder.name]["parity"] = {}
        comparisons = self._comparisons(folder)
        if not comparisons:
            self._skip(folder.name, "parity", "there is no folder beside hf that a given runtime runs")
        for written, runtime in comparisons:
            self._compare(folder, written, runtime, f"{written.name} in {runtime}" if len(comparisons) > 1 else None)

    def _compare(self, folder: Path, written: Path, runtime: str, subject: str | None) -> None:
        reasons, notes, code = [], (), ParityFailure.exit_code
        report: Mapping[str, Any] | None = None
        try:
            report = self._logits(folder, written, runtime)
            first, *others = report["reasons"] or [""]
            reasons += [f"{first}; {report['hint']}", *others] if first else []
            notes = report.get("looser_limits", ())
            reasons += self._weights(folder, written)
        except ParityFailure as error:
            reasons.append(str(error))
        except ArtifactError as error:
            reasons, code = [str(error)], ArtifactError.exit_code
        self._add(Check.of(folder.name, "parity", reasons, code, notes, subject))
        if reasons and code == ParityFailure.exit_code and self._request.bisect and runtime_row(runtime).traces:
            self._bisect(folder, report, reasons)

    def _logits(self, folder: Path, written: Path, runtime: str) -> Mapping[str, Any]:
        report = self._known.get(folder.name, {}).get(written.name)
        if report is None or report["runtime"] != runtime:
            self._progress.say(f"{folder.name}: comparing {runtime_title(runtime)} with torch")
            settings = self._request.parity
            prompts = prompts_of(folder, self._request.prompt_file, settings.prompts)
            report = check_parity(
                folder, written.name, runtime, prompts, settings, self._progress.say, self._request.compute
            ).to_json()
        known = self._results[folder.name]["parity"]
        known[f"{written.name} in {runtime}" if written.name in known else written.name] = report
        return report

    def _weights(self, folder: Path, written: Path) -> Iterator[str]:
        self._progress.say(f"{folder.name}: comparing weights")
        try:
            found = list(differences(written))
        except InputError as error:  # here the model is a part of the artifact
            raise ArtifactError(str(error)) from error
        yield from (f"weights: {line}" for line in found[:_MOST_WEIGHTS])
        if len(found) > _MOST_WEIGHTS:
            yield f"weights: {len(found) - _MOST_WEIGHTS} more differ"

    def _bisect(self, folder: Path, parity: Mapping[str, Any] | None, reasons: Sequence[str]) -> None:
        request = self._request
        found = bisect_variant(
            folder, request.parity, request.prompt_file, parity, reasons, self._progress, request.compute
        )
        if found is None:
            return
        self._results[folder.name]["bisect"] = found.to_json()
        if found.first is not None:
            where = f"the first divergence is at {found.first.name}"
            check = self._checks[-1]
            first, *others = check.reasons
            self._checks[-1] = replace(check, reasons=(f"{first}; {where}", *others))
            self._progress.say(f"{folder.name}: {where}")

    def _quality(self, folder: Path, is_sound: bool) -> None:
        if not is_sound or self._request.quality is None:
            self._skip(folder.name, "quality", "its files are damaged")
            return
        self._progress.say(f"{folder.name}: comparing with the dense model")
        try:
            asked = _asked_of(folder, self._request.quality)
            report = evaluate(str(folder), self._request.dense, asked, self._progress, self._request.compute)
        except ArtifactError as error:
            self._add(Check.of(folder.name, "quality", [str(error)], ArtifactError.exit_code))
            return
        self._results[folder.name]["quality"] = report.to_json()
        self._add(Check.of(folder.name, "quality", report.reasons, 4, report.notes))

    def _router(self) -> None:
        is_there = self._manifest is not None and ROUTER_FOLDER in self._manifest.steps
        if self._asks("router") and self._is_whole and is_there and self._manifest is not None:
            self._progress.say("router: checking")
            self._add(Check.of(None, "router", router_damages(self._path, self._manifest), ArtifactError.exit_code))

    def _speed(self) -> None:
        limits = self._request.speed
        if limits is None or not self._asks("speed") or self._request.dense is None:
            return
        sound = [folder for folder in self._variants if self._is_sound(folder)]
        if not sound:
            self._skip(None, "speed", "every variant has damaged files")
            return
        report = bench([str(folder) for folder in sound], self._request.dense, self._request.bench, self._progress)
        verdicts = judge_speed(report, limits)
        for folder in sound:
            own = [verdict for verdict in verdicts if verdict.variant == folder.name]
            self._results[folder.name]["speed"] = speed_json(report, folder.name, limits, own)
            failed, noisy = (
                [reason(verdict).removeprefix(f"{folder.name}: ") for verdict in own if verdict.verdict == kind]
                for kind in ("failed", "too noisy")
            )
            # Verdicts that are certain come first; if there are none, the machine is too noisy to decide.
            self._add(Check.of(folder.name, "speed", failed or noisy, 5 if failed else 6, noisy if failed else ()))

    def _is_sound(self, folder: Path) -> bool:
        return not any(check.variant == folder.name and check.exit_code == 7 for check in self._checks)


def _asked_of(folder: Path, request: EvaluationRequest) -> EvaluationRequest:
    """The same of a variant without ONNX files: of what an export measures there, or else of the model folder."""
    written = {path.name: format_class(path.name.partition("-")[0]) for path in format_folders(folder)}
    if ONNX in written:
        return request
    other = next((own.runtimes[0] for name, own in written.items() if name != "hf"), None)
    if other is None:
        return replace(request, forms=("hf",), provider="cpu")
    return replace(request, forms=(), runtimes=(other,), provider="cpu")
