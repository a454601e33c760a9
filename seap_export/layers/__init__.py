"""The one walk through a decoder: a layer in two halves, batches of real tokens, and their hidden states."""
