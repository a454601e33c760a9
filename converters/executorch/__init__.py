"""The format `executorch`: a program for ExecuTorch's XNNPACK backend, and the tokenizer of its runners."""
