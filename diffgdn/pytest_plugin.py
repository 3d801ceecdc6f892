"""The pytest plugin: lane and GPU of each worker, Hypothesis profiles, the corpus as tests, failures as
findings.

Installed with diffgdn, it adds its options everywhere and does nothing else until a conftest.py activates it,
at its top:

    from diffgdn import pytest_plugin
    pytest_plugin.activate(corpus="tests/corpus")

Triton reads its mode and CUDA its devices once; so this module imports neither torch nor triton, and
`activate` decides before a test module does."""

from __future__ import annotations

import math
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from diffgdn import lane as lanes

if TYPE_CHECKING:
    from diffgdn.case import Case
    from diffgdn.checks import CheckFailure
    from diffgdn.corpus import Finding
    from diffgdn.execute import Verdict
    from diffgdn.targets import Target

WORKERS_PER_GPU = 8  # each holds a CUDA context of some 500 MB, and a kernel rarely fills the GPU
PROFILE = "dev"
EXAMPLES = {"dev": 50, "ci": 25, "fuzz": 1000, "replay": 1}
SHRINK_SECONDS = 60.0  # for each class of failure; Hypothesis alone would take up to five minutes
NEEDS_GPU = "needs a GPU: "
SEED = "diffgdn_seed"


@dataclass
class _Shrinking:
    """The verdicts of one test, so that a case has one answer, and an end to the time that shrinking its
    failures takes.
    """

    verdicts: dict[tuple[str, str], Verdict] = field(default_factory=dict)
    kinds: set[type] = field(default_factory=set)
    until: float = math.inf

    def verdict(self, case: Case, target: str, run: Callable[[], Verdict]) -> Verdict | None:
        """The verdict on a case, remembered or new; None for a new case once time is up."""
        key = (case.id, target)
        if key not in self.verdicts:
            if time.monotonic() >= self.until:
                return None
            verdict = run()
            if verdict.failure is not None and type(verdict.failure) not in self.kinds:
                self.kinds.add(type(verdict.failure))
                self.until = time.monotonic() + SHRINK_SECONDS
            self.verdicts[key] = replace(verdict, comparison=None)  # tensors, of which a shrink may see many
        return self.verdicts[key]


class _Active:
    """What `activate` decided for this process, and what belongs to the test that runs."""

    lane: str | None = None
    corpus: Path | None = None
    shrinking = _Shrinking()


def activate(corpus: str | Path | None = None) -> None:
    """Enter the lane, bind an xdist worker to a GPU, and register the Hypothesis profiles. For the top of a
    conftest.py.

    corpus: folder whose findings become tests, replayed before all others. Raises pytest.UsageError where the
    lane cannot be entered."""
    worker = re.fullmatch(r"gw(\d+)", os.environ.get("PYTEST_XDIST_WORKER", ""))
    try:
        lane = lanes.detect()
        if lane == "gpu":
            reason = lanes.gpu_missing()
            if reason is not None:
                raise ValueError(f"lane gpu: {reason}")
            if worker:
                lanes.bind(int(worker.group(1)))
        lanes.enter(lane)
    except (ValueError, RuntimeError) as error:
        raise pytest.UsageError(str(error)) from None
    if worker:
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # one worker a core: more threads would only queue
    _Active.lane = lane
    _Active.corpus = None if corpus is None else Path(corpus).resolve()
    _register_profiles()


def _register_profiles() -> None:
    from hypothesis import HealthCheck, Phase, Verbosity, settings

    # Every field is given: what is left out comes from the profile that is current, which under CI=1 is one
    # without exploration.
    common: dict[str, Any] = {
        "deadline": None,
        "print_blob": False,
        "database": None,  # findings are kept in the corpus
        "report_multiple_bugs": True,
        "derandomize": False,
        "phases": (Phase.explicit, Phase.generate, Phase.shrink),
        "verbosity": Verbosity.quiet,  # a failure is shown as a finding instead, with its case in one line
        # It is kernels in an interpreter that take the time, and a target may refuse most cases.
        "suppress_health_check": (
            HealthCheck.too_slow,
            HealthCheck.filter_too_much,
            HealthCheck.data_too_large,
        ),
    }
    changes: dict[str, dict[str, Any]] = {
        "ci": {"derandomize": True},
        "replay": {"phases": (Phase.explicit,)},
    }
    for name, examples in EXAMPLES.items():
        settings.register_profile(name, **{**common, "max_examples": examples, **changes.get(name, {})})
    settings.load_profile(PROFILE)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("diffgdn", "differential testing of gated delta-rule kernels")
    group.addoption(
        "--diffgdn-target", default="vk", metavar="TARGET", help="what the property tests check (default: vk)"
    )
    group.addoption(
        "--diffgdn-corpus",
        default="findings",
        metavar="DIR",
        help="folder that new findings are saved to (default: findings)",
    )


def _profile(config: pytest.Config) -> str:
    return config.getoption("--hypothesis-profile", None) or PROFILE


@pytest.hookimpl(tryfirst=True)  # before Hypothesis reads the seed
def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gpu: needs a GPU; skipped, with the reason, where there is none")
    if _Active.lane is None:
        return
    if _profile(config) in ("dev", "fuzz") and config.getoption("--hypothesis-seed", None) is None:
        given: dict[str, Any] = getattr(config, "workerinput", {})
        config.option.hypothesis_seed = given.get(SEED) or str(random.SystemRandom().randrange(2**32))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Workers draw from the seed that the header shows."""
    node.workerinput[SEED] = node.config.getoption("--hypothesis-seed", None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Workers for `-n auto`: a core each, and on GPUs no more than a GPU holds."""
    if _Active.lane is None:
        return None
    cores = len(os.sched_getaffinity(0))
    return cores if _Active.lane == "interpret" else min(cores, WORKERS_PER_GPU * len(lanes.visible_gpus()))


def pytest_report_header(config: pytest.Config) -> list[str]:
    if _Active.lane is None:
        return []
    profile, seed = _profile(config), config.getoption("--hypothesis-seed", None)
    draws = {"ci": "derandomized", "replay": "corpus only"}.get(profile, f"seed {seed}")
    target = config.getoption("--diffgdn-target")
    head = f"diffgdn: lane {_Active.lane}, target {target}, profile {profile}, {draws}"
    missing = _gpu_missing()
    return [head] + ([f"diffgdn: gpu tests are skipped: {missing}"] if missing else [])


def _gpu_missing() -> str | None:
    if _Active.lane == "gpu":
        return None
    return lanes.gpu_missing() or f"{lanes.ENVIRONMENT}={_Active.lane}"


def pytest_runtest_setup(item: pytest.Item) -> None:
    _Active.shrinking = _Shrinking()
    if item.get_closest_marker("gpu") is not None and (reason := _gpu_missing()) is not None:
        pytest.skip(NEEDS_GPU + reason)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    skipped = [report.longrepr for report in terminalreporter.stats.get("skipped", [])]
    reasons = [text[2] for text in skipped if isinstance(text, tuple) and NEEDS_GPU in text[2]]
    if reasons:
        terminalreporter.write_line(
            f"{len(reasons)} gpu tests skipped: {reasons[0].split(NEEDS_GPU)[-1]}", yellow=True
        )


# --- the corpus ---


class CorpusFile(pytest.File):
    """One finding."""

    def collect(self) -> Iterator[pytest.Item]:
        yield CorpusItem.from_parent(self, name="replay")


class CorpusItem(pytest.Item):
    """Runs a finding's case on its target, on this process's lane, under every check."""

    def runtest(self) -> None:
        from diffgdn import corpus, execute, targets

        assert _Active.lane is not None
        finding = corpus.read(self.path)
        if (reason := targets.missing(finding.target, _Active.lane)) is not None:
            pytest.skip(f"target {finding.target}: {reason}")
        verdict = execute.run(finding.case, targets.get(finding.target), _Active.lane)
        if verdict.refused is not None:
            pytest.skip(f"{finding.target} does not take this case: {verdict.refused}")
        if verdict.failure is not None:
            raise verdict.failure.with_traceback(None)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if not isinstance(excinfo.value, (AssertionError, ValueError)):
            return super().repr_failure(excinfo, style)
        return f"{excinfo.typename}: {excinfo.value}\nReplay with:\n    diffgdn replay {self.path}"

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, f"replay of {self.path.stem}"


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if _Active.corpus is None or file_path.suffix != ".json" or file_path.resolve().parent != _Active.corpus:
        return None
    return CorpusFile.from_parent(parent, path=file_path)


@pytest.hookimpl(trylast=True)  # after plugins that shuffle
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The corpus first; under the replay profile, the corpus alone."""
    items.sort(key=lambda item: not isinstance(item, CorpusItem))
    if _Active.lane is not None and _profile(config) == "replay":
        others = [item for item in items if not isinstance(item, CorpusItem)]
        items[:] = items[: len(items) - len(others)]
        config.hook.pytest_deselected(items=others)


# --- what tests use ---


@pytest.fixture(scope="session")
def diffgdn_lane() -> str:
    """The lane of this process, "interpret" or "gpu"."""
    return _Active.lane or lanes.detect()


@pytest.fixture(scope="session")
def diffgdn_target(request: pytest.FixtureRequest) -> Target:
    """The target that --diffgdn-target names."""
    from diffgdn import targets

    return targets.get(request.config.getoption("--diffgdn-target"))


@pytest.fixture(scope="session")
def diffgdn_check(request: pytest.FixtureRequest, diffgdn_lane: str) -> Callable[..., Verdict]:
    """check(case, target) -> Verdict, for the body of a property test.

    target: a name (default: --diffgdn-target). A failed check is raised; the case that Hypothesis ends with
    becomes a finding. A case that the target refuses is rejected."""
    from hypothesis import reject

    from diffgdn import execute, targets

    chosen: str = request.config.getoption("--diffgdn-target")
    loaded: dict[str, Target] = {}

    def check(case: Case, target: str = chosen) -> Verdict:
        __tracebackhide__ = True
        if target not in loaded:
            loaded[target] = targets.get(target)
        verdict = _Active.shrinking.verdict(
            case, target, lambda: execute.run(case, loaded[target], diffgdn_lane)
        )
        if verdict is None or verdict.refused is not None:
            reject()
        if verdict.failure is not None:
            verdict.failure.__dict__["diffgdn"] = verdict, target
            raise verdict.failure.with_traceback(
                None
            )  # where diffgdn noticed says nothing; a cause keeps its own
        return verdict

    return check


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Save what a failing test ended with, and say under its traceback how to run it again."""
    report = yield
    if call.when == "call" and call.excinfo is not None and report.failed:
        folder = Path(item.config.getoption("--diffgdn-corpus"))
        text = "\n\n".join(_saved(failure, folder) for failure in _leaves(call.excinfo.value))
        if text:
            report.sections.append(("diffgdn", text))
    return report


def _leaves(error: BaseException) -> Iterator[CheckFailure]:
    """The checked failures in an exception, which Hypothesis groups where there are several."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    elif "diffgdn" in error.__dict__:
        yield error  # type: ignore[misc]


def _saved(failure: CheckFailure, folder: Path) -> str:
    from diffgdn import corpus

    verdict: Verdict
    verdict, target = failure.__dict__["diffgdn"]
    finding = _finding(failure, verdict, target)
    path = corpus.Corpus(folder).save(finding)
    lines = [f"{type(failure).__name__}: {failure}", f"saved as {path}"]
    try:
        from diffgdn import execute, localize, repro, targets

        lines.append(f"script {repro.write(finding, folder)}")
        # Verdicts are remembered without their tensors.
        comparison = execute.run(verdict.case, targets.get(target), verdict.lane).comparison
        if comparison is not None:
            lines.append(f"picture {localize.picture(comparison, path.with_suffix('.png'))}")
    except Exception as error:
        # The finding is on disk and must be told; what else is made of it may fail, and says so.
        lines.append(f"no script or picture: {type(error).__name__}: {error}")
    return "\n".join(
        [*lines, "Reproduce with:", f"    diffgdn replay {path}", f"    @example(case={verdict.case!r})"]
    )


def _finding(failure: CheckFailure, verdict: Verdict, target: str) -> Finding:
    from diffgdn import corpus

    device = None
    if verdict.lane == "gpu":
        import torch

        device = torch.cuda.get_device_name()
    return corpus.Finding(
        case=verdict.case,
        target=target,
        lane=verdict.lane,
        kind=failure.kind,
        message=failure.message,
        tensor=failure.tensor,
        place=failure.place,
        versions=corpus.versions(device),
        found=corpus.today(),
    )
