"""Models on disk: opening them, reading their weights a layer at a time, carrying their tokenizers along."""
