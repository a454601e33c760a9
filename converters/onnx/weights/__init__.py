"""The weights of a graph, and how they are read back."""
