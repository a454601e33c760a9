"""The connection to a Ray cluster. Ray is imported nowhere else, and only when there is something to connect to."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

from seap_export.common.extras import install_remedy
from seap_export.common.providers import PROVIDERS
from seap_export.errors import EnvironmentFailure, UsageError
from seap_export.model.layers.compute import parse_bytes
from seap_export.runtime.session import available_threads

LOCAL = "local"
_ADDRESS = re.compile(r"ray://([^:/\s]+|\[[0-9a-fA-F:]+\]):(\d{1,5})")
_CONNECT_SECONDS = 10.0
#: Steps send and return next to nothing; the files are on the shared disk. Ray takes no less.
_OBJECT_STORE_BYTES = 80 * 2**20


@dataclass(frozen=True)
class Cluster:
    """The cluster that steps are made on, and the share of its machines that each step gets.

    Attributes:
        address: `local` for this machine alone, or `ray://HOST:PORT`.
        model: A path that every machine sees, or a hub id.
        device: `auto`, `cpu` or `cuda`; Ray chooses the GPU.
        memory: Memory that one step may take, such as `8GiB`; None: its share of what is free.
        threads: CPUs of a step; None: all of the smallest machine.
        provider: Execution provider on which parity is checked.
    """

    address: str
    model: str
    device: str = "auto"
    memory: str | None = None
    threads: int | None = None
    provider: str = "cpu"

    def __post_init__(self) -> None:
        if self.address != LOCAL and not _ADDRESS.fullmatch(self.address):
            raise UsageError(f"--cluster '{self.address}' is no address; give local, or ray://HOST:10001")
        if self.device not in ("auto", "cpu", "cuda"):
            raise UsageError(f"--device {self.device}: Ray chooses the GPU of a step; give auto, cpu or cuda")
        if self.memory is not None:
            parse_bytes(self.memory)
        import_ray()

    @property
    def model_path(self) -> str:
        """The model as workers open it, whatever their current folder is."""
        path = os.path.abspath(os.path.expanduser(self.model))
        return path if os.path.exists(path) else self.model


@dataclass(frozen=True)
class Share:
    """The resources that each step gets. They are the same for all, because results depend on them to rounding."""

    threads: int
    gpus: int
    device: str


def import_ray() -> Any:
    """The package Ray; raises `EnvironmentFailure` if it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise EnvironmentFailure(f"--cluster needs Ray; {install_remedy('ray')}") from error
    return ray


@contextmanager
def connected(cluster: Cluster) -> Iterator[Any]:
    """Yields Ray, connected; a local cluster lives as long as the block."""
    ray = import_ray()
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):  # Ray prints there when a worker is lost
        try:
            with _sigterm_kept():
                _connect(ray, cluster.address)
            yield ray
        except (ConnectionError, ray.exceptions.RayError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise EnvironmentFailure(
                f"--cluster {cluster.address}: {reason}; see that it runs, then run the same command again to continue"
            ) from error
        finally:
            ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL:
        cpus = available_threads()
        try:
            ray.init(LOCAL, num_cpus=cpus, include_dashboard=False, object_store_memory=_OBJECT_STORE_BYTES, **quiet)
        except Exception as error:  # a bare one if it does not start in time
            raise ConnectionError(str(error)) from error
        return
    host, port = address.removeprefix("ray://").rsplit(":", 1)
    try:  # Ray itself would try for half a minute
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ConnectionError(f"nothing answers there ({error})") from error
    try:
        with warnings.catch_warnings(action="ignore"):  # what it warns of is in the error, too
            ray.init(address, **quiet)
    except ConnectionError as error:  # it tried for half a minute; a wrong token ends like this, too
        raise ConnectionError(f"{error}; it may want a token (RAY_AUTH_MODE=token, RAY_AUTH_TOKEN)") from error
    except (RuntimeError, ValueError, TypeError) as error:  # such as another release of Ray or Python
        raise ConnectionError(str(error)) from error


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Ray installs a handler of its own, which would not remove temporary folders."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def share_of(ray: Any, cluster: Cluster) -> Share:
    """The resources that each step gets, chosen from those of the connected machines."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    if not machines:
        raise EnvironmentFailure(
            f"--cluster {cluster.address}: no machine has a CPU for a step; add one to the cluster"
        )
    threads = cluster.threads or int(min(machine["CPU"] for machine in machines))
    device = cluster.device
    if device == "auto":
        device = "cuda" if any(machine.get("GPU") for machine in machines) else "cpu"
    gpus = int("cuda" in (device, PROVIDERS[cluster.provider].device))
    if not any(machine["CPU"] >= threads and machine.get("GPU", 0) >= gpus for machine in machines):
        most = int(max(machine["CPU"] for machine in machines))
        raise EnvironmentFailure(
            f"--cluster {cluster.address}: no machine has {threads} CPUs{' and a GPU' if gpus else ''} for a step; "
            f"the largest has {most} CPUs; give --threads {most} or less{', or --device cpu' if gpus else ''}"
        )
    return Share(threads, gpus, device)
