"""Stand-ins for CUDA's libraries: ONNX Runtime's real CUDA provider runs on them, on a machine without a GPU."""
