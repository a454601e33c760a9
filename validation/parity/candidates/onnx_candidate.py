"""Parity of ONNX files in ONNX Runtime.

The reference has the model's weights, rounded anew to the levels of int8 or int4, and not those of the file, as for
other formats: a weight that is stored wrongly is then a difference of logits, too. The parity step of an export, which
decides whether a variant's quality and speed are measured, and `run_parity` by itself compare logits alone; with the
file's weights such a fault would wait for `converters.comparison`, which only a validation runs. On the CPU such a
graph also runs with activations that are not rounded, so that only the order of sums differs. A prompt and a batch
are then decoded as users do it, on a GPU with its CUDA graph. On the CPU, the batch's steps are those of `generate`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import onnxruntime as ort

from converters.format import Format
from converters.onnx.form import OnnxForm
from converters.onnx.format import OnnxFormat
from converters.onnx.graph.blocks import in_float_activations
from converters.onnx.weights.scaling import read_scaling
from seap_export.runtime.decoding.decoder import OnnxDecoder
from seap_export.runtime.files import decoder_options
from seap_export.runtime.generator import Generator
from seap_export.runtime.providers import device_name
from seap_export.runtime.session import nodes_by_provider, open_session, probe
from validation.array_store import ArrayStore
from validation.execution import Say
from validation.parity.answers import Answers, write_answers
from validation.parity.candidates.candidate import ParityInput, References, RuntimeCandidate
from validation.parity.compared import SERVED, Compared, compare_served, served_cases
from validation.parity.profiles import Limits, Pass, passes
from validation.parity.report import Conditions
from validation.parity.rounding import round_weights
from validation.prompts import Case
from validation.runtimes.onnx_runtime.onnx_runner import OnnxRunner
from validation.runtimes.pytorch.torch_runner import TorchRunner, open_torch_runner
from validation.runtimes.runner import Runtime
from validation.session_memory import calls_of, claim_memory
from validation.texts.model import ModelTexts


class OnnxCandidate(RuntimeCandidate):
    """An ONNX folder in ONNX Runtime, on the CPU or on a GPU; see `RuntimeCandidate`."""

    fills = True

    def __init__(self, runtime: str, row: Runtime, parity_input: ParityInput) -> None:
        """Raises `EnvironmentFailure` if no session runs on the provider."""
        probe(parity_input.execution.provider)
        super().__init__(runtime, row, parity_input)
        self._model = parity_input.folder / "model.onnx"
        self.scaling = read_scaling(self._model)
        self._mapped = self._misreads_masks = False
        self._conditions: Conditions | None = None

    def _format(self, parity_input: ParityInput) -> Format:
        format = OnnxFormat.read(parity_input.folder)
        self._form: OnnxForm = format.form
        return format

    def form(self) -> dict[str, object]:
        """The form that the graph's metadata record, as JSON values."""
        return self._form.to_json()

    def claim(self, cases: Sequence[Case], say: Say) -> None:
        """Claims memory for a session; one that does not fit may read its weights from the file in every call."""
        parity_input, calls = self._input, [calls_of(case) for case in cases]
        self._mapped = claim_memory(self._model, calls, parity_input.execution, say)

    def answers(self, case: Case, model: ModelTexts) -> Answers:
        """Lets `generate` answer the prompts of a case on the CPU, unless a file for a GPU is tried there."""
        folder, execution = self._input.folder, self._input.execution
        if execution.provider != "cpu" or self.passes(Limits())[-1].in_float:
            return Answers(case)
        if self._mapped:
            return Answers(case, remarks=("generate did not run, for the model does not fit into memory",))
        self._input.say(f"{self.format.name}: generate")
        return write_answers(partial(Generator, folder, threads=execution.threads), case, model.ends())

    def torch(self, model_folder: Path) -> AbstractContextManager[TorchRunner]:
        """Opens the reference with the model's weights, rounded to the graph's levels."""
        change = round_weights(self._input.spec, self._form.precision)
        return open_torch_runner(model_folder, self._input.execution, change=change)

    def passes(self, limits: Limits) -> tuple[Pass, ...]:
        """The passes of the graph, the last of which runs it as it is; see `validation.parity.profiles.passes`."""
        return passes(self._form.precision, self._input.execution.provider, limits)

    @contextmanager
    def opened(self, way: Pass) -> Iterator[OnnxRunner]:
        """Opens a session for a pass, and notes its provider and which provider runs each node."""
        execution = self._input.execution
        graph = in_float_activations(self._model) if way.in_float else None
        session = open_session(self._model, execution.provider, execution.threads, graph=graph, mapped=self._mapped)
        self._conditions = _conditions(session, execution.provider)
        runner = OnnxRunner(session)
        try:
            yield runner
            if way.steps is None:  # once; calls of the other pass are slow
                self._misreads_masks = runner.misreads_masks()
        finally:
            runner.close()

    def served(
        self, cases: Sequence[Case], way: Pass, answers: Answers, references: References, store: ArrayStore
    ) -> tuple[list[Compared], list[str]]:
        """The graph as our own decoder runs it: on a GPU always, on the CPU after `generate` has."""
        parity_input, complaints = self._input, list[str]()
        execution, compared = parity_input.execution, list[Compared]()
        if execution.provider == "cpu" and not answers.written:
            return compared, complaints
        options = decoder_options(parity_input.folder / "genai_config.json", execution.provider)
        positions = parity_input.spec.max_position_embeddings
        decoder = OnnxDecoder(self._model, positions, execution.provider, execution.threads, options)
        for case in served_cases(cases):
            parity_input.say(f"{self.format.name}: {case.name}, {SERVED}")
            of_case, logits = compare_served(case, way, references, decoder, store)
            compared.append(of_case)
            if case is answers.case:
                complaints += answers.wrong_choices(logits)
        return compared, complaints

    def conditions(self) -> Conditions:
        """The provider that was obtained, and the nodes that each one ran."""
        if self._conditions is None:
            raise ValueError("conditions are asked for before a session was opened")
        complaint = "rows padded on the left, or with a hole in their mask, are computed wrongly without an error"
        return replace(self._conditions, complaints=(complaint,) if self._misreads_masks else ())


def _conditions(session: ort.InferenceSession, provider: str) -> Conditions:
    threads = session.get_session_options().intra_op_num_threads
    return Conditions(session.get_providers()[0], device_name(provider), nodes_by_provider(session), threads)
