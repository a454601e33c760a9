"""Steps over all variants together, once these are made."""
