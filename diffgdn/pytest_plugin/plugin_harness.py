"""What a pytest process runs and keeps: a harness, and the folder that findings are saved to."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from diffgdn.cases.prelude import Call
from diffgdn.findings.corpus import Corpus
from diffgdn.findings.finding import UNFINISHED, Finding
from diffgdn.findings.known import NOTHING, KnownFailures
from diffgdn.runner.confirm import Confirmed
from diffgdn.runner.harness import Harness
from diffgdn.runner.messages import RunnerError
from diffgdn.runner.running_case import calls, current
from diffgdn.search import preludes
from diffgdn.verdict.failures import KernelCrashed, Verdict


class PluginHarness(Harness):
    """Runs cases for the tests of one process, on one backend.

    isolation: as asked, or None. findings: the folder that findings are saved to. folder: where the case that
    runs is noted and children print to, under the name of this process; None for one of its own.
    hang_seconds: after which a child's case counts as hung; None for what suits the backend. known: failures
    that are no news.
    """

    def __init__(
        self,
        backend: str,
        isolation: str | None,
        findings: Path,
        name: str = "main",
        folder: Path | None = None,
        hang_seconds: float | None = None,
        known: KnownFailures = NOTHING,
    ) -> None:
        self._own = None if folder is not None else Path(tempfile.mkdtemp(prefix="diffgdn-"))
        self.folder = folder or self._own or Path()
        self.findings = Corpus(findings)
        super().__init__(
            backend,
            _note(self.folder, name),
            self.folder / f"{name}.log",
            isolation,
            hang_seconds,
            known=known,
        )

    def close(self) -> None:
        """End what was started, and remove what only this process needed."""
        super().close()
        if self._own is not None:
            shutil.rmtree(self._own, ignore_errors=True)

    def shorter(self, sure: Confirmed, target: str, expired: Callable[[], bool]) -> Confirmed:
        """Make a failure that depends on other calls depend on fewer and simpler ones."""
        return preludes.shorter(self.asking(target), sure, expired, self.about(target).promises)

    def left_behind(self, name: str) -> Finding | None:
        """Make a finding of what another process of this folder, which has ended, was running, and ask it
        again; None if it ended between cases.
        """
        found = current(_note(self.folder, name))
        if found is None:
            return None
        case, about = found
        target = about["target"]
        ran = calls(_note(self.folder, name), target)
        message = f"the pytest worker {name} ended while this case ran"
        failure = KernelCrashed(case.op, None, None, message)
        seen = Verdict(case, target, about["backend"], failure, before=ran[:-1])
        try:
            sure = self.asking(target)(ran[-1] if ran else Call(case), seen, asked=False)
        except RunnerError:
            sure = Confirmed(Call(case), seen, reproduced=False)
        return self.finding(replace(sure, verdict=seen) if sure.alone else sure, target)

    def documented(self, finding: Finding) -> list[str]:
        """Lay a script, and a picture, beside a finding's file; what they are, in lines."""
        try:
            script, *pictures = self.document(finding, self.findings.path)
            return [f"script {script}", *(f"picture {one}" for one in pictures)]
        except Exception as error:
            # The finding is on disk and must be told; what else is made of it may fail, and says so.
            return [f"no script or picture: {type(error).__name__}: {error}"]


def unfinished(finding: Finding, path: Path) -> list[str]:
    """That a finding may yet become smaller, and how, in lines; none of one that has been shrunk."""
    word = UNFINISHED.get(finding.shrink or "")
    return [] if word is None else [f"{word}; to take it up again:", f"    diffgdn shrink {path}"]


def _note(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"
