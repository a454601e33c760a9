"""What parity compares with torch: a written folder in one of its runtimes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name

from converters.format import Format, StoredWeights
from converters.formats import read_format
from converters.onnx.precision import Precision, PrecisionName, choose_precision
from converters.onnx.weights.scaling import Scaling
from seap_export.extras import installed_versions
from seap_export.families import ModelSpec
from seap_export.layers.compute import Compute
from validation.array_store import ArrayStore
from validation.checkpoint import Change
from validation.parity.compared import Compared
from validation.parity.profiles import Limits, Noise, Pass, passes
from validation.parity.references import Reference, TokenSequence, measure_rounding_noise
from validation.parity.report import Conditions
from validation.prompts import Case
from validation.runtimes.pytorch.torch_runner import TorchRunner
from validation.runtimes.runner import Runner, Runtime
from validation.runtimes.table import require_runtime, runtime_row

__all__ = ["Candidate", "Reads", "Trial", "arithmetic_of", "open_candidate"]

Progress = Callable[[str], None]
References = Mapping[TokenSequence, Reference]


@dataclass(frozen=True)
class Trial:
    """What is compared, and where.

    Attributes:
        model_folder: config.json, safetensors files and tokenizer.
        folder: What was written from it.
        own: Its format; None: as the folder says.
        spec: The model's shapes.
        provider: "cpu" or "cuda", of ONNX Runtime.
        threads: Threads of the runtime.
        compute: What memory may be taken.
        say: Receives a line about each case.
    """

    model_folder: Path
    folder: Path
    own: Format | None
    spec: ModelSpec
    provider: str
    threads: int
    compute: Compute
    say: Progress


@dataclass(frozen=True)
class Reads:
    """The weights that torch computes with: those of the model, changed, or those that were written.

    Attributes:
        change: What is done to the model's weights; None: nothing.
        stored: The weights that are read in their place; None: the model's.
    """

    change: Change | None = None
    stored: StoredWeights | None = None


class Candidate:
    """A folder in a runtime that computes in one way only; torch reads the weights that the folder holds.

    A runtime that needs memory to be claimed, that has other ways to compute, or that tells more of itself has a
    subclass.

    Attributes:
        runtime: The runtime.
        own: The folder's format.
        arithmetic: The precision whose limits hold, and whose rounding is measured in torch.
        scaling: Powers of two that the written model has been scaled by.
    """

    def __init__(self, runtime: str, row: Runtime, trial: Trial) -> None:
        """Raises `ArtifactError` if the folder does not say its format."""
        self.runtime, self._row, self._trial = runtime, row, trial
        self.own = self._format(trial)
        self.arithmetic = arithmetic_of(self.own.precision)
        self.scaling = Scaling()

    def _format(self, trial: Trial) -> Format:
        return trial.own or read_format(trial.folder)

    def form(self) -> dict[str, object]:
        """What the report says about the form of the files, as JSON values."""
        return self.own.settings()

    def claim(self, cases: Sequence[Case], say: Progress) -> None:
        """Refuses cases for which there is not enough memory, before the references run, which take long.

        Raises:
            EnvironmentFailure: Memory is missing.
        """

    def reads(self) -> Reads:
        """What torch computes with."""
        return Reads(stored=self.own.weights(self._trial.folder, self._trial.spec))

    def passes(self, limits: Limits) -> tuple[Pass, ...]:
        """The ways in which the cases are run."""
        return tuple(own for own in passes(self.arithmetic, "cpu", limits) if not own.in_float)

    @contextmanager
    def opened(self, own: Pass) -> Iterator[Runner]:
        """Opens the folder for a pass, alone in memory."""
        opener: Callable[[Path, int], Runner] = resolve_name(self._row.opener)
        with closing(opener(self._trial.folder, self._trial.threads)) as runner:
            yield runner

    def served(self, cases: Sequence[Case], own: Pass, references: References, store: ArrayStore) -> list[Compared]:
        """Further comparisons, of the folder as it is served."""
        return []

    def conditions(self) -> Conditions:
        """How the last pass ran."""
        return Conditions(self.runtime, None, None, self._trial.threads)

    def rounding_noise(
        self, torch_runner: TorchRunner, references: References, store: ArrayStore
    ) -> tuple[dict[TokenSequence, Noise], float]:
        """What the runtime's rounding does in torch; see `measure_rounding_noise`."""
        trial = self._trial
        return measure_rounding_noise(
            torch_runner, references, store, trial.spec, self.arithmetic, self.scaling, trial.provider, trial.say
        )

    def versions(self) -> dict[str, str]:
        """The packages that run it."""
        return {} if self._row.extra is None else installed_versions(self._row.extra)


def arithmetic_of(precision: str) -> Precision:
    """The precision in which a runtime is taken to compute, by the bits that the name of a format's precision holds.

    8 and 4 bits are weights alone: what they are multiplied with is rounded to 8 bits, in blocks.
    """
    bits = int(re.sub(r"\D*(\d+).*", r"\1", precision) or 0)
    names: dict[int, PrecisionName] = {32: "fp32", 16: "bf16" if "bf16" in precision else "fp16", 8: "int8"}
    name = names.get(bits, "int4")
    return Precision(name) if name in ("fp32", "fp16", "bf16") else choose_precision(name)  # type: ignore[arg-type]


def open_candidate(name: str, trial: Trial) -> Candidate:
    """What parity compares with torch.

    Raises:
        UsageError, EnvironmentFailure: As for `require_runtime`.
        ArtifactError: The folder does not say its format.
    """
    require_runtime(name)
    row = runtime_row(name)
    kind: type[Candidate] = resolve_name(row.candidate)
    return kind(name, row, trial)
