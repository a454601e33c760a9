"""The runtimes that run written models: a `Runner` for each of them, and `table`, which lists them."""
