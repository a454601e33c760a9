"""One pass of the dense model over the calibration texts, and the exact moments of its activations."""
