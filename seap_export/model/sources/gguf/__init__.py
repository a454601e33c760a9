"""Opens GGUF files as models: their config, weights and tokenizer."""
