"""What the stand-ins wrote down, counted in the sections that a test marked."""

from __future__ import annotations

import ctypes
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

HOST = -1


def mark(section: str) -> None:
    """Begins a section of the log, in the process that runs on the stand-ins."""
    ctypes.CDLL("libcudart.so.13").fake_mark(section.encode())


class Copy(NamedTuple):
    """A copy between GPUs, whose numbers are given, and the host, -1."""

    source: int
    target: int
    bytes: int


@dataclass
class Counts:
    """What a section holds; captures that ended without a graph are lost."""

    launches: int = 0  # of kernels, without those of graphs
    calls: Counter[str] = field(default_factory=Counter)  # of libraries that work on the GPU
    copies: list[Copy] = field(default_factory=list)
    sets: int = 0
    waits: Counter[str] = field(default_factory=Counter)  # of the host, for "stream", "event", "device" or "copy"
    captures: int = 0
    lost: int = 0
    replays: list[tuple[int, ...]] = field(default_factory=list)  # of each graph its kernels, calls, copies and sets
    allocated: Counter[int] = field(default_factory=Counter)  # bytes of each GPU
    errors: list[tuple[str, int]] = field(default_factory=list)  # functions, and CUDA's error codes
    work: Counter[int] = field(default_factory=Counter)  # launches, calls and replays on each GPU

    @property
    def to_host(self) -> list[int]:
        """Bytes of each copy from a GPU to the host."""
        return [copy.bytes for copy in self.copies if copy.source != HOST and copy.target == HOST]

    @property
    def to_device(self) -> list[int]:
        return [copy.bytes for copy in self.copies if copy.source == HOST and copy.target != HOST]

    @property
    def between_devices(self) -> list[int]:
        return [copy.bytes for copy in self.copies if HOST != copy.source != copy.target != HOST]

    @property
    def within_devices(self) -> list[int]:
        return [copy.bytes for copy in self.copies if HOST != copy.source == copy.target]

    def add(self, kind: str, values: list[str]) -> None:
        """Counts a line of the log."""
        if kind in ("LAUNCH", "CALL", "REPLAY"):
            self.work[int(values[0])] += 1
        match kind:
            case "LAUNCH":
                self.launches += 1
            case "CALL":
                self.calls[values[1]] += 1
            case "COPY":
                self.copies.append(Copy(*map(int, values[1:])))
            case "SET":
                self.sets += 1
            case "WAIT":
                self.waits[values[0]] += 1
            case "CAPTURE":
                self.captures += values[0] == "end"
                self.lost += values[0] == "lost"
            case "REPLAY":
                self.replays.append(tuple(map(int, values[1:])))
            case "ALLOCATION":
                self.allocated[int(values[0])] += int(values[1])
            case "ERROR":
                self.errors.append((values[0], int(values[1])))
            case "CAPTURED":  # not done, but recorded into a graph
                pass
            case _:
                raise ValueError(f"a log of the stand-ins has a line that begins with {kind}")


def read(path: Path) -> dict[str, Counts]:
    """The sections of a log: "" before the first mark, and one for each mark, whose repetitions add up."""
    sections = {"": Counts()}
    current = sections[""]
    for line in path.read_text().splitlines() if path.exists() else ():
        kind, _, rest = line.partition(" ")
        if kind == "MARK":
            current = sections.setdefault(rest, Counts())
        else:
            current.add(kind, rest.split(" "))
    return sections
