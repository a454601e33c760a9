"""Targets that a user gives in place of a ratio: size, speeds and divergence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from converters.format import Format
from seap_export.common.providers import OWN_FORMAT
from seap_export.errors import UsageError
from seap_export.pipeline.targets.first_token import FirstToken, PromptTime


@dataclass(frozen=True)
class Targets:
    """Limits that all hold together.

    Attributes:
        size: Most bytes of the folder of the variant's format: weights, graph, tokenizer and settings.
        decode_speedup: Least speed-up of a decode step, measured over the dense model in the usual precision.
        max_kl: Largest mean KL divergence from the dense model on the held-out texts, nats per token.
        first_token: How soon the first token of an answer must be there.
    """

    size: int | None = None
    decode_speedup: float | None = None
    max_kl: float | None = None
    first_token: FirstToken | None = None

    def __post_init__(self) -> None:
        if (self.size, self.decode_speedup, self.max_kl, self.first_token) == (None, None, None, None):
            raise ValueError("there is no target")
        if self.size is not None and self.size < 1:
            raise UsageError(f"--target-size {self.size} is out of range; give a size such as 60MB")
        for name in ("decode_speedup", "max_kl"):
            value = getattr(self, name)
            if value is not None and not 0.0 < value < math.inf:
                option = "max-kl" if name == "max_kl" else "target-decode-speedup"
                raise UsageError(f"--{option} {value:g} is out of range; give a positive number")

    def refuse_beside(self, ratios: Sequence[float], formats: Sequence[Format], quality: bool, speed: bool) -> None:
        if ratios:
            raise UsageError(
                "--ratio and a target contradict each other, since targets choose the ratio; give one kind"
            )
        if not formats:
            raise UsageError(
                f"nothing can be measured of hf alone, so no target can be met; add --format {OWN_FORMAT}"
            )
        if not quality:
            raise UsageError("--no-quality contradicts a target: variants are chosen by their quality; leave it out")
        if not speed and self.of_speed:
            raise UsageError(f"--no-speed contradicts {self.of_speed[0]}, which is measured; leave out one of them")

    @property
    def of_speed(self) -> tuple[str, ...]:
        """The targets among them that are timed, as a user gives them."""
        given = {"--target-decode-speedup": self.decode_speedup, FirstToken.name: self.first_token}
        return tuple(name for name, target in given.items() if target is not None)

    def margins(self, speedup: float, prompt: PromptTime | None) -> dict[str, float]:
        """How many times as slow a variant might be and still meet each target of speed, by its name.

        Args:
            speedup: The speed-up of a decode step.
            prompt: The time to the first token; None: it was not measured, so that nothing is known against it.
        """
        margins = {} if self.decode_speedup is None else {"--target-decode-speedup": speedup / self.decode_speedup}
        if self.first_token is not None and prompt is not None:
            margins[FirstToken.name] = self.first_token.margin(prompt)
        return margins

    def allow(self, size: int, kl: float) -> bool:
        """Whether this size and KL meet the targets that do not depend on a machine."""
        return (self.size is None or size <= self.size) and (self.max_kl is None or kl <= self.max_kl)

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Targets:
        """Raises `TypeError` or `ValueError` if a file has other targets than `to_json` writes."""
        first_token = values.get("first_token")
        return cls(**{**values, "first_token": None if first_token is None else FirstToken(**first_token)})

    def to_json(self) -> dict[str, Any]:
        """The targets as JSON values of reports and the manifest."""
        return asdict(self)
