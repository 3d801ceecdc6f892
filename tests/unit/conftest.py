"""What tests share: cases as the strategies draw them; of processes, strikes that a fault counts on disk, and
waiting for another process.
"""

from __future__ import annotations

import functools
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from diffgdn.cases.case import Case

PATIENCE_SECONDS = 120.0  # on a busy machine: only a test that fails waits so long
POLL_SECONDS = 0.02

Until = Callable[[Callable[[], bool]], None]
Drawn = Callable[..., list[Case]]
Beside = Callable[[str], ModuleType]


@pytest.fixture(scope="session")
def beside() -> Beside:
    """Loads a module that lies beside this file: beside(name). Tests cannot import them by name."""

    @functools.cache
    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def fake_packages(beside: Beside) -> ModuleType:
    """The module of that name."""
    return beside("fake_packages")


@pytest.fixture
def drawn() -> Drawn:
    """The first cases of an operation's strategy: drawn(op, count, number of the stream, its options).

    Every example comes out as a case, or the draw was thrown away.
    """
    from hypothesis import HealthCheck, Phase, given, seed, settings

    from diffgdn.strategies import cases

    def draw(op: str, count: int, number: int = 1, **options: Any) -> list[Case]:
        found: list[Case] = []

        @seed(number)
        @settings(
            max_examples=count,
            database=None,
            deadline=None,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        )
        @given(case=cases(op, **options))
        def collect(case: Case) -> None:
            found.append(case)

        collect()
        return found

    return draw


@pytest.fixture
def strikes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which the targets of faults.py count; it does not exist before the first strike."""
    path = tmp_path / "strikes"
    monkeypatch.setenv("DIFFGDN_STRIKES", str(path))
    return path


@pytest.fixture
def until() -> Until:
    """Wait for a condition; fail if it does not come true."""

    def wait(condition: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < end, "what was waited for has not happened"
            time.sleep(POLL_SECONDS)

    return wait


@pytest.fixture
def gone() -> Callable[[int], bool]:
    """Whether a process has ended, also where nobody has asked for its status yet."""

    def ended(process: int) -> bool:
        try:
            stat = Path(f"/proc/{process}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return True
        return stat.rpartition(")")[2].split()[0] in "ZX"

    return ended
