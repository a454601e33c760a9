"""The format `litert`: a bundle for LiteRT-LM with the program, the tokenizer and the chat template.

LiteRT's own exporter holds a model several times over and took 28 times as long (docs/research/runtimes.md); its
builder puts a random number and the time into every bundle. So both files are written here, one tensor at a time.
"""
