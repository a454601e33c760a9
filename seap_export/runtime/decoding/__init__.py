"""One decode step after the other: states, their buffers, and the choice of the next token."""
