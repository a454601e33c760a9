"""From the statistics of activations to a smaller model."""
