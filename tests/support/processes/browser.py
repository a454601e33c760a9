"""A browser without a window."""

from __future__ import annotations

from pathlib import Path

from support.needs import find

_OPTIONS = (
    "--headless",
    "--no-sandbox",  # as root there is none
    "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader",  # in software
    "--disable-dev-shm-usage",  # small in containers
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def browser_command(profile: Path, *words: str) -> list[str]:
    """The command that opens an address, the last of the words."""
    return [str(find("browser")), *_OPTIONS, f"--user-data-dir={profile}", *words]
