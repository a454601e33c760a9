"""The format `executorch`: a program for ExecuTorch's XNNPACK backend, and the tokenizer of its runners.

`torch.export` and ExecuTorch's lowering hold the whole model, took minutes where this takes seconds, and gave a slower
program (docs/research/runtimes.md). So the program is written here, one tensor at a time.
"""
