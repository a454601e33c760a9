"""A written folder in one of its runtimes, as parity compares it with torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import ClassVar

from converters.format import Format
from converters.formats import read_format
from converters.onnx.weights.scaling import Scaling
from seap_export.model.families import ModelSpec
from validation.array_store import ArrayStore
from validation.execution import Execution, Say
from validation.parity.answers import Answers
from validation.parity.compared import Compared
from validation.parity.profiles import Limits, Noise, Pass, passes, single_pass
from validation.parity.references import Reference, TokenSequence, measure_rounding_noise
from validation.parity.report import Conditions
from validation.prompts import Case
from validation.runtimes.pytorch.torch_runner import TorchRunner, open_torch_runner
from validation.runtimes.runner import Runner, Runtime
from validation.runtimes.table import open_runtime, require_runtime, runtime_row, runtime_versions
from validation.texts.model import ModelTexts

References = Mapping[TokenSequence, Reference]


@dataclass(frozen=True)
class ParityInput:
    """The written folder that is compared with torch, and where both run."""

    folder: Path
    spec: ModelSpec
    execution: Execution
    say: Say


class RuntimeCandidate:
    """A folder in a runtime, as its row of the table says; torch reads the weights that the folder holds.

    A runtime that needs memory to be claimed, or that tells more of itself, has a subclass.
    """

    fills: ClassVar[bool] = False

    def __init__(self, runtime: str, row: Runtime, parity_input: ParityInput) -> None:
        """Raises `ArtifactError` if the folder does not say its format."""
        self.runtime, self._row, self._input = runtime, row, parity_input
        self.format = self._format(parity_input)
        self.arithmetic = self.format.arithmetic
        if row.arithmetic is not None:
            self.arithmetic = resolve_name(row.arithmetic)(self.format, parity_input.spec)
        self.scaling = Scaling()

    @property
    def context_length(self) -> int:
        """The tokens that a text may have: those of the model, or fewer."""
        spec, context = self._input.spec, self._row.context
        return spec.max_position_embeddings if context is None else int(resolve_name(context)(spec))

    def _format(self, parity_input: ParityInput) -> Format:
        return read_format(parity_input.folder)

    def form(self) -> dict[str, object]:
        """The form of the files as JSON values, for the report."""
        return self.format.settings()

    def claim(self, cases: Sequence[Case], say: Say) -> None:
        """Refuses cases for which there is not enough memory, before the references run, which take long."""

    def answers(self, case: Case, model: ModelTexts) -> Answers:
        """Lets `generate` answer the prompts of a case; nothing is written where users do not decode with it."""
        return Answers(case)

    def torch(self, model_folder: Path) -> AbstractContextManager[TorchRunner]:
        """Opens the reference, which computes with the weights that the format stores."""
        stored = self.format.weights(self._input.folder, self._input.spec)
        return open_torch_runner(model_folder, self._input.execution, stored=stored)

    def passes(self, limits: Limits) -> tuple[Pass, ...]:
        """The passes in which the cases are run, each with its limits."""
        if self._row.rounds_rows:  # with dequantised weights, and as it is
            return passes(self.arithmetic, "cpu", limits)
        return (single_pass(self.arithmetic, limits),)

    @contextmanager
    def opened(self, way: Pass) -> Iterator[Runner]:
        """Opens the folder for a pass, alone in memory."""
        folder, execution, in_float_of = self._input.folder, self._input.execution, None
        if way.in_float:
            in_float_of = self._input.spec
        with closing(open_runtime(self.runtime, folder, execution, in_float_of=in_float_of)) as runner:
            yield runner

    def served(
        self, cases: Sequence[Case], way: Pass, answers: Answers, references: References, store: ArrayStore
    ) -> tuple[list[Compared], list[str]]:
        """Further comparisons, of the folder as it is served, and what is wrong with its answers, in words."""
        return [], []

    def conditions(self) -> Conditions:
        """The provider, the GPU and the threads of the last pass."""
        return Conditions(self.runtime, None, None, self._input.execution.thread_count)

    def rounding_noise(
        self, torch_runner: TorchRunner, references: References, store: ArrayStore
    ) -> tuple[dict[TokenSequence, Noise], float]:
        """Measures the divergence that the runtime's rounding makes in torch; see `measure_rounding_noise`."""
        parity_input = self._input
        return measure_rounding_noise(
            torch_runner,
            references,
            store,
            parity_input.spec,
            self.arithmetic,
            self.scaling,
            parity_input.execution.provider,
            parity_input.say,
            whole_rows=self._row.rounds_rows,
        )

    def versions(self) -> dict[str, str]:
        return runtime_versions(self.runtime)


def open_candidate(name: str, parity_input: ParityInput) -> RuntimeCandidate:
    """Opens a written folder for parity, in the runtime of this name."""
    require_runtime(name)
    row = runtime_row(name)
    kind: type[RuntimeCandidate] = resolve_name(row.candidate)
    return kind(name, row, parity_input)
