"""Findings of the corpus as tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from diffgdn.pytest_plugin.plugin_state import active
from diffgdn.runner.messages import RunnerError


class CorpusFile(pytest.File):
    """One finding."""

    def collect(self) -> Iterator[pytest.Item]:
        yield CorpusItem.from_parent(self, name="replay")


class NoLongerFails(AssertionError):
    """A known failure passes."""

    def __str__(self) -> str:
        return f"known failure no longer fails: {self.args[0]}"


class CorpusItem(pytest.Item):
    """Runs a finding's case on its target, on this process's backend, under every check."""

    def runtest(self) -> None:
        from diffgdn import targets
        from diffgdn.findings import parse

        state = active(self.config)
        finding = parse.read(self.path)
        if (reason := targets.missing(finding.target, state.backend)) is not None:
            pytest.skip(f"target {finding.target}: {reason}")
        verdict, known = state.harness.replay(finding), state.harness.known
        if verdict.known is not None and verdict.refused is not None:
            pytest.skip(verdict.refused)
        if verdict.known is not None:
            pytest.xfail(known.named(verdict.known).words)
        if verdict.refused is not None:
            pytest.skip(f"{finding.target} does not take this case: {verdict.refused}")
        if verdict.failure is not None:
            raise verdict.failure.with_traceback(None)
        entry = known.of(finding, state.backend)
        if entry is not None and not entry.flaky and finding.reproduced:
            raise NoLongerFails(f"{entry.name}  {entry.about}: {finding.id} passes; remove the entry")

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if not isinstance(excinfo.value, (AssertionError, ValueError, RunnerError)):
            return super().repr_failure(excinfo, style)
        return f"{excinfo.typename}: {excinfo.value}\nReplay with:\n    diffgdn replay {self.path}"

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, f"replay of {self.path.stem}"
