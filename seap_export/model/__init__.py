"""Models: their families, how they are stored, and the walk through their layers."""
