"""Where tests run models: on one thread, so that their numbers are the same again, in the runtime of a folder."""

from __future__ import annotations

from validation.execution import Execution

__all__ = ["ONE_THREAD", "RUN_BY"]

ONE_THREAD = Execution(threads=1)
#: The runtimes of a variant's two folders.
RUN_BY = {"hf": "torch", "onnx": "onnxruntime"}
