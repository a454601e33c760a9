"""From the options of all layers to those that fit a budget."""
