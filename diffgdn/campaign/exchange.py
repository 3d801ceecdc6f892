"""Findings of many machines, exchanged over a storage while a campaign runs, in a thread of its own.

Each round pushes what lies in the folder and not in the storage, and pulls what is there and new here. There
is no other coordination, and no round needs the one before: a storage that is gone for a while gets what it
missed in the first round in which it answers, or from the next campaign on this folder.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Protocol

from diffgdn.campaign.events import Event, FindingFound, FindingShrunk
from diffgdn.findings.corpus import Corpus
from diffgdn.findings.finding import Finding
from diffgdn.findings.parse import CorpusError
from diffgdn.findings.storage import KINDS, NAME, Storage, StorageError, take, without_secrets

ROUND_SECONDS = 30.0
RETRY_SECONDS = 5.0  # while the storage is gone
FIRST_SECONDS = 60.0  # that a campaign waits for its first round, ...
LAST_SECONDS = 60.0  # ... and for the last one
INTERRUPTED_SECONDS = 5.0  # for the last one after Ctrl-C
POLL_SECONDS, CLOSING_SECONDS = 0.2, 1.0
# In the folder: names that have been in the storage. What went from there is not pushed again.
SYNCED = ".synced"
DOUBTS = 2  # rounds in which a file is no finding before that is told: it may have been half written


@dataclass(frozen=True)
class Pulled:
    """A finding has come from the storage."""

    finding: Finding
    path: Path


@dataclass(frozen=True)
class Said:
    """Something to tell: why the storage does not answer, that it does again, or a file that is no finding.

    gone: whether the storage does not answer.
    """

    words: str
    gone: bool


class Sharing(Protocol):
    """How a campaign shares findings with others: a listener that has news, and is closed in the end."""

    def __call__(self, event: Event) -> None:
        """Hear what the campaign has found."""

    def news(self) -> Iterator[Pulled | Said]:
        """Give what has happened since this was last asked."""

    def close(self, seconds: float) -> str | None:
        """Hand on what is left within so many seconds. Returns, in one line, why not all of it was."""


class Exchange:
    """Keep a folder and a storage alike, as far as findings are new: a listener, to be started and closed.

    problem: why the storage does not answer, None while it does.
    """

    def __init__(
        self, storage: Storage, corpus: Corpus, seconds: float = ROUND_SECONDS, retry: float = RETRY_SECONDS
    ) -> None:
        """seconds: from round to round; retry: the same while the storage does not answer."""
        self._storage, self._corpus = storage, corpus
        self._seconds, self._retry = seconds, retry
        self._place = without_secrets(storage.url)
        self._news: SimpleQueue[Pulled | Said] = SimpleQueue()
        self._again: set[str] = set()  # names whose content has changed
        self._dropped: set[str] = set()  # names that a smaller finding stands for
        self._met: set[str] = set()  # names of findings that the campaign knows of
        self._doubts: Counter[str] = Counter()
        self._lock = threading.Lock()  # of the four above
        self._wanted, self._tried = threading.Event(), threading.Event()
        self._running = self._closing = False
        self.problem: str | None = None
        self._thread = threading.Thread(target=self._work, name="exchange", daemon=True)

    def start(self, seconds: float = FIRST_SECONDS) -> None:
        """Begin, and wait for the first round, but no longer than so many seconds. What it brings is no news:
        the campaign reads its folder after that.
        """
        self._met |= self._local()
        self._thread.start()
        self._tried.wait(seconds)
        self._running = True

    def __call__(self, event: Event) -> None:
        """Hear what the campaign has saved, and what it has replaced by something smaller."""
        match event:
            case FindingFound():
                self._saved(event.finding.id)
            case FindingShrunk():
                self._saved(event.finding.id, changed=event.before == event.finding.id)
                if event.before != event.finding.id:
                    with self._lock:
                        self._dropped |= {f"{event.before}{kind}" for kind in KINDS}

    def _saved(self, name: str, changed: bool = False) -> None:
        with self._lock:
            self._met.add(f"{name}.json")
            self._again |= {f"{name}.json"} if changed else set()
        self._wanted.set()

    def news(self) -> Iterator[Pulled | Said]:
        """Give what has happened since this was last asked."""
        while True:
            try:
                yield self._news.get_nowait()
            except Empty:
                return

    def close(self, seconds: float = LAST_SECONDS) -> str | None:
        """Push what is left, for at most so many seconds. Returns, in one line, why not all of it was
        pushed; None if it was."""
        self._closing = True
        self._wanted.set()
        self._thread.join(seconds)
        left = (self._local() - self._synced()) | self._again
        if not left:
            return None
        many = "1 file is" if len(left) == 1 else f"{len(left)} files are"
        return (
            f"--corpus {self._place}: {self.problem or 'it does not answer'}: {many} not there yet; they lie "
            f"in {self._corpus.path}, and the next campaign with this --corpus takes them along"
        )

    def _work(self) -> None:
        while True:
            last = self._closing
            self._wanted.clear()
            well = self.once()
            self._tried.set()
            if well and last:
                return
            self._pause(well)

    def _pause(self, well: bool) -> None:
        """Wait for the next round. News does not hurry a storage that is gone; the end does."""
        if well:
            self._wanted.wait(self._seconds)
            return
        again = time.monotonic() + self._retry
        while time.monotonic() < again and not self._closing:
            time.sleep(min(POLL_SECONDS, self._retry))
        if self._closing:
            time.sleep(min(CLOSING_SECONDS, self._retry))

    def once(self) -> bool:
        """Push and pull, once; whether all of it went well."""
        try:
            there = self._storage.names()
            self._push(there)
            self._pull(there)
        except (StorageError, OSError) as error:
            if self.problem is None:
                words = f"{self._place}: {error}; findings are kept here, and it is tried again"
                self._news.put(Said(words, True))
            self.problem = str(error)
            return False
        if self.problem is not None:
            self._news.put(Said(f"{self._place} answers again", False))
        self.problem = None
        return True

    def _push(self, there: set[str]) -> None:
        synced, local = self._synced(), self._local()
        self._note((local & there) - synced)
        with self._lock:
            again, dropped = self._again & local, self._dropped - local
        for name in sorted((local - there - synced) | again):
            try:
                content = (self._corpus.path / name).read_bytes()
            except FileNotFoundError:
                continue  # it has just been replaced
            self._storage.put(name, content)
            self._note({name})
            with self._lock:
                self._again.discard(name)
        for name in sorted(dropped):
            if name in there:
                self._storage.remove(name)
            with self._lock:
                self._dropped.discard(name)

    def _pull(self, there: set[str]) -> None:
        """Take findings that are new here; of those that another process has put into the folder, tell.

        Raises StorageError for one that cannot be read, when all others have been.
        """
        unread: StorageError | None = None
        local, synced = self._local(), self._synced()
        with self._lock:
            found = {name for name in there if name.endswith(".json")} - self._met
        for name in sorted(found):
            if name not in local and name in synced:
                continue  # it was here, and went
            try:
                path = self._corpus.path / name
                if name not in local:
                    path = take(name, self._storage.get(name), self._corpus.path)
                    self._note({name})
                if self._running:
                    self._news.put(Pulled(self._corpus.read(path), path))
            except StorageError as error:
                unread = StorageError(f"{name}: {error}")
                continue
            except CorpusError as error:
                self._doubts[name] += 1
                if self._doubts[name] < DOUBTS:
                    continue
                self._news.put(Said(f"{self._place}: {error}; it is left out", False))
            with self._lock:
                self._met.add(name)
        if unread is not None:
            raise unread

    def _local(self) -> set[str]:
        """Names of files in the folder that belong to findings."""
        folder = self._corpus.path
        names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        return {name for name in names if NAME.fullmatch(name)}

    def _synced(self) -> set[str]:
        try:
            return set((self._corpus.path / SYNCED).read_text().split())
        except FileNotFoundError:
            return set()

    def _note(self, names: Iterable[str]) -> None:
        """Remember that these have been in the storage."""
        lines = "".join(f"{name}\n" for name in sorted(names))
        if lines:
            self._corpus.path.mkdir(parents=True, exist_ok=True)
            with (self._corpus.path / SYNCED).open("a") as file:
                file.write(lines)
