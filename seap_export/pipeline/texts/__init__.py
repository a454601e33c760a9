"""The texts of tasks, and the tokens that they use."""
