"""The Python API, a function in each file; the command line calls it."""
