"""Logits kept on disk, so that a reference's need no memory while the candidate runs."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from seap_export.errors import EnvironmentFailure

__all__ = ["LogitStore", "StoredLogits"]


@dataclass(frozen=True)
class StoredLogits:
    """Where the logits [tokens, vocabulary] lie in a store."""

    offset: int
    shape: tuple[int, int]


class LogitStore:
    """A nameless temporary file of float32 logits, gone when the store is closed or the process dies.

    It lies in the temporary folder (`TMPDIR`) and takes 4 bytes a logit: 77 MB for 128 tokens of a vocabulary
    of 151k. Written and read in the ordinary way rather than memory-mapped, since a full disk is then an error
    instead of a crash.
    """

    def __init__(self) -> None:
        self._file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> LogitStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def put(self, logits: NDArray[np.floating]) -> StoredLogits:
        """Appends logits [tokens, vocabulary] as float32.

        Raises:
            EnvironmentFailure: The temporary folder is full.
        """
        data = np.ascontiguousarray(logits, np.float32)
        offset = self._file.seek(0, 2)
        try:
            self._file.write(data.data)
            self._file.flush()
        except OSError as error:
            raise EnvironmentFailure(
                f"cannot keep {data.nbytes / 1e6:.0f} MB of logits in {tempfile.gettempdir()}: {error.strerror}; "
                "free space there or set TMPDIR to another folder"
            ) from error
        return StoredLogits(offset, (data.shape[0], data.shape[1]))

    def get(self, stored: StoredLogits) -> NDArray[np.float32]:
        """The logits [tokens, vocabulary] that `put` was given, float32."""
        self._file.seek(stored.offset)
        count = stored.shape[0] * stored.shape[1]
        return np.frombuffer(self._file.read(4 * count), np.float32).reshape(stored.shape)
