"""Converts a model folder to the files that runtimes load: an ONNX graph and its description."""

from converters.onnx.genai_config import genai_config
from converters.onnx.onnx_writer import write_onnx

__all__ = ["genai_config", "write_onnx"]
