"""The task classifier, which predicts the task of a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seap_export.common.checksums import refuse_changed
from seap_export.errors import ArtifactError
from seap_export.runtime.files import encode, load_tokenizer
from seap_export.runtime.manifest import ROUTER_GRAPH, read_router
from seap_export.runtime.onnx_model import OnnxModel

_INPUTS, _OUTPUT = {"input_ids", "attention_mask"}, "probabilities"


class Router:
    """An opened router folder: router.json, router.onnx and the tokenizer.

    Attributes:
        manifest: The content of router.json.
    """

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        """Opens the folder.

        Args:
            folder: The router's folder, such as OUT/router.
            threads: Threads of the session; None: all cores available to this process.

        Raises:
            ArtifactError: A file is missing or damaged, or not in the folder's list, or the graph does not match
                router.json.
        """
        refuse_changed(folder)
        self.manifest = read_router(folder)
        self._path = folder / ROUTER_GRAPH
        self._tokenizer = load_tokenizer(folder)
        self._graph = OnnxModel(self._path, threads=threads)
        output = self._graph.outputs.get(_OUTPUT)
        if self._graph.inputs.keys() != _INPUTS or output is None:
            raise ArtifactError(f"{self._path}: its inputs and outputs are not those of a router; export again")
        if output.shape[-1:] != [len(self.manifest.classes)]:
            raise ArtifactError(f"{self._path}: its classes differ from those in router.json; export again")

    def token_ids(self, prompt: str) -> list[int]:
        """The token ids of a prompt, truncated to `max_length`."""
        return encode(self._tokenizer, prompt)[: self.manifest.max_length]

    def probabilities(self, token_ids: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """The probability of each class for each prompt; uniform for a prompt without tokens.

        Args:
            token_ids: One sequence per prompt, at least one prompt.

        Returns:
            float32 [prompts, classes].

        Raises:
            ArtifactError: The graph does not run, or its outputs are not probabilities.
        """
        lengths = np.array([len(ids) for ids in token_ids])
        # A prompt without tokens gets a padding token, so that ONNX Runtime never reduces an empty axis.
        input_ids = np.zeros((len(lengths), max(1, lengths.max())), np.int64)
        mask = (np.arange(input_ids.shape[1]) < lengths[:, None]).astype(np.int64)
        for row, ids in zip(input_ids, token_ids, strict=True):
            row[: len(ids)] = ids
        (probabilities,) = self._graph.run([_OUTPUT], {"input_ids": input_ids, "attention_mask": mask})
        expected = (len(lengths), len(self.manifest.classes))
        if probabilities.shape != expected or not np.allclose(probabilities.sum(axis=1), 1.0, atol=1e-3):
            raise ArtifactError(f"{self._path}: its outputs are not probabilities; the file is damaged, export again")
        return probabilities.astype(np.float32)
