"""A process that runs one part of a joint campaign, and sends what happens in it.

A part is an ordinary campaign: a shard of the joint one's seed, over workers of its own, with a folder of
findings that goes with the process. What others have found comes in over the pipe.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from diffgdn.campaign import engine, events
from diffgdn.campaign.exchange import Pulled, Said
from diffgdn.campaign.joint.part_messages import Ended, Files, Start
from diffgdn.campaign.worker_pool import automatic_workers
from diffgdn.findings.corpus import SIDE_FILES, Corpus
from diffgdn.findings.finding import Finding
from diffgdn.runner import child_process

LOOK_SECONDS = 1.0  # between looks for scripts and pictures that have been laid beside findings


class PipeSharing:
    """What a part has in an exchange's place: a listener that sends events on, and brings others' findings.

    A pipe that is closed ends the part as Ctrl-C does: nobody listens any more.
    """

    def __init__(self, pipe: Connection, corpus: Corpus) -> None:
        """Take the pipe, and the folder that findings of others are put into."""
        self._pipe, self._corpus = pipe, corpus
        self._bare: dict[str, set[str]] = {}  # of findings that were told of: what has been sent with them
        self._next_look = 0.0

    def __call__(self, event: events.Event) -> None:
        """Send an event on, and what has been laid beside findings meanwhile."""
        match event:
            case events.FindingFound():
                self._bare[event.finding.id] = set()
            case events.FindingShrunk():
                self._bare.pop(event.before, None)
                self._bare[event.finding.id] = set()
        self._send(event)
        if time.monotonic() >= self._next_look:
            self.send_files()
            self._next_look = time.monotonic() + LOOK_SECONDS

    def send_files(self) -> None:
        """Send scripts and pictures that have not been sent."""
        for name, sent in self._bare.items():
            contents = {}
            for suffix in SIDE_FILES:
                file = self._corpus.path / f"{name}{suffix}"
                if suffix not in sent and file.is_file():
                    contents[suffix] = file.read_bytes()
            if contents:
                sent |= set(contents)
                self._send(Files(name, contents))

    def news(self) -> Iterator[Pulled | Said]:
        """Give what other parts have found since this was last asked."""
        try:
            while self._pipe.poll():
                finding = self._pipe.recv()
                yield Pulled(finding, self._corpus.save(finding))
        except (EOFError, OSError):
            raise KeyboardInterrupt from None

    def close(self, seconds: float) -> str | None:
        """Send what is left. Nothing is ever missing."""
        self.send_files()
        return None

    def _send(self, message: object) -> None:
        try:
            self._pipe.send(message)
        except OSError:
            raise KeyboardInterrupt from None


def main(descriptor: int, parent: int) -> None:
    """Run the campaign that comes over the pipe, to its end or to SIGINT; then send its outcome."""
    child_process.end_with(parent)
    pipe = Connection(descriptor)
    sys.path += [entry for entry in pipe.recv() if entry not in sys.path]
    start: Start = pipe.recv()
    workers = start.config.workers if start.own_workers else automatic_workers(start.config.backend)
    with tempfile.TemporaryDirectory(prefix="diffgdn-part-") as folder:
        corpus = Corpus(Path(folder) / "findings")
        save(corpus, start.old)
        config = dataclasses.replace(start.config, corpus=corpus.path, workers=workers)
        sharing = PipeSharing(pipe, corpus)
        with contextlib.suppress(KeyboardInterrupt, OSError):  # nobody listens
            pipe.send(Ended(engine.run(config, _nobody, sharing)))


def save(corpus: Corpus, findings: Sequence[Finding]) -> None:
    """Put findings into a folder."""
    for finding in findings:
        corpus.save(finding)


def _nobody(event: events.Event) -> None:
    """Listen to no event: they are sent."""


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
