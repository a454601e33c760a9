"""Converts a model folder to the files that runtimes load: an ONNX graph and its description."""

from converters.onnx.genai_config import genai_config
from converters.onnx.onnx_writer import DATA_FILE, MODEL_FILE, write_onnx

__all__ = ["DATA_FILE", "MODEL_FILE", "genai_config", "write_onnx"]
