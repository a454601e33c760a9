"""The transformers classes of pruned models, and their registration with the auto classes."""
