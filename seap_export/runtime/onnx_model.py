"""Opens an ONNX graph in a session of ONNX Runtime, and runs it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from seap_export.common.providers import CUDA_GRAPH, PROVIDERS
from seap_export.errors import ArtifactError
from seap_export.runtime.failures import environment_failure
from seap_export.runtime.providers import device_of, one_line
from seap_export.runtime.session import ORT_ERRORS, nodes_by_provider, open_session

#: Run option: the CUDA graph to capture or replay, and the number that stands for none.
_GRAPH_ID, NO_GRAPH = "gpu_graph_id", -1


class OnnxModel:
    """A graph opened in an ONNX Runtime session.

    Attributes:
        metadata: The model's `metadata_props`.
        nodes: See `nodes_by_provider`.
        turn: To be held while the GPU is used, from the start of a call until its results are read. Captured graphs
            share memory with all other calls of the session, and nothing may be allocated while one is captured.
    """

    def __init__(
        self,
        path: Path,
        provider: str = "cpu",
        threads: int | None = None,
        provider_options: Mapping[str, str] | None = None,
    ) -> None:
        """Opens the graph; takes the arguments and raises the errors of `open_session`."""
        self.path = path
        self._session = open_session(path, provider, threads, provider_options)
        self.inputs: dict[str, Any] = {item.name: item for item in self._session.get_inputs()}
        self.outputs: dict[str, Any] = {item.name: item for item in self._session.get_outputs()}
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        self.device = device_of(self._session)
        self.nodes = nodes_by_provider(self._session)
        options = self._session.get_provider_options()[PROVIDERS[provider].ort_name]
        self.captures = options.get(CUDA_GRAPH) == "1"
        self.turn: contextlib.AbstractContextManager[Any] = (
            threading.Lock() if self.captures else contextlib.nullcontext()
        )

    def run(self, outputs: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[np.floating]]:
        with self.failures():
            return self._session.run(list(outputs), dict(feeds), self._run_options(NO_GRAPH))

    def binding(self) -> ort.IOBinding:
        """Creates an empty binding of inputs and outputs."""
        return self._session.io_binding()

    def run_bound(self, binding: ort.IOBinding, graph: int = NO_GRAPH) -> None:
        """Runs on the bound inputs and outputs; raises the errors of `run`.

        Args:
            graph: Number of the CUDA graph to replay, which the first call with that number captures. Its bound
                buffers must never move. Only for a model that `captures`.
        """
        with self.failures():
            self._session.run_with_iobinding(binding, self._run_options(graph))

    def view(self, address: int, shape: Sequence[int], storage: type[np.generic]) -> ort.OrtValue:
        """A tensor at an address in the memory of `device`, not a copy; the memory must outlive it."""
        binding = self.binding()  # the only part of ONNX Runtime's interface that takes an address
        output = next(iter(self.outputs))
        binding.bind_output(output, self.device.kind, self.device.number, storage, list(shape), address)
        return binding.get_outputs()[0]

    def _run_options(self, graph: int) -> ort.RunOptions | None:
        if not self.captures:
            return None
        options = ort.RunOptions()
        options.add_run_config_entry(_GRAPH_ID, str(graph))
        return options

    @contextlib.contextmanager
    def failures(self) -> Iterator[None]:
        """Turns errors of ONNX Runtime into those of `run`."""
        try:
            yield
        except ORT_ERRORS as error:
            what = f"{self.path}: does not run"
            raise environment_failure(error, what) or ArtifactError(f"{what}: {one_line(error)}") from error
