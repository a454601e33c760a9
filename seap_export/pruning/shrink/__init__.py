"""Shrinks tensors according to a plan, and writes the shrunk model."""
