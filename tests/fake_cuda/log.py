"""What the stand-ins wrote down, counted in the sections that a test marked."""

from __future__ import annotations

import ctypes
import subprocess
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
    """What a section holds.

    Attributes:
        kernels: Launches by the kernel's mangled name; `readable` makes sense of it.
        calls: Calls of libraries that work on the GPU, by name.
        copies: In their order.
        sets: Fills of memory.
        waits: Waits of the host for the GPU, by what for: "stream", "event", "device" or "copy".
        captured: What was not done but recorded into a graph, like `kernels` and `calls`.
        captures: Graphs that were captured.
        lost: Captures that ended without a graph.
        replays: For each launch of a graph, its kernels, calls, copies and fills.
        allocated: Bytes that each GPU was asked for and gave.
        freed: Bytes that each GPU got back.
        refused: Bytes of each allocation that a GPU had no room for.
        errors: What failed: the function and CUDA's error code.
        work: Launches, calls and replays on each GPU.
    """

    kernels: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    copies: list[Copy] = field(default_factory=list)
    sets: int = 0
    waits: Counter[str] = field(default_factory=Counter)
    captured: Counter[str] = field(default_factory=Counter)
    captures: int = 0
    lost: int = 0
    replays: list[tuple[int, int, int, int]] = field(default_factory=list)
    allocated: Counter[int] = field(default_factory=Counter)
    freed: Counter[int] = field(default_factory=Counter)
    refused: list[int] = field(default_factory=list)
    errors: list[tuple[str, int]] = field(default_factory=list)
    work: Counter[int] = field(default_factory=Counter)

    @property
    def launches(self) -> int:
        """Kernels that were launched, without those of graphs."""
        return self.kernels.total()

    @property
    def to_host(self) -> list[int]:
        """Bytes of each copy from a GPU to the host."""
        return [copy.bytes for copy in self.copies if copy.source != HOST and copy.target == HOST]

    @property
    def to_device(self) -> list[int]:
        """Bytes of each copy from the host to a GPU."""
        return [copy.bytes for copy in self.copies if copy.source == HOST and copy.target != HOST]

    @property
    def between_devices(self) -> list[int]:
        """Bytes of each copy from one GPU to another."""
        return [copy.bytes for copy in self.copies if HOST != copy.source != copy.target != HOST]

    @property
    def within_devices(self) -> list[int]:
        """Bytes of each copy from one place of a GPU to another."""
        return [copy.bytes for copy in self.copies if HOST != copy.source == copy.target]

    def add(self, kind: str, values: list[str]) -> None:
        """Counts a line of the log."""
        match kind:
            case "LAUNCH":
                self.kernels[values[1]] += 1
                self.work[int(values[0])] += 1
            case "CALL":
                self.calls[values[1]] += 1
                self.work[int(values[0])] += 1
            case "COPY":
                self.copies.append(Copy(*map(int, values[1:])))
            case "SET":
                self.sets += 1
            case "WAIT":
                self.waits[values[0]] += 1
            case "CAPTURED":
                self.captured[values[2] if values[0] in ("LAUNCH", "CALL") else values[0]] += 1
            case "CAPTURE":
                self.captures += values[0] == "end"
                self.lost += values[0] == "lost"
            case "REPLAY":
                launches, calls, copies, sets = map(int, values[1:])
                self.replays.append((launches, calls, copies, sets))
                self.work[int(values[0])] += 1
            case "ALLOCATION":
                self.allocated[int(values[0])] += int(values[1])
            case "FREE":
                self.freed[int(values[0])] += int(values[1])
            case "REFUSED":
                self.refused.append(int(values[1]))
            case "ERROR":
                self.errors.append((values[0], int(values[1])))
            case "DRIVER":
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


def readable(kernels: Counter[str]) -> Counter[str]:
    """Kernels by their names in C++, which c++filt gives."""
    result = subprocess.run(["c++filt"], input="\n".join(kernels), capture_output=True, text=True, check=True)
    names: Counter[str] = Counter()
    for name, (_, count) in zip(result.stdout.splitlines(), kernels.items(), strict=True):
        names[name] += count
    return names
