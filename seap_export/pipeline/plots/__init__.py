"""Numbers and figures: what variants keep, how much they share, and what they cost in quality."""
