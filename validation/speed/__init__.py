"""How fast models run, beside each other, and how much of the ideal speed-up they reach.

Nothing is imported here, so that measuring the memory of ONNX Runtime does not load torch.
"""
