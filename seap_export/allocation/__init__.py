"""The split of the budget between the halves of all layers, found by trying plans: refitted, and judged end to end."""
