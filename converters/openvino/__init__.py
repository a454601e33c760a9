"""Writes models for OpenVINO: a stateful IR with its tokenizer.

`openvino_model.xml` and `.bin` hold the graph of the standard ONNX dialect as OpenVINO's own: the cache is state, keys
and values are appended in it, and attention, rotation and norms are in the forms that plugins run as one kernel each.
Weights in int8 and int4 are signed integers with a scale in f16 for each 32 of a row, the same levels as in our ONNX
graphs; plugins keep them compressed in memory.

Only the numbers are written by this package: `openvino.save_model` needs all constants in memory at once.
"""

from converters.openvino.format import OpenvinoFormat

__all__ = ["OpenvinoFormat"]
