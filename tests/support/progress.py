"""What work reports, kept for a test to read."""

from __future__ import annotations

from support.product import Silent


class Listening(Silent):
    """Keeps the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        """Keeps a warning."""
        self.warnings.append(message)
