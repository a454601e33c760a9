"""The outcome of a parity run: figures, verdict, and all that is needed to judge or repeat it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Any, Literal

from validation.metrics import Defect, LogitFigures, Place

__all__ = ["SCHEMA", "ParityReport", "StageResult", "round_up"]

SCHEMA = "seap-export/parity/1"
_WORKING_OPERATORS = frozenset(
    {"FusedMatMul", "GroupQueryAttention", "MatMul", "RMSNormalization", "SkipSimplifiedLayerNormalization"}
)
_DEFECT_WORDS = {"nan": "NaN", "inf": "Inf"}


def round_up(value: float, digits: int = 2) -> float:
    """The smallest float with that many significant digits that is not below `value` (positive or 0)."""
    exact = Decimal(repr(value))
    if not exact:
        return 0.0
    return float(exact.quantize(Decimal(1).scaleb(exact.adjusted() - digits + 1), rounding=ROUND_CEILING))


@dataclass(frozen=True)
class StageResult:
    """The figures of one case's prefill or decode; in decode, a place's position is the step, from 0."""

    case: str
    stage: Literal["prefill", "decode"]
    rows: int
    figures: LogitFigures

    def at(self, place: Place) -> str:
        """The place in words."""
        position = "position" if self.stage == "prefill" else "decode step"
        return f"case '{self.case}', row {place.row}, {position} {place.position}, token id {place.token_id}"

    def reasons(self, tolerance: float) -> list[str]:
        """Why this stage fails; empty if it passes."""
        reasons = [self._defect(defect) for defect in self.figures.defects]
        if self.exceeds(tolerance) and self.figures.max_abs is not None and self.figures.worst is not None:
            reasons.append(
                f"max abs {round_up(self.figures.max_abs, 3):g} > {tolerance:g} at {self.at(self.figures.worst)}"
            )
        return reasons

    def exceeds(self, tolerance: float) -> bool:
        """Whether a finite logit differs by more than `tolerance`."""
        return self.figures.max_abs is not None and self.figures.max_abs > tolerance

    def _defect(self, defect: Defect) -> str:
        if defect.kind == "shape":
            return f"{defect.detail}, in {self.stage} of case '{self.case}', row {defect.place.row}"
        what = f"{_DEFECT_WORDS[defect.kind]} in the {defect.side}'s logits ({_counted(defect.tokens, 'token')})"
        return f"{what}, first at {self.at(defect.place)}"


@dataclass(frozen=True)
class ParityReport:
    """What a parity run compared, with what, and its verdict.

    Rows, positions, decode steps, prompts and token ids (vocabulary indices) count from 0.

    Attributes:
        stages: Prefill and decode of every case.
        tolerance: Largest |reference - candidate| of a logit that passes.
        provider_asked: "cpu" or "cuda".
        provider_obtained: The execution provider that the session named first.
        nodes: Nodes of each operator that each execution provider ran, or None if ONNX Runtime does not tell.
        threads: Threads of both torch and ONNX Runtime.
        versions: Of onnxruntime, torch and transformers.
        decode_steps: Decode steps of each case.
        max_prompt_tokens: Tokens that prompts were cut to.
        prompt_sha256: Of each prompt's text.
    """

    stages: tuple[StageResult, ...]
    tolerance: float
    provider_asked: str
    provider_obtained: str
    nodes: Mapping[str, Mapping[str, int]] | None
    threads: int
    versions: Mapping[str, str]
    decode_steps: int
    max_prompt_tokens: int
    prompt_sha256: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.tolerance > 0:
            raise ValueError("the tolerance must be positive")
        if {result.stage for result in self.stages} != {"prefill", "decode"}:
            raise ValueError("a parity report needs both prefill and decode")

    @property
    def passed(self) -> bool:
        """Whether every logit is finite and within the tolerance."""
        return not self.reasons

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the run fails, what no tolerance excuses first, then the largest differences; empty if it passes."""
        ranked = sorted(self.stages, key=lambda result: (not result.figures.defects, -(result.figures.max_abs or 0.0)))
        return (*self._misplaced(), *(reason for result in ranked for reason in result.reasons(self.tolerance)))

    def _misplaced(self) -> list[str]:
        """Operators that do the model's work on another provider; arithmetic on shapes may run anywhere."""
        return [
            f"{count} {operator} nodes ran on {provider} instead of {self.provider_obtained}"
            for provider, operators in (self.nodes or {}).items()
            if provider != self.provider_obtained
            for operator, count in operators.items()
            if operator in _WORKING_OPERATORS
        ]

    @property
    def max_abs(self) -> float | None:
        """The largest difference of any finite logit, or None if none is finite."""
        return max((r.figures.max_abs for r in self.stages if r.figures.max_abs is not None), default=None)

    @property
    def top1_agreement(self) -> float:
        """The smallest top-1 agreement of any stage; a stage without a finite token counts as 0."""
        return min(result.figures.top1_agreement or 0.0 for result in self.stages)

    @property
    def mean_kl(self) -> float | None:
        """The largest mean KL divergence of any stage, in nats a token, or None if no token is finite."""
        return max((r.figures.mean_kl for r in self.stages if r.figures.mean_kl is not None), default=None)

    @property
    def smallest_passing_tolerance(self) -> float | None:
        """`max_abs` rounded up to two significant digits; None if no tolerance would pass."""
        if self.max_abs is None or self._misplaced() or any(result.figures.defects for result in self.stages):
            return None
        return round_up(self.max_abs)

    def summary(self) -> str:
        """The verdict in one line; for a failed run, the worst reason and a tolerance in a second one."""
        tokens = sum(result.figures.tokens for result in self.stages)
        prompts = _counted(len(self.prompt_sha256), "prompt")
        divergence = max((r.figures.max_kl or 0.0 for r in self.stages), default=0.0)
        largest = "no finite logits" if self.max_abs is None else f"max abs {self.max_abs:.2g}"
        line = (
            f"parity {'passed' if self.passed else 'FAILED'}: {largest} (tolerance {self.tolerance:g}), max KL "
            f"{divergence:.1e} nats, top-1 {self.top1_agreement:.1%} over {tokens} tokens of {prompts} "
            f"on {self.provider_obtained}"
        )
        return line if self.passed else f"{line}\n{self.failure()}"

    def failure(self) -> str:
        """What differs most, where, and the tolerance that would have passed, in one line; "" if it passed."""
        if self.passed:
            return ""
        more = f" (and {len(self.reasons) - 1} more)" if len(self.reasons) > 1 else ""
        tolerance = self.smallest_passing_tolerance
        hint = "no tolerance would pass" if tolerance is None else f"a tolerance of {tolerance:g} would pass"
        return f"{self.reasons[0]}{more}; {hint}"

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values; the same run gives the same text, without times and paths."""
        return {
            "schema": SCHEMA,
            "verdict": "passed" if self.passed else "failed",
            "failure": self.failure(),
            "reasons": list(self.reasons),
            "max_abs": self.max_abs,
            "top1_agreement": self.top1_agreement,
            "mean_kl_nats": self.mean_kl,
            "tolerance": self.tolerance,
            "smallest_passing_tolerance": self.smallest_passing_tolerance,
            "provider": {
                "asked": self.provider_asked,
                "obtained": self.provider_obtained,
                "nodes": None if self.nodes is None else {name: dict(ops) for name, ops in self.nodes.items()},
            },
            "threads": self.threads,
            "versions": dict(sorted(self.versions.items())),
            "prompts": {"count": len(self.prompt_sha256), "sha256": list(self.prompt_sha256)},
            "max_prompt_tokens": self.max_prompt_tokens,
            "decode_steps": self.decode_steps,
            "cases": [
                {"case": r.case, "stage": r.stage, "rows": r.rows, **_figures_json(r.figures)} for r in self.stages
            ],
        }


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _figures_json(figures: LogitFigures) -> dict[str, Any]:
    values = asdict(figures)
    values["mean_kl_nats"], values["max_kl_nats"] = values.pop("mean_kl"), values.pop("max_kl")
    values["defects"] = list(values.pop("defects"))
    return values
