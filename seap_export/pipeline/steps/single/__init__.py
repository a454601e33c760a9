"""Steps that make one folder or file of a task or a variant."""
