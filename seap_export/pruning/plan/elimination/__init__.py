"""Backward elimination of channels, sets of heads and experts, with the least error each time."""
