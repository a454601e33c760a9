"""The split of the budget between all sublayers, found by trying plans: refitted, and judged end to end."""
