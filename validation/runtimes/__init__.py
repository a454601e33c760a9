"""What runs a model: a runner for each runtime, and `table`, which lists them."""
