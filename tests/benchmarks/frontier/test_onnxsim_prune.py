"""The inputs of a graph of this package; onnxsim itself is not installed here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from benchmarks.frontier.programs.onnxsim_prune import inputs_of

from seap_export.runtime.session import open_session


def test_one_text_fills_every_input(graphs: dict[str, Path]) -> None:
    inputs = inputs_of(onnx.load(graphs["ours"]).graph, [3, 1, 4])
    (logits, *_) = open_session(graphs["ours"]).run(["logits"], inputs)
    assert np.asarray(logits).shape[:2] == (1, 3)
