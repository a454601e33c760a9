"""transformers' models in torch."""
