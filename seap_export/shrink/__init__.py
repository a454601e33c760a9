"""Making tensors smaller as a plan says, and writing the shrunk model."""
