"""Writes the file of an ExecuTorch program, with one tensor in memory at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from converters.executorch.program import Program
from converters.executorch.weights import stored_numbers


def write_program(
    path: Path,
    program: Program,
    read: Callable[[str], torch.Tensor],
    on_tensor: Callable[[str], None] = lambda _: None,
) -> None:
    """Writes a program and the numbers of its weights into one file.

    Args:
        program: The program, to which nothing is added any more.
        read: Gives a tensor of the model by its name in the plain form.
        on_tensor: Called with the name of each tensor once it is written.

    Raises:
        InputError: A tensor has NaN or infinite values.
    """
    offsets = program.offsets()
    with path.open("wb") as file:
        for start, piece in program.pieces().items():
            file.seek(start)
            file.write(piece)
        for name, weight in program.weights.items():
            stored = stored_numbers(weight, read(name))
            for part, numbers in ((name, stored.numbers), (weight.scale_name, stored.scales)):
                if numbers is not None:
                    file.seek(offsets[part])
                    file.write(numbers.contiguous().view(torch.uint8).numpy().data)
            on_tensor(name)
        file.truncate(offsets[""])
