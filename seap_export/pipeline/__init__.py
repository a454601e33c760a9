"""The steps in order, written whole or not at all, and not twice for the same inputs."""
