"""The runtime transformers.js, which runs in a Node process."""
