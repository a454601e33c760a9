"""What a user asks for, checked before any work begins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from seap_export.errors import UsageError, refuse_less
from seap_export.model.layers.compute import Compute
from validation.execution import Execution
from validation.parity.profiles import Limits
from validation.parity.run import DECODE_STEPS, LONG_TOKENS

Answers = Literal["data", "model"]
#: The default number of calibration tokens per task, if its texts have as many: docs/measurements.md has their gain.
CALIBRATION_TOKENS = 65_536


@dataclass(frozen=True)
class CalibrationSettings:
    """How texts are sampled and run.

    Attributes:
        samples: Calibration texts per task; None: as many as the tokens allow.
        calibration_tokens: Tokens of these texts at most; None: `CALIBRATION_TOKENS`, or all if `samples` is given.
        held_out: Texts set aside for parity and evaluation, never calibrated on; None: see `split_samples`.
        seed: Seed of the split.
        max_length: Tokens after which a text is cut.
        answers: Whose answers follow the prompts: those of the data, or the dense model's.
        answer_tokens: The most tokens of an answer of the dense model.
    """

    samples: int | None = None
    calibration_tokens: int | None = None
    held_out: int | None = None
    seed: int = 0
    max_length: int = 512
    answers: Answers = "data"
    answer_tokens: int = 256

    def __post_init__(self) -> None:
        refuse_below(self, answer_tokens=1, samples=1, calibration_tokens=1, held_out=1, max_length=2)

    @property
    def most_tokens(self) -> int | None:
        """Calibration tokens per task at most; None: the number of texts is the only limit."""
        return self.calibration_tokens or (CALIBRATION_TOKENS if self.samples is None else None)


@dataclass(frozen=True)
class ParitySettings:
    """How an ONNX file is compared with the model it was written from.

    Attributes:
        provider: Execution provider of ONNX Runtime, `cpu` or `cuda`.
        decode_steps: Tokens decoded with the cache after each prompt.
        limits: The limits of the comparison.
        prompts: Held-out prompts compared.
        long_tokens: Positions that the longest prompt reaches, limited by the model's context.
        threads: Threads of torch and of ONNX Runtime; None: all cores.
    """

    provider: str = "cpu"
    decode_steps: int = DECODE_STEPS
    limits: Limits = Limits()
    prompts: int = 4
    long_tokens: int = LONG_TOKENS
    threads: int | None = None

    def __post_init__(self) -> None:
        refuse_below(self, decode_steps=1, prompts=1, long_tokens=1, threads=1)

    def execution(self, compute: Compute | None) -> Execution:
        """Where both sides run; `compute` is torch's."""
        return Execution(self.provider, self.threads, compute)


def refuse_below(settings: object, **least: int) -> None:
    """Raises `UsageError` if a setting is below its least value, as if it were an option."""
    for name, number in least.items():
        refuse_less(number, **{name: getattr(settings, name)})


@dataclass(frozen=True)
class RouterSettings:
    """How a router is made.

    Attributes:
        seed: Seed of the split into calibration and held-out texts.
        max_length: Longer prompts are truncated to this many tokens.
        threshold: Predictions with a lower probability are uncertain.
    """

    seed: int = 0
    max_length: int = 512
    threshold: float = 0.7

    def __post_init__(self) -> None:
        refuse_below(self, max_length=1)
        if not 0 <= self.threshold <= 1:
            raise UsageError(f"threshold {self.threshold:g} is out of range; give 0 to 1")
