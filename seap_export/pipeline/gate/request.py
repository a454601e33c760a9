"""The request of a validation: variants, checks, limits and where they run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from seap_export.errors import UsageError
from seap_export.model.layers.compute import Compute
from seap_export.pipeline.evaluation.bench_request import BenchRequest
from seap_export.pipeline.evaluation.request import EvaluationRequest
from seap_export.pipeline.gate.report import CHECKS, CheckName
from seap_export.pipeline.request.settings import ParitySettings
from validation.speed.gate import SpeedLimits


@dataclass(frozen=True)
class ValidationRequest:
    """The checks of a validation and their settings.

    Attributes:
        variants: Names of the variants; None: all.
        checks: Checks to run where they apply; quality and speed need the dense model and a limit.
        parity: How written folders and torch are compared.
        runtimes: The runtimes of parity; empty: for each folder, the first runtime of its format.
        prompt_file: Prompts for parity; None: the held-out texts of the export.
        bisect: Whether a failed parity is followed to the sublayer that diverges first.
        signed_by: Public key with which every variant must be signed; None: signatures are mentioned, not checked.
        dense: The dense model, for quality and speed.
        quality: Texts, tasks and limits of the quality gate; None: no gate.
        min_accuracy_retained: Least share of the dense model's accuracy, as the export measured both; None: no gate.
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
    signed_by: Path | None = None
    dense: str | None = None
    quality: EvaluationRequest | None = None
    min_accuracy_retained: float | None = None
    speed: SpeedLimits | None = None
    bench: BenchRequest = field(default_factory=BenchRequest)
    compute: Compute | None = None

    def __post_init__(self) -> None:
        if not self.checks:
            raise UsageError("no check is given; give at least one --check")
        if self.signed_by is not None and "integrity" not in self.checks:
            raise UsageError("--signed-by is a part of the check integrity; add --check integrity")
        if (self.quality or self.speed) and self.dense is None:
            raise UsageError("the limits of quality and speed are against the dense model; give it as --dense")
        least = self.min_accuracy_retained
        if least is not None and not 0.0 <= least < math.inf:
            raise UsageError(f"--min-accuracy-retained {least:g} is out of range; give 0 or more")
        judged = least if self.quality is None else self.quality
        for name, gate in (("quality", judged), ("speed", self.speed)):
            if gate is None and name in self.checks and self.checks == (name,):
                raise UsageError(f"--check {name} needs a limit; see 'seap-export validate --help'")
