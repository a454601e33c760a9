"""Opens models on disk, reads their weights layer by layer and copies their tokenizers."""
