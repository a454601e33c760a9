"""The result of a parity run: figures, verdict, and everything needed to judge or repeat it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from operator import mul
from typing import Any

from converters.onnx.precision import PrecisionName
from seap_export.runtime.session import WORKING_OPERATORS
from validation.parity.origin import OriginFigures
from validation.parity.profiles import ENOUGH_ALONE, FIGURES, Figure, Limit
from validation.parity.stage import FIGURE_WORDS, StageResult, Together, Verdict, counted, round_beyond
from validation.texts.compare import TextFigures

SCHEMA = "seap-export/parity/5"


@dataclass(frozen=True)
class ComparedFolder:
    """The written folder that is compared with torch."""

    format: str
    runtime: str
    precision: str
    limits: PrecisionName
    form: Mapping[str, object]


@dataclass(frozen=True)
class Conditions:
    """The conditions under which a runtime ran."""

    provider: str
    gpu: str | None
    nodes: Mapping[str, Mapping[str, int]] | None
    threads: int
    complaints: tuple[str, ...] = ()


@dataclass(frozen=True)
class ParityReport:
    """The subject, the conditions and the verdict of a parity run.

    Rows, positions, decode steps, prompts and token ids (vocabulary indices) count from 0.

    Attributes:
        stages: Prefill and decode of every case.
        subject: What was compared with torch.
        provider_asked: A key of `PROVIDERS`.
        conditions: The conditions under which the runtime ran.
        versions: Versions of torch, transformers and the packages of the runtime.
        max_prompt_tokens: Longer prompts were truncated to this many tokens.
        prompt_sha256: Hash of each prompt's text.
        longest_tokens: Number of positions in the longest case.
        context_length: Maximum number of positions of the model.
        noise_kl: Largest mean KL divergence of torch that rounds like the graph; None if no verdict depended on it.
        looser_limits: Limits that are looser than the defaults, in words.
        rounding: The rounded model against the one that was rounded; None: the model is not rounded.
        texts: The comparison of the runtime's tokenizer and chat template; None: it uses the model folder's own.
        complaints: Defects of what `generate` wrote, in words.
        remarks: Checks that were not made, in words.
    """

    stages: tuple[StageResult, ...]
    subject: ComparedFolder
    provider_asked: str
    conditions: Conditions
    versions: Mapping[str, str]
    decode_steps: int
    max_prompt_tokens: int
    prompt_sha256: tuple[str, ...]
    longest_tokens: int
    context_length: int
    noise_kl: float | None = None
    looser_limits: tuple[str, ...] = ()
    rounding: OriginFigures | None = None
    texts: TextFigures | None = None
    complaints: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """Whether all logits are finite and all figures within their limits, if there are tokens enough to tell."""
        return "failed" if self.reasons else "not judged" if self._together("not judged") else "passed"

    @property
    def passed(self) -> bool:
        """Whether the verdict is that it passed."""
        return self.verdict == "passed"

    def _together(self, verdict: Verdict) -> list[str]:
        """Lines about the passes with this verdict that are judged by all of their tokens together."""
        return [together.line for together in Together.of(self.stages) if together.verdict == verdict]

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the run failed: first what no limit excuses, then the largest differences; empty if it did not."""
        ranked = sorted(self.stages, key=lambda result: (not result.has_defect, -result.excess))
        return (
            *self._unlimited(),
            *(reason for result in ranked for reason in result.reasons),
            *self._together("failed"),
        )

    def _unlimited(self) -> tuple[str, ...]:
        """What is wrong apart from the cases, which no limit excuses: work elsewhere, the rounding, and texts."""
        checks = [check.reasons for check in (self.rounding, self.texts) if check is not None]
        return (*self.conditions.complaints, *self._misplaced(), *self.complaints, *chain(*checks))

    @property
    def notes(self) -> tuple[str, ...]:
        """Looser limits, checks not made and known differences of texts, in words; they do not change the verdict."""
        texts = () if self.texts is None else self.texts.remarks
        return (*self.looser_limits, *self.remarks, *texts, *self._together("passed"))

    def _misplaced(self) -> list[str]:
        """Operators that do the model's work on another provider; shape arithmetic may run anywhere."""
        return [
            f"{count} {operator} nodes ran on {provider} instead of {self.conditions.provider}"
            for provider, operators in (self.conditions.nodes or {}).items()
            if provider != self.conditions.provider
            for operator, count in operators.items()
            if operator in WORKING_OPERATORS
        ]

    @property
    def max_abs(self) -> float | None:
        """The difference of a finite logit in the stage that `_nearest` finds; None: none is finite."""
        return self._nearest("max_abs")[0]

    @property
    def top1_agreement(self) -> float:
        """The top-1 agreement over the tokens of all stages; a stage without a finite token counts as 0."""
        tokens = [result.figures.tokens for result in self.stages]
        shares = [result.figures.top1_agreement or 0.0 for result in self.stages]
        return sum(map(mul, tokens, shares)) / sum(tokens)

    @property
    def mean_kl(self) -> float | None:
        """The mean KL divergence in the stage that `_nearest` finds, nats per token; None if no token is finite."""
        return self._nearest("mean_kl")[0]

    @property
    def cache_error(self) -> float | None:
        """The difference of keys or values, relative to their root mean square, in the stage that `_nearest` finds."""
        return self._nearest("cache_error")[0]

    @property
    def limits(self) -> dict[Figure, float]:
        """The limit of each judged figure in the stage that `_nearest` finds."""
        limits = {figure: self._nearest(figure)[1] for figure in FIGURES}
        return {figure: limit for figure, limit in limits.items() if limit is not None}

    def _nearest(self, figure: Figure) -> tuple[float | None, float | None]:
        """A figure and its limit in the stage where it is nearest to the limit, or furthest beyond it.

        Of a figure that is judged in no stage the largest value, without a limit. Where activations are rounded, the
        largest difference tells nothing.
        """
        judged = [(stage.value_of(figure), limit) for stage in self.stages for limit in stage.limits]
        values = [(value, limit) for value, limit in judged if limit.figure == figure]
        if not values:
            known = (stage.value_of(figure) for stage in self.stages)
            return max((value for value in known if value is not None), default=None), None
        value, limit = max(values, key=lambda one: (one[1].excess(one[0]), one[0] is not None))
        return value, limit.value

    @property
    def smallest_passing_limits(self) -> dict[Figure, float] | None:
        """The tightest limit of each judged figure that would pass, to two digits; None if no limit would."""
        if self._unlimited() or any(result.has_defect for result in self.stages):
            return None
        worst: dict[Figure, float] = {}
        for result in self.stages:
            for limit in result.run.limits:
                value = result.value_of(limit.figure)
                if value is not None:
                    looser = min if limit.is_least else max
                    worst[limit.figure] = looser(value, worst.get(limit.figure, value))
        return {
            figure: round_beyond(value, 4, down=True) if Limit(figure, 1.0).is_least else round_beyond(value)
            for figure, value in worst.items()
        }

    def summary(self) -> str:
        """The verdict in one line, with each judged figure beside its limit."""
        tokens = sum(result.figures.tokens for result in self.stages)
        prompts = counted(len(self.prompt_sha256), "prompt")
        where = f"{self.conditions.provider}{f' ({self.conditions.gpu})' if self.conditions.gpu else ''}"
        return (
            f"parity {'FAILED' if self.reasons else self.verdict}: {', '.join(self._judged())}, top-1 "
            f"{self.top1_agreement:.1%} over {tokens} tokens of {prompts} in {self.subject.precision} on {where}"
        )

    def failure(self) -> str:
        """The first reason why it did not pass, and the hint, in one line; "" if it passed."""
        if self.passed:
            return ""
        first, *others = self.reasons or self._together("not judged")
        return f"{first}{f' (and {len(others)} more)' if others else ''}; {self.hint}"

    def _judged(self) -> Iterator[str]:
        """Each judged figure with its limit, both of the same stage."""
        for figure, limit in self.limits.items():
            value, words = self._nearest(figure)[0], FIGURE_WORDS[figure]
            yield f"{f'no finite {words}' if value is None else f'{words} {value:.2g}'} (limit {limit:.3g})"

    @property
    def hint(self) -> str:
        """The limits that would have passed, or the option that gives enough tokens; "" if the run passed."""
        if self.passed:
            return ""
        if not self.reasons:
            few = self.decode_steps < ENOUGH_ALONE
            return f"use --decode-steps {ENOUGH_ALONE}" if few else f"use --prompts {2 * len(self.prompt_sha256)}"
        smallest = self.smallest_passing_limits
        if smallest is None:
            return "no limit would pass"
        failed: set[Figure] = set()
        for result in self.stages:
            exceeded = {limit.figure for limit in result.limits if result.exceeds(limit)}
            if not exceeded <= result.run.figures:  # noise put it in the place of others, which can be given
                exceeded |= result.run.figures - {limit.figure for limit in result.limits}
            failed |= exceeded & result.run.figures
        wanted = ", ".join(
            f"{figure} = {smallest[figure]:g}" for figure in FIGURES if figure in failed and smallest.get(figure)
        )
        return f"{wanted} under [{self.subject.limits}] in a file of limits would pass"

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values; equal runs give equal values, without times and paths."""
        nodes = self.conditions.nodes
        return {
            "schema": SCHEMA,
            "verdict": self.verdict,
            "failure": self.failure(),
            "reasons": list(self.reasons) or self._together("not judged"),
            "hint": self.hint,
            "max_abs": self.max_abs,
            "top1_agreement": self.top1_agreement,
            "mean_kl_nats": self.mean_kl,
            "cache_error": self.cache_error,
            "format": self.subject.format,
            "runtime": self.subject.runtime,
            "precision": self.subject.precision,
            "form": dict(self.subject.form),
            "limits": self.limits,
            "smallest_passing_limits": self.smallest_passing_limits,
            "looser_limits": list(self.looser_limits),
            "notes": list(self.notes),
            "noise_kl_nats": self.noise_kl,
            "rounding": None if self.rounding is None else self.rounding.to_json(),
            "provider": {
                "asked": self.provider_asked,
                "obtained": self.conditions.provider,
                "gpu": self.conditions.gpu,
                "nodes": None if nodes is None else {name: dict(ops) for name, ops in nodes.items()},
            },
            "threads": self.conditions.threads,
            "versions": dict(sorted(self.versions.items())),
            "prompts": {"count": len(self.prompt_sha256), "sha256": list(self.prompt_sha256)},
            "max_prompt_tokens": self.max_prompt_tokens,
            "decode_steps": self.decode_steps,
            "longest_tokens": self.longest_tokens,
            "context_length": self.context_length,
            "texts": None if self.texts is None else self.texts.to_json(),
            "cases": [result.to_json() for result in self.stages],
        }
