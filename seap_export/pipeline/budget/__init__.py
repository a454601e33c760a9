"""From a budget to variants: their ratios and formats are chosen, by predictions and a few real evaluations."""
