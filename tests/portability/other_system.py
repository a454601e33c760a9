"""Makes Python on Linux lack what Windows lacks; the tests put it in a folder as sitecustomize.py.

The package finds no fcntl and its like, no /proc, no cores by affinity. Text is written with CRLF unless a line end is
asked for. A file that is open or mapped can be neither renamed nor removed, and nor can a folder that holds one.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import shutil
import signal
from collections.abc import Callable
from typing import Any

ABSENT = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog")
PACKAGES = ("seap_export", "converters", "validation", "__main__")
OS_NAMES = ("sched_getaffinity", "sched_setaffinity", "wait4", "mkfifo", "killpg", "getpgid")
SIGNALS = ("SIGPIPE", "SIGHUP", "SIGALRM", "SIGQUIT", "SIGUSR1", "SIGUSR2")


def _without_absent(real: Callable[..., Any]) -> Callable[..., Any]:
    """`import` for the package alone: other libraries have parts for Linux, which need these modules on Linux."""

    def replacement(name: str, globals: Any = None, *rest: Any, **options: Any) -> Any:
        if name in ABSENT and str((globals or {}).get("__name__")).partition(".")[0] in PACKAGES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, globals, *rest, **options)

    return replacement


def _without_proc(real: Callable[..., Any]) -> Callable[..., Any]:
    """`open` without /proc, and with Windows' line ends."""

    def replacement(
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        *rest: Any,
        **options: Any,
    ) -> Any:
        _refuse_proc(file)
        if "b" not in mode and set(mode) & set("wax+") and newline is None:
            newline = "\r\n"
        return real(file, mode, buffering, encoding, errors, newline, *rest, **options)

    return replacement


def _refuse_proc(path: Any) -> None:
    if isinstance(path, str | bytes | os.PathLike) and os.fsdecode(path).startswith("/proc"):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", os.fsdecode(path))


def _files_in_use() -> set[str]:
    """Paths of all files that this process has open or mapped."""
    with _open("/proc/self/maps") as file:
        paths = {line.split(maxsplit=5)[5].rstrip("\n") for line in file if line.count(" /")}
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            paths.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        except OSError:  # that of the listing itself
            continue
    return {path for path in paths if path.startswith("/")}


def _refuse_files_in_use(real: Callable[..., Any]) -> Callable[..., Any]:
    def replacement(*arguments: Any, **options: Any) -> Any:
        paths = [os.path.realpath(os.fsdecode(path)) for path in arguments]
        for path in _files_in_use():
            if any(path == position or path.startswith(position + os.sep) for position in paths):
                raise PermissionError(errno.EACCES, "The process cannot access the file", path)
        return real(*arguments, **options)

    return replacement


_open = io.open
builtins.__import__ = _without_absent(builtins.__import__)
for _name in OS_NAMES:
    delattr(os, _name)
for _name in SIGNALS:
    delattr(signal, _name)
builtins.open = io.open = _without_proc(io.open)
for _name in ("rename", "replace", "unlink", "remove"):
    setattr(os, _name, _refuse_files_in_use(getattr(os, _name)))
shutil._use_fd_functions = False  # type: ignore[attr-defined]  # rmtree goes by paths, as on Windows
