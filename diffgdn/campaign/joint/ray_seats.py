"""Seats on a Ray cluster: each GPU of each node, or in the interpreter each node with its cores.

In each seat an actor starts a part as a process of its own, and hands on what it sends. An actor is asked for
messages again and again; one that answers no more is lost. Nodes are looked for all the time, so that those
that join are used. Ray gives a seat its GPU and its cores, or has it wait for them.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import tempfile
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from diffgdn.campaign.joint.part_messages import Ended, Lost, Start
from diffgdn.findings.finding import Finding
from diffgdn.runner.child_process import ChildProcess, ending

PART = "diffgdn.campaign.joint.part"
ANSWER_SECONDS = 1.0  # that an actor waits for its part to send something
LOOK_SECONDS = 2.0  # between looks for nodes
MOST_CORES = 16  # of a seat with a GPU
CLOSE_SECONDS = 5.0  # for an actor to end its part


class RayError(Exception):
    """There is no cluster to be used; one line for the user."""


class PartActor:
    """Runs one part on a node. An actor of Ray, of two threads: one waits for messages, one takes them in."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="diffgdn-seat-")
        self._child: ChildProcess | None = None

    def start(self, version: str, start: Start) -> str | None:
        """Start the part; why it cannot, or None. version: of diffgdn, which all machines must have."""
        ours = metadata.version("diffgdn")
        if ours != version:
            return f"it has diffgdn {ours}, not {version}"
        self._child = ChildProcess(PART, [], Path(self._folder.name) / "part.log")
        self._child.send(start)
        return None

    def messages(self) -> list[Any]:
        """Return what the part has sent, or that it is gone."""
        assert self._child is not None
        found: list[Any] = []
        try:
            more = self._child.connection.poll(ANSWER_SECONDS)
            while more:
                found.append(self._child.connection.recv())
                more = self._child.connection.poll()
        except (EOFError, OSError):
            if not any(isinstance(one, Ended) for one in found):
                self._child.wait()
                found.append(Lost(ending(self._child.status or 0, self._child.last_words())))
        return found

    def tell(self, finding: Finding) -> None:
        """Tell the part what another one has found."""
        if self._child is not None:
            self._child.send(finding)

    def interrupt(self) -> None:
        """Have the part end as Ctrl-C does."""
        if self._child is not None and self._child.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child.pid, signal.SIGINT)

    def close(self) -> None:
        """End the part and what it started, and remove what it left behind."""
        if self._child is not None:
            self._child.end()
        self._folder.cleanup()


class RaySeats:
    """Seats on the Ray cluster at an address.

    address: as `ray.init` takes it: `auto` for the cluster of this machine, HOST:PORT, or ray://HOST:PORT.
    Raises RayError if Ray is not installed or the cluster does not answer.
    """

    def __init__(self, address: str, backend: str) -> None:
        try:
            ray: Any = importlib.import_module("ray")
            scheduling = importlib.import_module("ray.util.scheduling_strategies")
        except ImportError:
            raise RayError("Ray is not installed; pip install 'diffgdn[ray]'") from None
        self._ray, self._gpus, self._on_node = (
            ray,
            backend == "gpu",
            scheduling.NodeAffinitySchedulingStrategy,
        )
        try:
            ray.init(address=address, log_to_driver=False, configure_logging=False)
        except Exception as error:  # of any class, from its parts
            said = str(error).strip().splitlines()
            raise RayError(f"{address}: {said[0] if said else type(error).__name__}") from None
        self._class = ray.remote(PartActor)
        self._version = metadata.version("diffgdn")
        self._actors: dict[str, Any] = {}
        self._waiting: dict[Any, str] = {}  # answers that are to come, with their seats
        self._ended: list[tuple[str, Any]] = []
        self._nodes: dict[str, tuple[str, float]] = {}  # of each seat its node, and the cores that it has
        self._next_look = 0.0

    def free(self) -> Sequence[str]:
        """List the seats of the nodes that are alive and have no part."""
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            self._nodes = self._look()
        return [seat for seat in self._nodes if seat not in self._actors]

    def _look(self) -> dict[str, tuple[str, float]]:
        seats = {}
        for node in self._ray.nodes():
            if not node["Alive"]:
                continue
            has, name = node["Resources"], f"{node['NodeName']}-{node['NodeID'][:6]}"
            cores, gpus = has.get("CPU", 0.0), int(has.get("GPU", 0))
            if not self._gpus and cores >= 1:
                seats[name] = node["NodeID"], cores
            for number in range(gpus if self._gpus else 0):
                seats[f"{name}/{number}"] = node["NodeID"], min(MOST_CORES, cores // gpus)
        return seats

    def start(self, seat: str, start: Start) -> None:
        """Start a part in a free seat, when Ray has its GPU and its cores for it."""
        node, cores = self._nodes[seat]
        actor = self._class.options(
            num_cpus=max(1.0, min(cores, start.config.workers) if start.own_workers else cores),
            num_gpus=1 if self._gpus else 0,
            max_concurrency=2,
            scheduling_strategy=self._on_node(node, soft=False),
        ).remote()
        self._actors[seat] = actor
        self._waiting[actor.start.remote(self._version, start)] = seat

    def receive(self, seconds: float) -> Sequence[tuple[str, Any]]:
        """Return what parts have sent, waiting so long for the first to send."""
        found, self._ended = self._ended, []
        ready: list[Any] = []
        if self._waiting:
            waiting = list(self._waiting)
            ready, _ = self._ray.wait(waiting, num_returns=1, timeout=0.0 if found else seconds)
            ready += (
                self._ray.wait([one for one in waiting if one not in ready], timeout=0.0)[0] if ready else []
            )
        else:
            time.sleep(0.0 if found else seconds)
        for answer in ready:
            found += self._answered(self._waiting.pop(answer), answer)
        return found

    def _answered(self, seat: str, answer: Any) -> list[tuple[str, Any]]:
        """Take an answer of an actor: messages, or None or a reason once it was to start."""
        try:
            got = self._ray.get(answer)
        except self._ray.exceptions.RayError as error:
            said = str(error).strip().splitlines()
            got = [
                Lost(f"its node or its process is gone ({type(error).__name__}: {said[0] if said else ''})")
            ]
        if isinstance(got, str):
            got = [Lost(got)]
        messages = got or []
        if any(isinstance(one, Ended | Lost) for one in messages):
            self._let_go(seat)
        else:
            self._waiting[self._actors[seat].messages.remote()] = seat
        return [(seat, one) for one in messages]

    def _let_go(self, seat: str) -> None:
        actor = self._actors.pop(seat)
        with contextlib.suppress(Exception):  # it may be gone
            self._ray.get(actor.close.remote(), timeout=CLOSE_SECONDS)
        self._ray.kill(actor)

    def tell(self, seat: str, finding: Finding) -> None:
        """Send a part what another one has found."""
        if seat in self._actors:
            self._actors[seat].tell.remote(finding)

    def interrupt(self) -> None:
        """Have all parts end as Ctrl-C does."""
        for actor in self._actors.values():
            actor.interrupt.remote()

    def close(self) -> None:
        """End all parts, and leave the cluster."""
        for seat in list(self._actors):
            self._let_go(seat)
        self._ray.shutdown()
