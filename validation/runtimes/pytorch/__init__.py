"""The reference runtime: transformers' models in torch, a layer at a time."""
