"""The outcome of a validation: what was checked, the verdicts, and what is needed to repeat it."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from converters.format import Format
from converters.formats import row_of
from seap_export.common.checksums import shipped_bytes
from seap_export.common.json_file import read_json_if_present
from seap_export.errors import EnvironmentFailure, SeapError
from seap_export.model.families import ModelSpec
from seap_export.pipeline.evaluation.memory import memory_of
from seap_export.pipeline.folder.contents import FormatFolder, Variant
from seap_export.pipeline.folder.manifest import Manifest, package_versions
from seap_export.pipeline.folder.names import HF
from seap_export.pipeline.gate.dense_size import dense_bytes
from seap_export.pruning.distillation.learning import LEARNT
from seap_export.runtime.doctor.machine import processor

VALIDATION_SCHEMA = "seap-export/validation/2"
CheckName = Literal["integrity", "parity", "router", "quality", "speed"]
CHECKS: tuple[CheckName, ...] = get_args(CheckName)
#: What a report repeats of the manifest on the dense model; manifests of before have no size.
_OF_SOURCE = ("name", "sha256", "bytes")
#: "not judged": the machine is too noisy, or there are too few tokens.
Verdict = Literal["passed", "failed", "not judged", "skipped"]
#: The exit code that goes with it.
NOT_JUDGED = EnvironmentFailure.exit_code
#: The first of these codes among the failures becomes the exit code: damage comes before its consequences.
_WORST_FIRST = (7, 3, 4, 5, 6)


@dataclass(frozen=True)
class Check:
    """One check of a variant, or of the folder.

    Attributes:
        variant: Name of the variant; None: the folder as a whole.
        exit_code: Exit code of the command if this were the only such check; 0 if it passed or was skipped.
        reasons: Reasons why the check failed or could not judge.
        notes: Further remarks, or the reason why the check was skipped.
        subject: The folder or runtime that was checked, if the variant has several such checks.
    """

    variant: str | None
    check: CheckName
    verdict: Verdict
    exit_code: int = 0
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    subject: str | None = None

    def __post_init__(self) -> None:
        is_clean = self.verdict in ("passed", "skipped")
        if is_clean != (self.exit_code == 0) or is_clean == bool(self.reasons):
            raise ValueError("a check that did not pass needs an exit code and a reason; others must have neither")

    @classmethod
    def of(
        cls,
        variant: str | None,
        check: CheckName,
        reasons: Sequence[str],
        exit_code: int,
        notes: Sequence[str] = (),
        subject: str | None = None,
    ) -> Check:
        """A check that failed for these reasons, or was not judged by its code, or passed if there are none."""
        if not reasons:
            return cls(variant, check, "passed", notes=tuple(notes), subject=subject)
        verdict: Verdict = "not judged" if exit_code == NOT_JUDGED else "failed"
        return cls(variant, check, verdict, exit_code, tuple(reasons), tuple(notes), subject)

    @property
    def line(self) -> str:
        """The check that did not pass and its first reason, in one line."""
        more = f" (and {len(self.reasons) - 1} more)" if len(self.reasons) > 1 else ""
        name = "" if self.variant is None else f"{self.variant}: "
        subject = "" if self.subject is None else f" of {self.subject}"
        return f"{name}{self.check}{subject}: {self.reasons[0]}{more}"


@dataclass(frozen=True)
class ValidationReport:
    """All checks of a folder.

    Attributes:
        checks: Checks in the order they were made.
        variants: Description of each variant; see `describe_variant`.
        manifest: Manifest of the output folder; None: there is none.
        threads: Threads of torch and ONNX Runtime.
        frontier: The candidates that the variants were chosen from; None: there were no targets.
        whole: The whole models that were measured beside the variants, by name.
        recommended: What to ship for each task and mixture; see `seap_export.pipeline.gate.recommended`.
    """

    name: str
    checks: tuple[Check, ...]
    variants: Mapping[str, Mapping[str, Any]]
    manifest: Manifest | None
    threads: int
    frontier: Mapping[str, Any] | None = None
    whole: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    recommended: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    failures: tuple[Check, ...] = field(init=False)

    def __post_init__(self) -> None:
        if not any(check.verdict != "skipped" for check in self.checks):
            raise ValueError("a validation needs at least one check")
        failed = [check for check in self.checks if check.exit_code]
        ranked = sorted(failed, key=lambda check: _WORST_FIRST.index(check.exit_code))
        object.__setattr__(self, "failures", tuple(ranked))

    @property
    def passed(self) -> bool:
        """Whether no check failed, and none could not judge."""
        return not self.failures

    @property
    def verdict(self) -> Verdict:
        """That of the first of `failures`, or that it passed."""
        return self.failures[0].verdict if self.failures else "passed"

    @property
    def exit_code(self) -> int:
        """The exit code of the command: that of the first failure, or 0."""
        return self.failures[0].exit_code if self.failures else 0

    @property
    def failure(self) -> str:
        """The first check that did not pass, and how many others there are, in one line; "" if all did."""
        if self.passed:
            return ""
        others = len(self.failures) - 1
        more = f"; {others} more {'check' if others == 1 else 'checks'} failed" if others else ""
        return f"{self.failures[0].line}{more}"

    def refuse_failures(self) -> None:
        """Raises the error that goes with the exit code, if anything failed."""
        if not self.passed:
            raise next(kind for kind in SeapError.__subclasses__() if kind.exit_code == self.exit_code)(self.failure)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values; the same run gives the same text, without times."""
        manifest = self.manifest or Manifest()
        return {
            "schema": VALIDATION_SCHEMA,
            "verdict": self.verdict,
            "exit_code": self.exit_code,
            "failure": self.failure,
            "name": self.name,
            "source": {key: manifest.source[key] for key in _OF_SOURCE if key in manifest.source} or None,
            "checks": [
                {**asdict(check), "reasons": list(check.reasons), "notes": list(check.notes)} for check in self.checks
            ],
            "variants": {name: dict(values) for name, values in sorted(self.variants.items())},
            "tasks": manifest.tasks,
            **({} if self.frontier is None else {"frontier": self.frontier}),
            **({"whole": dict(sorted(self.whole.items()))} if self.whole else {}),
            **({"recommended": dict(sorted(self.recommended.items()))} if self.recommended else {}),
            "files": manifest.files,
            "versions": package_versions(),
            "machine": {
                "processor": processor(),
                "system": platform.platform(),
                "python": platform.python_version(),
                "threads": self.threads,
            },
        }


def describe_variant(variant: Variant, manifest: Manifest | None, results: Mapping[str, Any]) -> dict[str, Any]:
    """Describes a variant for a report, as far as its files can be read.

    Args:
        manifest: Manifest of the output folder, for the dense model's size.
        results: The reports of its checks: `parity` by folder, `bisect`, `quality`, `speed`. Quality and speed that
            were not checked are those that the export recorded.
    """
    plan, spec = (_readable(variant, name) for name in ("plan", "spec"))
    formats = {name: _readable(folder, "format") for name, folder in variant.folders.items()}
    sizes = {name: shipped_bytes(variant.path / name) for name in dict.fromkeys([HF, *formats])}
    source = manifest.source if manifest else {}
    return {
        "task": None if plan is None else plan.task,
        "method": None if plan is None else plan.method,
        "requested_ratio": None if plan is None else plan.requested_ratio,
        "achieved_ratio": None if plan is None else plan.achieved_ratio,
        "num_parameters": None if spec is None else spec.num_parameters(),
        "dense_parameters": source.get("num_parameters"),
        "formats": {
            name: {
                "title": row_of(format).title,
                "format": format.name,
                "precision": format.precision,
                "form": format.settings(),
            }
            for name, format in formats.items()
            if format is not None and name != HF
        },
        "bytes": sizes,
        "dense_bytes": {name: _dense_bytes(variant, folder) for name, folder in variant.folders.items()},
        "memory_about": {name: _memory(variant.path / name, format) for name, format in formats.items() if name != HF},
        "layers": [] if spec is None else _layers(spec, source.get("prunable_weights")),
        "learning": read_json_if_present(variant.path / HF / LEARNT),
        "parity": results.get("parity", {}),
        **{name: results.get(name) for name in ("bisect", "quality", "speed")},
    }


def _layers(spec: ModelSpec, dense_weights: int | None) -> list[dict[str, Any]]:
    """Shapes, and the kept share of prunable weights, of layers that all had the same shape."""
    weights = [spec.prunable_weights(index) for index in range(len(spec.layers))]
    whole = max(weights) if dense_weights is None else dense_weights / len(weights)
    return [
        {**layer.sizes, "kept": min(weight / whole, 1.0)} for layer, weight in zip(spec.layers, weights, strict=True)
    ]


def _dense_bytes(variant: Variant, folder: FormatFolder) -> int | None:
    with suppress(SeapError, OSError):  # the integrity check says why
        return dense_bytes(variant, folder)
    return None


def _memory(folder: Path, format: Format | None) -> int | None:
    with suppress(SeapError, OSError):  # the integrity check says why
        return memory_of(folder, format)
    return None


def _readable(contents: Variant | FormatFolder, name: str) -> Any:
    """An attribute of a variant or a folder that is read from its files; None if these are missing or damaged."""
    try:
        return getattr(contents, name)
    except (SeapError, OSError):  # the integrity check says why
        return None
