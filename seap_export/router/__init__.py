"""The router: a linear classifier over mean token embeddings that tells a prompt's task."""
