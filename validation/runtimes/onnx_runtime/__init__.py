"""The runtime ONNX Runtime: a runner of its sessions, and how our own Python API reads and writes texts."""
