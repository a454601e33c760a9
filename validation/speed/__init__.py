"""Measures how fast models run compared with each other, and how much of the ideal speed-up they reach.

Imports nothing here, so that measuring the memory of ONNX Runtime does not load torch.
"""
