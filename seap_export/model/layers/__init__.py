"""The one walk through a decoder: a layer's sublayers, batches of real tokens, and their hidden states."""
