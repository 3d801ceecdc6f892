"""Many machines: findings exchanged over a storage that may be gone."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from diffgdn.backend import selection as backends
from diffgdn.campaign import tasks
from diffgdn.campaign.config import Config
from diffgdn.campaign.events import Event, FindingFound, FindingPulled, FindingShrunk
from diffgdn.campaign.exchange import SYNCED, Exchange, Pulled, Said
from diffgdn.campaign.inbox import Inbox
from diffgdn.campaign.ledger import Ledger
from diffgdn.cases.case import Case
from diffgdn.cli import run
from diffgdn.findings import storage
from diffgdn.findings.corpus import Corpus
from diffgdn.findings.finding import COMPLETE, UNSHRUNK, Finding
from diffgdn.findings.parse import MAX_BYTES, CorpusError
from diffgdn.findings.storage import Storage, StorageError

pytest.importorskip("fsspec")
TOYS = Path(__file__).with_name("toys.py")
URL = "memory://team/findings"


@pytest.fixture(autouse=True)
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    """A storage that is empty, in an empty current directory."""
    monkeypatch.chdir(tmp_path)
    made = Storage.at(URL)
    made.system.store.clear()
    yield made
    made.system.store.clear()


@pytest.fixture
def gone(monkeypatch: pytest.MonkeyPatch, shared: Storage) -> Callable[[bool], None]:
    """Makes the storage refuse, or answer again."""
    lists, refuses = type(shared.system).ls, [False]

    def ls(self: Any, *arguments: Any, **named: Any) -> Any:
        if refuses[0]:
            raise ConnectionError("no route to host\nand more")
        return lists(self, *arguments, **named)

    monkeypatch.setattr(type(shared.system), "ls", ls)

    def switch(away: bool) -> None:
        refuses[0] = away

    return switch


def finding(
    tokens: int = 3, shrink: str = COMPLETE, target: str = "t", kind: str = "beyond_bound"
) -> Finding:
    return Finding(Case("gdn.decode", lens=(tokens,)), target, "interpret", kind, "wrong", "o", shrink=shrink)


class Machine:
    """A folder of its own, and the exchange of a campaign that has started."""

    def __init__(self, folder: Path) -> None:
        self.corpus = Corpus(folder)
        self.exchange = Exchange(Storage.at(URL), self.corpus)
        self.exchange._running = True

    def finds(self, found: Finding) -> Path:
        path = self.corpus.save(found)
        self.exchange(FindingFound(found, str(path)))
        return path

    def shrinks(self, before: Finding, smaller: Finding) -> None:
        path = self.corpus.save(smaller)
        self.corpus.remove(before)
        self.exchange(FindingShrunk(smaller, str(path), before.id, 1.0))

    def news(self) -> list[str]:
        """What one round brings, in words."""
        self.exchange.once()
        return [one.words if isinstance(one, Said) else one.finding.id for one in self.exchange.news()]

    @property
    def names(self) -> set[str]:
        return {path.name for path in self.corpus.files()}


@pytest.fixture
def machines(tmp_path: Path) -> tuple[Machine, Machine]:
    return Machine(tmp_path / "one"), Machine(tmp_path / "two")


class TestStorage:
    def test_what_is_put_is_there_whole(self, shared: Storage, tmp_path: Path) -> None:
        for place in (shared, Storage.at(f"file://{tmp_path}/a/b")):
            assert place.names() == set()
            place.put("x-1.json", b"one")
            place.put("x-1.json", b"two")
            assert place.get("x-1.json") == b"two"
            assert place.names() == {"x-1.json"}
            place.remove("x-1.json")
            place.remove("x-1.json")
            assert place.names() == set()
        assert list((tmp_path / "a" / "b").iterdir()) == []

    def test_names_are_those_of_findings(self, shared: Storage) -> None:
        for name in (".hidden.json", "notes.md", "a b.json", "good.json", "good.py"):
            shared.system.pipe_file(f"{shared.folder}/{name}", b"")
        shared.system.pipe_file(f"{shared.folder}/below/other.json", b"")
        assert shared.names() == {"good.json", "good.py"}

    def test_its_faults_are_one_line_of_one_class(self, shared: Storage, gone: Any) -> None:
        gone(True)
        with pytest.raises(StorageError, match=r"^ConnectionError: no route to host$"):
            shared.names()
        with pytest.raises(StorageError, match=r"^FileNotFoundError: "):
            shared.get("nothing.json")

    def test_only_a_finding_of_its_name_is_taken(self, tmp_path: Path) -> None:
        good = finding()
        content = json.dumps(good.to_json()).encode()
        for name, given in ((f"{good.id}.json", b"{"), ("another.json", content)):
            with pytest.raises(CorpusError, match=rf"^{name}: not JSON|^it holds {good.id}"):
                storage.take(name, given, tmp_path / "f")
            assert list((tmp_path / "f").iterdir()) == []
        assert Corpus(tmp_path / "f").read(storage.take(f"{good.id}.json", content, tmp_path / "f")) == good

    def test_what_is_too_large_for_a_finding_is_not_read_whole(self, shared: Storage, tmp_path: Path) -> None:
        shared.put("large.json", b" " * (2 * MAX_BYTES))
        content = shared.get("large.json")
        assert len(content) == MAX_BYTES + 1
        with pytest.raises(CorpusError, match=f"^large.json: larger than {MAX_BYTES} bytes"):
            storage.take("large.json", content, tmp_path)

    def test_each_url_has_a_folder_of_its_own_and_no_password_is_shown(self) -> None:
        one = storage.mirror("ssh://me:secret@host/findings", Path("findings"))
        assert re.fullmatch(r"findings/ssh-host-findings-[0-9a-f]{6}", str(one))
        assert one != storage.mirror("ssh://you@host/findings", Path("findings"))


class TestExchange:
    def test_what_one_machine_finds_the_other_gets(self, machines: tuple[Machine, Machine]) -> None:
        one, two = machines
        one.finds(finding())
        assert one.news() == []
        assert two.news() == [finding().id]
        assert two.corpus.findings() == [finding()]
        assert (two.news(), one.news()) == ([], [])

    def test_what_was_found_twice_is_there_once(
        self, machines: tuple[Machine, Machine], shared: Storage
    ) -> None:
        for machine in machines:
            machine.finds(finding())
        assert [machine.news() for machine in machines * 2] == [[], [], [], []]
        assert shared.names() == {f"{finding().id}.json"}

    def test_a_smaller_one_takes_the_place_of_a_larger(
        self, machines: tuple[Machine, Machine], shared: Storage
    ) -> None:
        """Also where the larger one has been pulled: nobody pushes it again."""
        one, two = machines
        large, small = finding(9, UNSHRUNK), finding(3)
        one.finds(large)
        one.news()
        assert two.news() == [large.id]
        one.shrinks(large, small)
        one.news()
        assert shared.names() == {f"{small.id}.json"}
        assert two.news() == [small.id]
        assert Machine(two.corpus.path).exchange.once()  # the next campaign there
        assert shared.names() == {f"{small.id}.json"}
        assert one.names == {f"{small.id}.json"}

    def test_a_finding_that_was_shrunk_no_further_is_written_again(
        self, machines: tuple[Machine, Machine], shared: Storage
    ) -> None:
        one, _ = machines
        before, after = finding(3, UNSHRUNK), finding(3)
        one.finds(before)
        one.news()
        one.corpus.keep(after, anew=True)
        one.exchange(FindingShrunk(after, "", before.id, 1.0))
        one.news()
        assert json.loads(shared.get(f"{after.id}.json"))["shrink"] == COMPLETE

    def test_scripts_and_pictures_are_pushed_and_none_is_taken(
        self, machines: tuple[Machine, Machine], shared: Storage
    ) -> None:
        one, two = machines
        one.finds(finding()).with_suffix(".py").write_text("print()")
        one.news()
        two.news()
        assert shared.names() == {f"{finding().id}.json", f"{finding().id}.py"}
        assert [path.name for path in two.corpus.path.glob("*.py")] == []

    def test_a_storage_that_is_gone_for_a_while_loses_nothing(
        self, machines: tuple[Machine, Machine], shared: Storage, gone: Any
    ) -> None:
        """It is told once that it is gone, and once that it is back."""
        one, two = machines
        gone(True)
        one.finds(finding(3))
        assert one.news() == [
            f"{URL}: ConnectionError: no route to host; findings are kept here, and it is tried again"
        ]
        one.finds(finding(4))
        assert one.news() == []
        gone(False)
        assert one.news() == ["memory://team/findings answers again"]
        assert set(two.news()) == {finding(3).id, finding(4).id}

    def test_what_could_not_be_pushed_is_told_and_goes_with_the_next_campaign(
        self, tmp_path: Path, shared: Storage, gone: Any
    ) -> None:
        gone(True)
        corpus = Corpus(tmp_path / "one")
        exchange = Exchange(shared, corpus, seconds=0.05, retry=0.01)
        exchange.start(5.0)
        corpus.save(finding())
        assert exchange.close(0.3) == (
            "--corpus memory://team/findings: ConnectionError: no route to host: 1 file is not there yet; "
            f"they lie in {corpus.path}, and the next campaign with this --corpus takes them along"
        )
        gone(False)
        later = Exchange(shared, corpus, seconds=60.0)
        later.start(5.0)
        assert later.close(5.0) is None
        assert shared.names() == {f"{finding().id}.json"}

    def test_its_thread_works_in_rounds_and_at_once_for_what_is_found(
        self, tmp_path: Path, shared: Storage, until: Callable[[Callable[[], bool]], None]
    ) -> None:
        """The first round is done when the campaign reads its folder, and is no news."""
        theirs, ours, later = finding(5), finding(6), finding(7)
        shared.put(f"{theirs.id}.json", json.dumps(theirs.to_json()).encode())
        corpus = Corpus(tmp_path / "one")
        exchange = Exchange(shared, corpus, seconds=600.0)
        exchange.start(30.0)
        assert corpus.findings() == [theirs]
        shared.put(f"{later.id}.json", json.dumps(later.to_json()).encode())
        exchange(FindingFound(ours, str(corpus.save(ours))))
        until(lambda: f"{ours.id}.json" in shared.names())
        began = time.monotonic()
        assert exchange.close(60.0) is None
        assert time.monotonic() - began < 30.0
        [news] = exchange.news()
        assert isinstance(news, Pulled)
        assert news.finding == later

    def test_what_is_no_finding_is_told_once_and_stays_away(
        self, machines: tuple[Machine, Machine], shared: Storage
    ) -> None:
        """In the second round that sees it so: it may have been half written."""
        one, _ = machines
        shared.put("bad.json", b"{")
        shared.put(f"{finding().id}.json", json.dumps(finding().to_json()).encode())
        assert one.news() == [finding().id]
        [said] = one.news()
        assert said.startswith("memory://team/findings: bad.json: not JSON: ")
        assert one.news() == []
        assert one.names == {f"{finding().id}.json"}

    def test_one_that_cannot_be_read_keeps_no_other_away(
        self, machines: tuple[Machine, Machine], shared: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one, two = machines
        one.finds(finding(3))
        one.finds(finding(4))
        one.news()
        first, second = sorted([finding(3).id, finding(4).id])
        reads = type(shared.system).cat_file

        def refused(self: Any, path: str, **named: Any) -> Any:
            if first in path:
                raise PermissionError("not yours")
            return reads(self, path, **named)

        monkeypatch.setattr(type(shared.system), "cat_file", refused)
        said = (
            f"{URL}: {first}.json: PermissionError: not yours; findings are kept here, and it is tried again"
        )
        assert two.news() == [second, said]
        monkeypatch.undo()
        assert two.news() == [first, f"{URL} answers again"]

    def test_what_went_from_here_is_not_pulled_again(self, machines: tuple[Machine, Machine]) -> None:
        """A smaller one stands for it, and the storage was gone when it should have gone from there."""
        one, _ = machines
        one.finds(finding())
        one.news()
        one.corpus.remove(finding())
        assert Machine(one.corpus.path).news() == []
        assert one.names == set()

    def test_what_is_removed_there_is_neither_removed_here_nor_pushed_again(
        self, machines: tuple[Machine, Machine], shared: Storage
    ) -> None:
        one, _ = machines
        one.finds(finding())
        one.news()
        shared.remove(f"{finding().id}.json")
        one.news()
        assert shared.names() == set()
        assert one.names == {f"{finding().id}.json"}
        assert (one.corpus.path / SYNCED).read_text() == f"{finding().id}.json\n"


class TestLedger:
    """What another machine found needs nobody here, and is no finding of this campaign until it is met."""

    def test_a_failure_that_another_machine_found_is_known(self, tmp_path: Path) -> None:
        ledger = Ledger(Corpus(tmp_path))
        assert ledger.adopt(finding(), tmp_path / "f.json") is None
        assert tasks.key(finding()) in ledger.known
        assert ledger.findings == ()
        assert ledger.waiting == []

    def test_one_that_is_met_here_counts_here(self, tmp_path: Path) -> None:
        ledger = Ledger(Corpus(tmp_path))
        ledger.adopt(finding(3), tmp_path / "f.json")
        record = ledger.found(finding(9, UNSHRUNK), 0)
        assert record is not None
        assert record.finding == finding(3)
        assert ledger.findings == (finding(3),)
        assert ledger.found(finding(9, UNSHRUNK), 0) is None

    def test_a_smaller_one_from_elsewhere_stands_for_ours(self, tmp_path: Path) -> None:
        corpus = Corpus(tmp_path)
        ledger = Ledger(corpus)
        ledger.found(finding(9, UNSHRUNK), None)
        path = corpus.save(finding(3))
        assert ledger.adopt(finding(3), path) == finding(9, UNSHRUNK)
        assert ledger.findings == (finding(3),)
        assert corpus.findings() == [finding(3)]

    @pytest.mark.parametrize(
        ("ours", "owner"), [(finding(9, UNSHRUNK), 1), (finding(9), None)], ids=["in hand", "as small"]
    )
    def test_one_that_is_in_hand_or_shrunk_stays(
        self, tmp_path: Path, ours: Finding, owner: int | None
    ) -> None:
        ledger = Ledger(Corpus(tmp_path))
        ledger.found(ours, owner)
        assert ledger.adopt(finding(3), tmp_path / "f.json") is None
        assert ledger.findings == (ours,)

    def test_a_shrink_into_the_bucket_of_another_machine_is_not_lost(self, tmp_path: Path) -> None:
        ledger, large = Ledger(Corpus(tmp_path)), replace(finding(9, UNSHRUNK), tensor="state")
        assert tasks.key(large) != tasks.key(finding())
        ledger.adopt(finding(3), tmp_path / "f.json")
        ledger.found(large, 0)
        ledger.shrunk(large, finding(4), 0)
        assert ledger.findings == (finding(3),)


class StillPool:
    """A pool of one worker that is busy, and what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def busy(self) -> list[int]:
        return [0]

    def tell(self, worker: int, message: Any) -> None:
        self.told.append(message)


class TestInbox:
    def heard(self, tmp_path: Path, theirs: Finding, ours: Finding | None = None) -> tuple[list[Event], Any]:
        """What is told when a finding comes from the storage, and what workers hear."""
        config = Config("t", ("gdn.decode",), "interpret", 1, 1, tmp_path)
        told: list[Event] = []
        pool: Any = StillPool()
        inbox = Inbox(config, told.append, Corpus(tmp_path), pool)
        if ours is not None:
            inbox.ledger.found(ours, None)
        inbox.pulled(theirs, tmp_path / f"{theirs.id}.json")
        return told, pool.told

    def test_workers_hear_of_it(self, tmp_path: Path) -> None:
        told, known = self.heard(tmp_path, finding())
        assert told == [FindingPulled(finding(), str(tmp_path / f"{finding().id}.json"))]
        assert known == [tasks.Known(tasks.key(finding()))]

    def test_a_smaller_one_replaces_ours(self, tmp_path: Path) -> None:
        told, _ = self.heard(tmp_path, finding(3), finding(9, UNSHRUNK))
        [pulled, shrunk] = told
        assert isinstance(pulled, FindingPulled)
        assert shrunk == FindingShrunk(finding(3), pulled.path, finding(9, UNSHRUNK).id, 0.0)

    @pytest.mark.parametrize(
        "theirs",
        [
            replace(finding(), target="other"),
            replace(finding(), backend="gpu"),
            replace(finding(), case=Case("gdn.update")),
            replace(finding(), reproduced=False),
        ],
        ids=["target", "backend", "operation", "seen once"],
    )
    def test_what_is_not_of_this_campaign_only_lies_in_its_folder(
        self, tmp_path: Path, theirs: Finding
    ) -> None:
        assert self.heard(tmp_path, theirs) == ([], [])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "fuzz --shard 3",
            "Invalid value for '--shard': expected N/M with N from 1 to M, such as 3/40, got '3'",
        ),
        ("fuzz --shard 0/4 --seed 1", "expected N/M"),
        ("fuzz --shard 5/4 --seed 1", "expected N/M"),
        (
            "fuzz --shard 1/4",
            "--shard: it is a part of what a seed stands for: give each machine the same --seed",
        ),
        ("fuzz --corpus nosuch://x", "--corpus nosuch://x: ValueError: Protocol not known: nosuch"),
        (
            "replay --corpus nosuch://me:pw@x ID",
            "--corpus nosuch://x: ValueError: Protocol not known: nosuch",
        ),
    ],
)
def test_a_wrong_command_line(
    line: str, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(backends.ENVIRONMENT, "interpret")
    assert run(line.split()) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_campaign_shares_what_it_finds_though_the_storage_was_gone(
    shared: Storage,
    gone: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """It says so, goes on, and the next command takes the finding from there."""
    monkeypatch.setenv(backends.ENVIRONMENT, "interpret")
    answers = Exchange.close
    monkeypatch.setattr(Exchange, "close", lambda self, seconds: [gone(False), answers(self, seconds)][1])
    gone(True)
    limits = [
        "--op",
        "gdn.decode",
        "--max-cases",
        "3",
        "--max-time",
        "9s",
        "--workers",
        "1",
        "--seed",
        "1",
        "--shard",
        "2/3",
    ]
    assert run(["fuzz", "--target", f"{TOYS}:wrong", "--corpus", URL, *limits]) == 1
    out = capsys.readouterr().out
    assert ", seed 1, shard 2 of 3\n" in out
    assert "memory://team/findings: ConnectionError: no route to host; findings are kept here" in out
    name = min(name for name in shared.names() if name.endswith(".json"))
    assert {name, name.replace(".json", ".py")} <= shared.names()

    monkeypatch.chdir(tmp_path.parent)
    assert run(["corpus", "show", name.removesuffix(".json"), "--corpus", URL]) == 0
    kind = json.loads(shared.get(name))["kind"]
    assert f"gdn.decode  {kind} in o" in capsys.readouterr().out
