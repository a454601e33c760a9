"""Targets that a user gives in place of a ratio: size, speed-up and divergence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from converters.format import Format
from seap_export.common.providers import OWN_FORMAT
from seap_export.errors import UsageError


@dataclass(frozen=True)
class Targets:
    """Limits that all hold together.

    Attributes:
        size: Most bytes of the folder of the variant's format: weights, graph, tokenizer and settings.
        decode_speedup: Least speed-up of a decode step, measured over the dense model in the usual precision.
        max_kl: Largest mean KL divergence from the dense model on the held-out texts, nats per token.
    """

    size: int | None = None
    decode_speedup: float | None = None
    max_kl: float | None = None

    def __post_init__(self) -> None:
        if (self.size, self.decode_speedup, self.max_kl) == (None, None, None):
            raise ValueError("there is no target")
        if self.size is not None and self.size < 1:
            raise UsageError(f"--target-size {self.size} is out of range; give a size such as 60MB")
        for name in ("decode_speedup", "max_kl"):
            value = getattr(self, name)
            if value is not None and not 0.0 < value < math.inf:
                option = "max-kl" if name == "max_kl" else "target-decode-speedup"
                raise UsageError(f"--{option} {value:g} is out of range; give a positive number")

    def refuse_beside(self, ratios: Sequence[float], formats: Sequence[Format], quality: bool, speed: bool) -> None:
        """Refuses what contradicts targets.

        Raises:
            UsageError: A ratio is given too, nothing can be measured, or what must be measured is turned off.
        """
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
        if not speed and self.decode_speedup is not None:
            raise UsageError(
                "--no-speed contradicts --target-decode-speedup, which is measured; leave out one of them"
            )

    def allow(self, size: int, kl: float) -> bool:
        """Whether a variant of so many bytes and this KL meets what does not depend on a machine."""
        return (self.size is None or size <= self.size) and (self.max_kl is None or kl <= self.max_kl)

    def to_json(self) -> dict[str, Any]:
        """The targets as JSON values of reports and the manifest."""
        return asdict(self)
