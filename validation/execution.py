"""Where a model runs: on which provider, with how many threads, and in how much memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from seap_export.errors import UsageError
from seap_export.runtime.session import available_threads

if TYPE_CHECKING:
    from seap_export.model.layers.compute import Compute

#: Takes a line on what is being done.
Say = Callable[[str], object]


@dataclass(frozen=True)
class Execution:
    """Where torch and the other runtimes run a model.

    Attributes:
        provider: ONNX Runtime's execution provider: A key of `PROVIDERS`.
        threads: Threads of torch or of the runtime; None: all cores available to this process.
        compute: Where torch runs, and in how much memory; None: on the CPU, in what is free when it is asked for.
            Its limit of the host's memory holds for ONNX Runtime, too.

    Raises:
        UsageError: There are fewer threads than 1.
    """

    provider: str = "cpu"
    threads: int | None = None
    compute: Compute | None = None

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"threads must be at least 1, not {self.threads}")

    @property
    def thread_count(self) -> int:
        """The number of threads to use: `threads`, or one for each core available to this process."""
        return self.threads or available_threads()

    @property
    def torch_compute(self) -> Compute:
        """Where torch runs; raises what `choose_compute` does."""
        from seap_export.model.layers.compute import choose_compute

        return self.compute or choose_compute("cpu")
