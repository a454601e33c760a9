"""The runtime vLLM, in a child process and usually in a Python environment of its own."""
