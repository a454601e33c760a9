"""The driver: hands each step out when those that it needs are made, and records the results."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

from seap_export.common.extras import install_remedy
from seap_export.errors import EnvironmentFailure
from seap_export.model.layers.compute import torch_threads
from seap_export.pipeline.cluster.connection import Cluster, connected, share_of
from seap_export.pipeline.cluster.worker import Event, Events, Failed, Finished, Order, make_order
from seap_export.pipeline.folder.manifest import package_versions
from seap_export.pipeline.folder.performance import Timed
from seap_export.pipeline.steps.step import Made, PathStep, Step

#: How often a step whose worker is lost is given to another one.
_RETRIES = 3
#: How often the driver looks for reports, and says how far the steps have come, in seconds.
_LOOK, _HEARTBEAT = 0.5, 30.0


def run_on_cluster(steps: Sequence[Step], made: Made, cluster: Cluster, timed: Timed) -> None:
    """Makes the missing steps: workers make each `PathStep`, this process the others, once all before are made.

    What follows the last `PathStep` runs when the workers have stopped, so that it has the machine to itself.
    """
    sent = [step for step in steps if isinstance(step, PathStep)]
    done = set()
    for step in sent:
        if made.workspace.is_done(step.name, step.key):
            done.add(step.name)
            if step.reused is not None:
                timed.say(step.reused)
    left = deque(steps)
    if len(done) < len(sent):
        with connected(cluster) as ray, closing(_Dispatch(ray, done, sent, made, cluster, timed)) as dispatch:
            while len(done) < len(sent):
                _make_here(left, done, made)
                dispatch.go_on()
    _make_here(left, done, made)


def _make_here(left: deque[Step], done: Collection[str], made: Made) -> None:
    """Drops finished steps and makes those for this process, up to the first step that is not ready."""
    while left:
        step = left[0]
        if not isinstance(step, PathStep):
            step.run(made)
        elif step.name not in done:
            return
        left.popleft()


@dataclass
class _Running:
    """A step that was handed out."""

    step: PathStep
    output: ExitStack
    host: str = ""
    since: float = 0.0
    units: str = "0"


class _Dispatch:
    """Hands out steps to the workers, and keeps track of those that are being made."""

    def __init__(
        self,
        ray: Any,
        done: set[str],
        steps: Sequence[PathStep],
        made: Made,
        cluster: Cluster,
        timed: Timed,
    ) -> None:
        self._ray, self._done, self._work, self._workspace = ray, done, made.work, made.workspace
        self._cluster, self._timed = cluster, timed
        self._waiting = [step for step in steps if step.name not in done]
        self._running: dict[Any, _Running] = {}
        self._share = share_of(ray, cluster)
        self._events = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Events).remote()
        self._make = ray.remote(num_cpus=self._share.threads, num_gpus=self._share.gpus, max_retries=_RETRIES)(
            make_order
        )
        self._told = time.monotonic()

    def go_on(self) -> None:
        """Hands out the steps that can be made now, waits a little, and records the results."""
        for step in [step for step in self._waiting if all(need.name in self._done for need in step.needs)]:
            self._waiting.remove(step)
            self._hand_out(step)
        ready, _ = self._ray.wait(list(self._running), timeout=_LOOK)
        for event in self._ray.get(self._events.take.remote()):
            self._show(event)
        self._tell()
        for ref in ready:
            self._record(ref)

    def _hand_out(self, step: PathStep) -> None:
        with ExitStack() as stack:
            path = stack.enter_context(
                self._workspace.writing(step.name, step.key, folder=step.is_folder, resumes=step.resumes)
            )
            order = Order(
                step=step,
                path=path.absolute(),
                folder=self._work.folder.absolute(),
                model=self._work.source.pinned_id or self._cluster.model_path,
                digest=self._work.source.digest,
                share=self._share,
                memory=self._cluster.memory,
                batch_tokens=self._work.compute.batch_tokens,
                versions=package_versions(),
            )
            ref = self._make.options(name=step.name).remote(order, self._events)
            self._running[ref] = _Running(step, stack.pop_all())

    def _record(self, ref: Any) -> None:
        running = self._running[ref]
        with ExitStack() as stack:
            stack.callback(self._running.pop, ref)
            stack.enter_context(torch_threads(self._share.threads))  # they are recorded with the step
            stack.push(running.output)  # whose end records the step, or keeps what is there of it
            result = self._result(ref, running)
            if isinstance(result, Failed):
                self._timed.say(f"{self._label(running)} failed on {running.host}")
                raise result.error
        self._done.add(running.step.name)
        self._timed.steps[running.step.name] = result.figures
        self._timed.say(f"{self._label(running)}: done in {result.figures.seconds:.0f} s on {running.host}")

    def _result(self, ref: Any, running: _Running) -> Finished | Failed:
        errors = self._ray.exceptions
        try:
            result: Finished | Failed = self._ray.get(ref)
        except errors.RayTaskError as error:  # `make_order` raises nothing, so it was not reached
            reason = (str(error).strip().splitlines() or [""])[-1]
            raise EnvironmentFailure(
                f"a worker cannot run seap-export ({reason}); install the same release of seap-export on all "
                f"machines, and Ray there too; {install_remedy('ray')}"
            ) from error
        except errors.RayError as error:
            raise EnvironmentFailure(
                f"{running.step.label}: lost {_RETRIES + 1} workers, the last one on {running.host} "
                f"({type(error).__name__}), perhaps out of memory; give each step more of a machine (--threads), "
                "or less memory (--memory), and run the same command again to continue"
            ) from error
        return result

    def _show(self, event: Event) -> None:
        running = next((each for each in self._running.values() if each.step.name == event.step), None)
        if event.kind == "say":
            self._timed.say(event.text)
        elif event.kind == "warn":
            self._timed.warn(event.text)
        elif running is None:  # a late report
            return
        elif event.kind == "count":
            running.units = event.text
        elif event.kind == "begin":
            again = f"lost the worker on {running.host}; again " if running.host else ""
            running.host, running.since, running.units = event.text, time.monotonic(), "0"
            self._timed.say(f"{again}{self._label(running)}, on {running.host}")

    def _tell(self) -> None:
        """Says how far the steps have come, every half minute."""
        now = time.monotonic()
        if now - self._told < _HEARTBEAT:
            return
        self._told = now
        for running in self._running.values():
            if running.host and now - running.since >= _HEARTBEAT:
                of = f" of {running.step.units}" if running.step.units else ""
                self._timed.say(f"{self._label(running)}, on {running.host}: {running.units}{of}")

    def _label(self, running: _Running) -> str:
        return self._timed.numbered(running.step.label, running.step.name)

    def close(self) -> None:
        """Stops the workers; the finished parts of their steps stay for the next run."""
        if self._running:
            self._ray.shutdown()  # Ray may abort this process if a task is cancelled while its worker answers
        for running in self._running.values():
            stopped = KeyboardInterrupt()
            running.output.__exit__(KeyboardInterrupt, stopped, None)
        self._running.clear()
