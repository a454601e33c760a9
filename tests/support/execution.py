"""Where tests run models: on one thread, so that their numbers are the same again, in the runtime of a folder."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from validation.execution import Execution

ONE_THREAD = Execution(threads=1)
#: The runtimes of a variant's two folders.
RUN_BY = {"hf": "torch", "onnx": "onnxruntime"}


def empty_state(item: Any, rows: int = 1) -> NDArray[Any]:
    """The value of a state before the first token, given an input of a session: no positions, and zeros."""
    dtype = {"tensor(float)": np.float32, "tensor(float16)": np.float16}[item.type]
    return np.zeros((rows, *(size if isinstance(size, int) else 0 for size in item.shape[1:])), dtype)
