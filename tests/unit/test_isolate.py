"""Child processes: what a kernel does to its child becomes a verdict, and the next case runs in another."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from diffgdn.cases.case import Case, Pool
from diffgdn.cases.prelude import Call
from diffgdn.findings.finding import Finding
from diffgdn.runner import in_child as isolated_module
from diffgdn.runner import in_process
from diffgdn.runner.ways import InChild, RunnerError, SetupError
from diffgdn.selftest.faulty_target import Planted
from diffgdn.verdict.failures import KernelCrashed, Verdict

FAULTS = Path(__file__).with_name("faults.py")
CASE = Case("gdn.decode")
PADDED = Case("gdn.decode", pool=Pool(indices=(-1,)))
HANG_SECONDS = 10.0  # the hungry one needs some to fill its memory on a busy machine
MEMORY_BYTES = 1 << 30  # twice what a child needs that has imported torch


def isolated(folder: Path) -> InChild:
    return InChild("interpret", folder / "log", HANG_SECONDS, MEMORY_BYTES)


def test_a_crash_is_asked_again_of_the_target_as_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A verdict from a child has the target's own name, which may be that of another version of a package."""
    runner, asked = isolated(tmp_path), []
    crash = Verdict(CASE, "sglang", "gpu", KernelCrashed("gdn.decode", None, None, "context lost"))

    def once(subject: Case, target: str, *_: object) -> tuple[Verdict, bool]:
        asked.append((subject, target))
        return crash, False

    monkeypatch.setattr(runner, "_once", once)
    assert runner.run(CASE, "sglang@/somewhere") == crash
    runner.close()
    assert asked == [(CASE, "sglang@/somewhere")] * 2


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InChild]:
    """One runner for many faults: what one leaves behind must not reach the next."""
    runner = isolated(tmp_path_factory.mktemp("shared"))
    yield runner
    runner.close()


@pytest.fixture
def runner(tmp_path: Path, strikes: Path) -> Iterator[InChild]:
    runner = isolated(tmp_path)
    yield runner
    runner.close()


def failure(verdict: Verdict) -> tuple[str, str]:
    assert verdict.failure is not None
    return verdict.failure.kind, verdict.failure.message


ENDED = "the process that ran the kernel ended: "


@pytest.mark.parametrize(
    ("target", "kind", "message"),
    [
        ("segfault", "crashed", f"{ENDED}killed by SIGSEGV"),
        ("leaving", "crashed", f"{ENDED}exit status 3: no more"),
        ("polite", "crashed", f"{ENDED}exit status 1: enough"),
        ("garbling", "crashed", rf"{ENDED}it sent what is no answer \(UnpicklingError\)"),
        ("hungry", "crashed", rf"{ENDED}ended for its [1-3]\.\d GB of host memory"),
        ("endless", "hung", f"no answer within {HANG_SECONDS:g} s"),
        ("deaf", "hung", f"no answer within {HANG_SECONDS:g} s"),
    ],
)
def test_a_fault_is_a_verdict_and_the_next_case_passes(
    shared: InChild, target: str, kind: str, message: str, gone: Callable[[int], bool]
) -> None:
    """In another child; the one with the fault is gone."""
    assert shared.run(CASE, "eager").ok
    before = shared.child
    assert before is not None
    verdict = shared.run(PADDED, f"{FAULTS}:{target}")
    found, said = failure(verdict)
    assert (found, verdict.confirmed) == (kind, True)
    assert re.fullmatch(message, said)
    assert gone(before)
    assert shared.run(CASE, "eager").ok


def test_a_child_lives_on_from_case_to_case(shared: InChild) -> None:
    """Also over what it prints, and over a kernel that raises."""
    assert shared.run(CASE, "eager").ok
    child = shared.child
    assert shared.run(CASE, f"{FAULTS}:talking").ok
    assert failure(shared.run(CASE, f"{FAULTS}:raising")) == ("raised", "RuntimeError: launch failed")
    assert shared.run(CASE, "eager").ok
    assert shared.child == child


def test_a_verdict_from_a_child_is_that_of_this_process(shared: InChild) -> None:
    """Tensors stay in the child."""
    from diffgdn import targets
    from diffgdn.verdict import execute

    case = Case("gdn.decode", lens=(3,))
    target = f"{FAULTS}:wrong"
    there, here = shared.run(case, target), execute.run(case, targets.get(target), "interpret")
    assert failure(there) == failure(here)
    assert here.comparison is not None
    assert there.comparison is None


def test_a_child_that_somebody_kills_is_seen_once(
    runner: InChild, strikes: Path, until: Callable[[Callable[[], bool]], None]
) -> None:
    """It is told of, and not taken for what the case always does."""

    def kill() -> None:
        until(strikes.exists)
        assert runner.child is not None
        os.kill(runner.child, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    verdict = runner.run(CASE, f"{FAULTS}:waiting")
    killer.join()
    assert failure(verdict) == ("crashed", f"{ENDED}killed by SIGKILL; not again in a fresh process")
    assert not verdict.confirmed


@pytest.mark.parametrize("picture", [True, False])
@pytest.mark.parametrize("way", ["child", "none"])
def test_what_runs_for_a_picture_has_run_before_the_next_failure(
    tmp_path: Path, way: str, picture: bool
) -> None:
    """In the same process; a script alone takes no run."""
    target, wrong = f"{FAULTS}:wrong", Case("gdn.decode", lens=(3,))
    finding = Finding(wrong, target, "interpret", "beyond_bound", "why", "o", prelude=(Call(CASE),))
    runner = isolated(tmp_path) if way == "child" else in_process.InProcess("interpret")
    try:
        runner.document(finding, tmp_path, picture)
        verdict = runner.run(Case("gdn.decode", lens=(4,)), target)
    finally:
        runner.close()
    assert failure(verdict)[0] == "beyond_bound"
    assert verdict.before == ((Call(CASE), Call(wrong)) if picture else ())


def test_a_fault_that_an_earlier_case_prepared_is_not_confirmed(runner: InChild) -> None:
    target = f"{FAULTS}:dirty"
    assert runner.run(Case("gdn.decode", lens=(3,)), target).ok
    verdict = runner.run(Case("gdn.decode", lens=(4,)), target)
    assert failure(verdict) == ("crashed", f"{ENDED}killed by SIGSEGV; not again in a fresh process")
    assert not verdict.confirmed


def test_a_known_fault_costs_no_second_child(runner: InChild, strikes: Path) -> None:
    """Nobody asks for its confirmation."""
    assert runner.run(CASE, "eager").ok
    verdict = runner.run(CASE, f"{FAULTS}:dying", familiar=lambda failure: True)
    assert failure(verdict) == ("crashed", f"{ENDED}killed by SIGKILL")
    assert strikes.read_bytes() == b"."


def test_a_target_that_ends_the_child_while_it_is_imported(
    runner: InChild, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolated_module, "MOST_FAILED_STARTS", 2)
    (tmp_path / "unloadable.py").write_text("import os\nos._exit(5)\n")
    with pytest.raises(SetupError, match="child processes end before their first case: exit status 5"):
        runner.run(CASE, f"{tmp_path}/unloadable.py:any")
    assert runner.run(CASE, "eager").ok


def test_a_target_that_cannot_be_had(shared: InChild) -> None:
    with pytest.raises(SetupError, match="unknown target 'nonesuch'"):
        shared.run(CASE, "nonesuch")
    assert shared.run(CASE, "eager").ok


def test_a_fault_outside_a_case_is_an_error_of_the_machinery(runner: InChild, tmp_path: Path) -> None:
    (tmp_path / "shy.py").write_text(
        "import os\nfrom diffgdn.targets import get\nshy = get('eager')\n"
        "shy.configurations = lambda op: os._exit(6)\n"
    )
    with pytest.raises(RunnerError, match="the child process ended: exit status 6"):
        runner.about(f"{tmp_path}/shy.py:shy")
    assert runner.about("eager").device == "cpu"


def test_a_call_that_ran_out_of_memory_lets_go_of_what_it_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anyone asks whether others hold the GPU's memory."""
    from diffgdn import targets

    held: list[weakref.ref[torch.Tensor]] = []
    alive: list[bool] = []

    def exhaust(case: Case, results: dict[str, torch.Tensor]) -> None:
        block = torch.zeros(8)
        held.append(weakref.ref(block))
        raise torch.OutOfMemoryError("CUDA out of memory")

    exhausting = Planted("exhausting", exhaust, lambda case: True)
    monkeypatch.setattr(targets, "get", lambda name: exhausting)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: alive.append(held[-1]() is not None))
    monkeypatch.setattr(in_process, "_others_hold_memory", lambda: False)
    verdict = in_process.InProcess("interpret").run(CASE, "exhausting.py:exhausting")
    assert failure(verdict) == ("raised", "OutOfMemoryError: CUDA out of memory")
    assert alive == [False]


PARENT = """
import sys
from pathlib import Path
from diffgdn.cases.case import Case
from diffgdn.runner.in_child import InChild

runner = InChild("interpret", Path(sys.argv[1]))
print(runner.child, flush=True)
runner.run(Case("gdn.decode"), sys.argv[2])
"""


def test_a_child_ends_with_a_parent_that_is_killed(
    tmp_path: Path,
    strikes: Path,
    until: Callable[[Callable[[], bool]], None],
    gone: Callable[[int], bool],
) -> None:
    """In the middle of a kernel that would run for minutes."""
    command = [sys.executable, "-c", PARENT, str(tmp_path / "log"), f"{FAULTS}:waiting"]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    until(strikes.exists)
    assert not gone(child)
    parent.kill()
    parent.communicate()
    until(lambda: gone(child))


def test_memory_that_is_freed_is_kept() -> None:
    """Handed back, it has to be cleared again page by page."""
    script = """if True:
        import ctypes, resource, sys
        from diffgdn.runner import child_process as process

        if not hasattr(ctypes.CDLL(None), "mallopt"):
            sys.exit("no mallopt")
        process.keep_memory()
        bytearray(b"x") * (16 << 20)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(20):
            bytearray(b"x") * (16 << 20)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    if "no mallopt" in done.stderr:
        pytest.skip("not glibc")
    assert int(done.stdout) < 4096, done.stderr  # the pages of a single one
