"""transformers.js, in a process of Node."""
