"""Builds the ONNX graph of a decoder."""
