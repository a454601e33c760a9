"""What goes with the least error, one after the other: channels, sets of heads, experts."""
