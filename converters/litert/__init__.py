"""The format `litert`: a bundle for LiteRT-LM with the program, the tokenizer and the chat template."""
