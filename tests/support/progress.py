"""What work reports, kept for a test to read."""

from __future__ import annotations

from support.product import Silent


class Listening(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []
        self.warnings: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)

    def warn(self, message: str) -> None:
        self.warnings.append(message)
