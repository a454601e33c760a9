"""Keeps arrays on disk, so that a reference's logits and caches take no memory while the candidate runs."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from seap_export.errors import EnvironmentFailure


@dataclass(frozen=True)
class StoredArray:
    """A reference to an array in an `ArrayStore`: its byte offset in the file, and its shape."""

    offset: int
    shape: tuple[int, ...]


class ArrayStore:
    """An unnamed temporary file of float32 arrays, which is deleted when the store is closed or the process ends.

    It is in the temporary folder (`TMPDIR`); the logits of 128 tokens with a vocabulary of 151k take 77 MB. It is not
    memory-mapped: a full disk would then crash the process instead of raising an error.
    """

    def __init__(self) -> None:
        self._file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> ArrayStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def put(self, array: NDArray[np.floating]) -> StoredArray:
        """Appends an array as float32."""
        data = np.ascontiguousarray(array, np.float32)
        offset = self._file.seek(0, 2)
        try:
            self._file.write(data.data)
            self._file.flush()
        except OSError as error:
            raise EnvironmentFailure(
                f"cannot keep {data.nbytes / 1e6:.0f} MB of the reference in {tempfile.gettempdir()}: "
                f"{error.strerror}; free space there or set TMPDIR (on Windows, TEMP) to another folder"
            ) from error
        return StoredArray(offset, data.shape)

    def get(self, stored: StoredArray) -> NDArray[np.float32]:
        """Reads back an array that `put` stored, float32 in its original shape."""
        self._file.seek(stored.offset)
        return np.frombuffer(self._file.read(4 * math.prod(stored.shape)), np.float32).reshape(stored.shape)
