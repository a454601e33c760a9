"""The whole gate: runs every requested check on an output folder or on one variant."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from converters.formats import FORMATS
from seap_export.common.checksums import SUMS, checksum_damages, read_checksums
from seap_export.common.toml_file import either
from seap_export.errors import ArtifactError, UsageError, refuse_missing
from seap_export.model.sources.open import open_source
from seap_export.pipeline.evaluation.bench import bench
from seap_export.pipeline.evaluation.bench_request import refuse_long_prompts
from seap_export.pipeline.evaluation.quality import recorded_quality
from seap_export.pipeline.evaluation.speed import recorded_speed, speed_json
from seap_export.pipeline.folder.contents import Export, Variant
from seap_export.pipeline.folder.manifest import MANIFEST, Manifest
from seap_export.pipeline.folder.names import PLAN
from seap_export.pipeline.folder.origin import refuse_another_model
from seap_export.pipeline.folder.rounded import compared
from seap_export.pipeline.gate.code import code_damages
from seap_export.pipeline.gate.comparison import Comparison, pairs_of
from seap_export.pipeline.gate.integrity import folder_damages, variant_damages
from seap_export.pipeline.gate.quality_check import ACCURACY_OF, accuracy_checks, quality_checks
from seap_export.pipeline.gate.recommended import Limits, recommended
from seap_export.pipeline.gate.report import Check, CheckName, ValidationReport, describe_variant
from seap_export.pipeline.gate.request import ValidationRequest
from seap_export.pipeline.gate.router_check import router_damages
from seap_export.pipeline.gate.signature import refuse_unusable_key, signature_damages, signatures
from seap_export.pipeline.gate.whole import beaten_by, whole_rows
from seap_export.pipeline.progress import Progress, Silent
from seap_export.pipeline.targets.frontier import read_frontier
from seap_export.runtime.manifest import ROUTER_FOLDER
from seap_export.runtime.session import available_threads, probe
from validation.runtimes.table import require_runtime
from validation.speed.gate import judge_speed

#: Parity reports by variant and folder.
_Known = Mapping[str, Mapping[str, Mapping[str, Any]]]
_ALONE = f"files were compared with {SUMS} in the folder itself, as no {MANIFEST} beside it lists them"
_BY_HAND = f"the folder has no {SUMS} of its own, so that only its formats' folders were compared with theirs"


def validate(
    path: Path,
    request: ValidationRequest,
    progress: Progress | None = None,
    known_parity: _Known | None = None,
) -> ValidationReport:
    """Checks an output folder of `export`, or one variant in it.

    A variant whose files are damaged is not run. One model is in memory at a time.

    Args:
        request: The checks and their settings.
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
        self._export = Export(path)
        self._compared = cache(compared)  # of each folder the form here, and the weights there
        # a format's folder alone, or a copy of a repository that `push` filled
        self._is_listed_folder = _is_listed_folder(path)
        self._variants = self._chosen_variants()
        self._manifest = self._recorded_manifest()

    def report(self) -> ValidationReport:
        """Runs all requested checks and returns their report."""
        self._refuse_missing_runtime()
        self._refuse_unusable_dense()
        if self._request.signed_by is not None:
            refuse_unusable_key(self._request.signed_by)
        if self._export.exists and self._asks("integrity"):
            self._add(Check.of(None, "integrity", folder_damages(self._export), 7))
        if self._is_listed_folder and self._asks("integrity"):
            damages = checksum_damages(self._path) or code_damages(self._path)
            note = f"{self._path} was compared with its {SUMS} alone; give a variant's folder for the other checks"
            self._add(Check.of(None, "integrity", damages, ArtifactError.exit_code, [note]))
        for variant in self._variants:
            self._results[variant.name] = {}
            is_sound = self._integrity(variant)
            if self._asks("parity"):
                self._parity(variant, is_sound)
            if self._request.quality is not None and self._asks("quality"):
                self._quality(variant, is_sound)
            if self._request.min_accuracy_retained is not None and self._asks("quality"):
                self._accuracy(variant, is_sound, self._request.min_accuracy_retained)
        self._router()
        self._speed()
        if not any(check.verdict != "skipped" for check in self._checks):
            raise UsageError(
                f"{self._path}: {', '.join(self._request.checks)} cannot be checked here; use another --check"
            )
        variants = {
            variant.name: describe_variant(
                variant, self._manifest, self._recorded(variant) | self._results[variant.name]
            )
            for variant in self._variants
        }
        tasks = {variant["task"] for variant in variants.values()}
        whole = whole_rows(self._export, tasks) if self._export.exists else {}
        frontier = read_frontier(self._path) if self._export.exists else None
        limits, failed = self._limits(frontier), self._failed(variants)
        return ValidationReport(
            name=self._name(),
            checks=tuple(self._checks),
            variants={
                name: {**variant, "beaten_by": beaten_by(name, variants, whole)} for name, variant in variants.items()
            },
            manifest=self._manifest,
            threads=self._request.parity.threads or available_threads(),
            frontier=frontier,
            whole=whole,
            recommended=recommended(variants, whole, limits, failed, frontier) if self._export.exists else {},
        )

    def _limits(self, frontier: Mapping[str, Any] | None) -> Limits:
        """The limits of this validation, and the targets that the variants were made to meet."""
        targets = None if frontier is None else frontier["targets"]
        request = self._request
        max_kl = None if request.quality is None else request.quality.max_kl
        return Limits.of_targets(targets, max_kl, request.min_accuracy_retained)

    def _failed(self, variants: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
        """The variants, and their folders, that did not pass a check; one without a subject concerns all folders."""
        return [
            (check.variant, folder)
            for check in self._checks
            if check.exit_code and check.variant is not None
            for folder in variants[check.variant]["formats"]
            if check.subject is None or check.subject.removeprefix(ACCURACY_OF).split(" in ")[0] == folder
        ]

    def _recorded(self, variant: Variant) -> dict[str, Any]:
        """Quality and speed as the export measured them, if its files are unchanged."""
        if self._manifest is None or not self._is_sound(variant):
            return {}
        return {"quality": recorded_quality(variant), "speed": recorded_speed(variant)}

    def _refuse_missing_runtime(self) -> None:
        """Tries runtimes and execution providers before anything is hashed or computed."""
        request = self._request
        compared = [runtime for variant in self._variants for _, runtime in pairs_of(variant, request.runtimes)]
        judges = request.quality is not None and self._asks("quality")
        if self._asks("parity") or judges:
            if request.runtimes and not compared:
                runtimes = either(request.runtimes)
                raise UsageError(f"{self._path}: no folder here runs in {runtimes}; give another --runtime")
            for runtime in dict.fromkeys(compared):
                require_runtime(runtime)
        used = [request.parity.provider] if self._asks("parity") else []
        used += [request.quality.provider] if request.quality is not None and judges else []
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
        for variant in self._variants:
            with suppress(ArtifactError):  # of the plan, which the integrity check reports
                refuse_another_model(source, variant.plan, variant.name)

    def _name(self) -> str:
        """The name of the variant, or of the dense model, since an output folder may have any name."""
        source = self._manifest.source if self._export.exists and self._manifest else {}
        return str(source.get("name") or self._path.resolve().name)

    def _chosen_variants(self) -> list[Variant]:
        path, names = self._path, self._request.variants
        if self._export.exists:
            variants = sorted(self._export.variants, key=lambda variant: variant.name)
            return [variant for variant in variants if names is None or variant.name in names]
        refuse_missing(path)
        if self._is_listed_folder:
            self._refuse_more_than_files()
            return []
        if not any((path / part).exists() for part in (PLAN, *FORMATS)):
            if (path / "calibration").is_dir() or any(path.glob(f"*/{PLAN}")):
                raise ArtifactError(f"{path}: {MANIFEST} is missing; export again, or copy the whole folder")
            raise UsageError(
                f"{path} is neither an export nor a variant; give an output folder of 'seap-export export' or a "
                "variant in it"
            )
        return [Variant(path.resolve())]  # "." has a parent, too

    def _refuse_more_than_files(self) -> None:
        given = self._request
        further = given.signed_by or given.quality or given.speed or given.runtimes or given.bisect
        if further or not self._asks("integrity"):
            raise UsageError(f"{self._path}: of such a folder, only the files can be checked; give a variant's folder")

    def _recorded_manifest(self) -> Manifest | None:
        """The manifest of the output folder, if it knows a variant that is checked alone."""
        if self._export.exists:
            return self._export.manifest
        for variant in self._variants:
            return variant.export.manifest if variant.export.parts_of(variant.name) else None
        return None

    def _asks(self, check: CheckName) -> bool:
        return check in self._request.checks

    def _add(self, check: Check) -> None:
        self._checks.append(check)
        if check.exit_code:
            self._progress.say(check.line)

    def _skip(self, variant: str | None, check: CheckName, why: str, subject: str | None = None) -> None:
        self._add(Check(variant, check, "skipped", notes=(why,), subject=subject))

    def _integrity(self, variant: Variant) -> bool:
        if not self._asks("integrity"):
            return True
        self._progress.say(f"{variant.name}: checking files")
        reasons = variant_damages(variant, self._manifest is not None, self._compared)
        notes = [] if self._manifest else [_ALONE if (variant.path / SUMS).exists() else _BY_HAND]
        if self._manifest and variant.name in self._manifest.variants and (mix := self._manifest.mix(variant.name)):
            notes.append(f"its steps were not all made with the same packages and threads ({mix})")
        if self._request.signed_by is not None:
            reasons += signature_damages(variant, self._request.signed_by)
        else:
            notes += [
                f"the signature {path.name} was not checked; give the signer's public key as --signed-by"
                for path in signatures(variant)
            ]
        self._add(Check.of(variant.name, "integrity", reasons, ArtifactError.exit_code, notes))
        return not reasons

    def _parity(self, variant: Variant, is_sound: bool) -> None:
        if not is_sound:
            self._skip(variant.name, "parity", "its files are damaged")
            return
        comparison = Comparison(
            variant, self._request, self._progress, self._known.get(variant.name, {}), self._compared
        )
        if not comparison.pairs:
            self._skip(variant.name, "parity", "there is no folder beside hf that a given runtime runs")
        self._checks += [comparison.check(folder, runtime) for folder, runtime in comparison.pairs]
        self._results[variant.name]["parity"] = comparison.reports
        if comparison.bisection is not None:
            self._results[variant.name]["bisect"] = comparison.bisection

    def _quality(self, variant: Variant, is_sound: bool) -> None:
        if not is_sound:
            self._skip(variant.name, "quality", "its files are damaged")
            return
        recorded = self._recorded(variant).get("quality") or {}
        checks, report = quality_checks(variant, self._request, recorded, self._progress)
        for check in checks:
            self._add(check)
        if report is not None:
            self._results[variant.name]["quality"] = report

    def _accuracy(self, variant: Variant, is_sound: bool, least: float) -> None:
        recorded = (self._recorded(variant).get("quality") or {}) if is_sound else {}
        for check in accuracy_checks(variant, recorded, least):
            self._add(check)

    def _router(self) -> None:
        if self._asks("router") and self._export.exists and ROUTER_FOLDER in self._export.manifest.steps:
            self._progress.say("router: checking")
            self._add(Check.of(None, "router", router_damages(self._export), ArtifactError.exit_code))

    def _speed(self) -> None:
        limits = self._request.speed
        if limits is None or not self._asks("speed") or self._request.dense is None:
            return
        sound = [variant for variant in self._variants if self._is_sound(variant)]
        if not sound:
            self._skip(None, "speed", "every variant has damaged files")
            return
        paths = [str(variant.path) for variant in sound]
        report = bench(paths, self._request.dense, self._request.bench, self._progress)
        verdicts = judge_speed(report, limits)
        for variant in sound:
            judged = [verdict for verdict in verdicts if verdict.variant == variant.name]
            self._results[variant.name]["speed"] = speed_json(report, variant.name, limits, judged)
            failed, noisy = (
                [verdict.result for verdict in judged if verdict.verdict == kind] for kind in ("failed", "too noisy")
            )
            # Verdicts that are certain come first; if there are none, the machine is too noisy to decide.
            self._add(Check.of(variant.name, "speed", failed or noisy, 5 if failed else 6, noisy if failed else ()))

    def _is_sound(self, variant: Variant) -> bool:
        return not any(check.variant == variant.name and check.exit_code == 7 for check in self._checks)


def _is_listed_folder(path: Path) -> bool:
    """Whether a folder is no variant and has a list of its files."""
    return (path / SUMS).exists() and not (path / PLAN).exists() and PLAN not in read_checksums(path)
