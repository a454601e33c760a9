"""The divergence of a variant from the dense model."""
