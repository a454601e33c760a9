"""Sizes, speeds and divergences that an export is to meet, and what was evaluated to meet them."""
