"""The outcome of a parity run: figures, verdict, and all that is needed to judge or repeat it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Any, Literal

from converters.form import OnnxForm
from validation.metrics import Defect, LogitFigures, Place
from validation.profiles import Figure, Limit

__all__ = ["SCHEMA", "ParityReport", "StageResult", "round_up"]

SCHEMA = "seap-export/parity/2"
_WORKING_OPERATORS = frozenset(
    {
        "Attention",
        "FusedMatMul",
        "GroupQueryAttention",
        "MatMul",
        "MatMulNBits",
        "RMSNormalization",
        "SkipSimplifiedLayerNormalization",
    }
)
_FIGURE_WORDS: dict[Figure, str] = {"max_abs": "max abs", "mean_kl": "mean KL"}
_OPTIONS: dict[Figure, str] = {"max_abs": "--tolerance", "mean_kl": "--kl-tolerance"}
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
    limit: Limit

    def at(self, place: Place) -> str:
        """The place in words."""
        position = "position" if self.stage == "prefill" else "decode step"
        return f"case '{self.case}', row {place.row}, {position} {place.position}, token id {place.token_id}"

    @property
    def reasons(self) -> list[str]:
        """Why this stage fails; empty if it passes."""
        reasons = [self._defect(defect) for defect in self.figures.defects]
        found = self.limit.found(self.figures)
        if self.limit.is_exceeded(self.figures) and found is not None and self.figures.worst is not None:
            figure = _FIGURE_WORDS[self.limit.figure]
            largest = "" if self.limit.figure == "max_abs" else "the largest difference of a logit "
            where = f"{largest}at {self.at(self.figures.worst)}"
            reasons.append(f"{figure} {round_up(found, 3):g} > {self.limit.value:g}{';' if largest else ''} {where}")
        return reasons

    @property
    def excess(self) -> float:
        """How many times its limit the figure is; 0 where nothing is finite."""
        return (self.limit.found(self.figures) or 0.0) / self.limit.value

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
        form: In which the graph was written.
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
    form: OnnxForm
    provider_asked: str
    provider_obtained: str
    nodes: Mapping[str, Mapping[str, int]] | None
    threads: int
    versions: Mapping[str, str]
    decode_steps: int
    max_prompt_tokens: int
    prompt_sha256: tuple[str, ...]

    def __post_init__(self) -> None:
        if {result.stage for result in self.stages} != {"prefill", "decode"}:
            raise ValueError("a parity report needs both prefill and decode")

    @property
    def passed(self) -> bool:
        """Whether every logit is finite and every figure within its limit."""
        return not self.reasons

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the run fails, what no tolerance excuses first, then the largest differences; empty if it passes."""
        ranked = sorted(self.stages, key=lambda result: (not result.figures.defects, -result.excess))
        return (*self._misplaced(), *(reason for result in ranked for reason in result.reasons))

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
    def limits(self) -> dict[Figure, float]:
        """The figures that were judged, and the largest value of each that passes."""
        return {result.limit.figure: result.limit.value for result in self.stages}

    @property
    def smallest_passing_limits(self) -> dict[Figure, float] | None:
        """The largest value found of each figure judged, to two digits rounded up; None if no limits would pass."""
        found: dict[Figure, float] = dict.fromkeys(self.limits, 0.0)
        if self._misplaced() or any(result.figures.defects for result in self.stages):
            return None
        for result in self.stages:
            own = result.limit.found(result.figures)
            if own is None:
                return None
            found[result.limit.figure] = max(found[result.limit.figure], own)
        return {figure: round_up(value) for figure, value in found.items()}

    def summary(self) -> str:
        """The verdict in one line; for a failed run, the worst reason and a tolerance in a second one."""
        tokens = sum(result.figures.tokens for result in self.stages)
        prompts = _counted(len(self.prompt_sha256), "prompt")
        divergence = max((r.figures.max_kl or 0.0 for r in self.stages), default=0.0)
        line = (
            f"parity {'passed' if self.passed else 'FAILED'}: {', '.join(self._judged())}, max KL "
            f"{divergence:.1e} nats, top-1 {self.top1_agreement:.1%} over {tokens} tokens of {prompts} "
            f"in {self.form.precision.name} on {self.provider_obtained}"
        )
        return line if self.passed else f"{line}\n{self.failure()}"

    def failure(self) -> str:
        """What differs most, where, and the tolerance that would have passed, in one line; "" if it passed."""
        if self.passed:
            return ""
        more = f" (and {len(self.reasons) - 1} more)" if len(self.reasons) > 1 else ""
        return f"{self.reasons[0]}{more}; {self._hint()}"

    def _judged(self) -> list[str]:
        """Each figure that was judged, and its limit."""
        parts = []
        for figure, limit in self.limits.items():
            own = [r.limit.found(r.figures) for r in self.stages if r.limit.figure == figure]
            finite = [value for value in own if value is not None]
            found = f"{_FIGURE_WORDS[figure]} {max(finite):.2g}" if finite else "no finite logits"
            parts.append(f"{found} (tolerance {limit:g})")
        return parts

    def _hint(self) -> str:
        """The options that would have let it pass."""
        smallest = self.smallest_passing_limits
        if smallest is None:
            return "no tolerance would pass"
        exceeded = [figure for figure, limit in self.limits.items() if smallest[figure] > limit]
        options = " ".join(f"{_OPTIONS[figure]} {smallest[figure]:g}" for figure in exceeded)
        return f"{options} would pass"

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
            "form": self.form.to_json(),
            "limits": self.limits,
            "smallest_passing_limits": self.smallest_passing_limits,
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
                {
                    "case": r.case,
                    "stage": r.stage,
                    "rows": r.rows,
                    "judged_by": r.limit.figure,
                    **_figures_json(r.figures),
                }
                for r in self.stages
            ],
        }


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _figures_json(figures: LogitFigures) -> dict[str, Any]:
    values = asdict(figures)
    values["mean_kl_nats"], values["max_kl_nats"] = values.pop("mean_kl"), values.pop("max_kl")
    values["defects"] = list(values.pop("defects"))
    return values
