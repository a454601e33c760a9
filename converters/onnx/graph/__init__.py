"""The graph of a decoder in ONNX."""
