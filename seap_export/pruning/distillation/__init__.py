"""Brings a shrunk model closer to the dense one by gradient descent on the calibration texts."""
