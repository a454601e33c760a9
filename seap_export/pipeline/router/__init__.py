"""The router: a linear classifier over mean token embeddings that predicts a prompt's task."""
