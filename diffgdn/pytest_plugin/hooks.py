"""The pytest plugin: backend and GPU of each worker, Hypothesis profiles, the corpus as tests, failures as
findings.

Installed with diffgdn, it adds its options everywhere and does nothing else until a conftest.py activates it,
at its top:

    from diffgdn import pytest_plugin
    pytest_plugin.activate(corpus="tests/corpus")

Triton reads its mode and CUDA its devices once; so this module imports neither torch nor triton, and
`activate` decides before a test module does."""

from __future__ import annotations

import hashlib
import math
import os
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from diffgdn.backend import selection as backends
from diffgdn.cases.prelude import Call
from diffgdn.findings.finding import OUT_OF_TIME
from diffgdn.pytest_plugin import plugin_options as options
from diffgdn.pytest_plugin.hypothesis_database import remember
from diffgdn.pytest_plugin.testing import Answers, Harness, TimeUp, leaves, unfinished
from diffgdn.report.finding_lines import company
from diffgdn.runner.confirm import Confirmed
from diffgdn.runner.ways import RunnerError

if TYPE_CHECKING:
    from diffgdn.cases.case import Case
    from diffgdn.findings.finding import Finding
    from diffgdn.targets import Target
    from diffgdn.verdict.failures import CheckFailure, Verdict

WORKERS_PER_GPU = 8  # each holds a CUDA context of some 500 MB, and a kernel rarely fills the GPU
NEEDS_GPU = "needs a GPU: "
SEED = "diffgdn_seed"
REPEATS = "diffgdn_repeats"
RUNNING = "diffgdn_running"  # the folder in which workers note the case that they run
EXPLORES = "explores"


class _Active:
    """What `activate` decided for this process, and what belongs to the test that runs.

    first: the finding of each class of failure of a test, as it was before it was shrunk, where it does not
    come alone by the id of its case; saved: those of
    them that were not there before.
    """

    backend: str | None = None
    corpus: Path | None = None
    harness: Harness | None = None
    answers = Answers()
    first: ClassVar[dict[type | str, Finding]] = {}
    saved: ClassVar[set[str]] = set()
    left_behind: str | None = None
    interrupted: ClassVar[list[str]] = []  # lines about what was being shrunk
    repeats: bool = False  # a seed was given


def _harness() -> Harness:
    assert _Active.harness is not None
    return _Active.harness


def activate(corpus: str | Path | None = None) -> None:
    """Enter the backend, bind an xdist worker to a GPU, and register the Hypothesis profiles. For the top of
    a conftest.py.

    corpus: folder whose findings become tests, replayed before all others. Raises pytest.UsageError where the
    backend cannot be entered."""
    worker = re.fullmatch(r"gw(\d+)", os.environ.get("PYTEST_XDIST_WORKER", ""))
    try:
        backend = backends.detect()
        if backend == "gpu":
            reason = backends.gpu_missing()
            if reason is not None:
                raise ValueError(f"backend gpu: {reason}")
            if worker:
                backends.bind(int(worker.group(1)))
        backends.enter(backend)
    except (ValueError, RuntimeError) as error:
        raise pytest.UsageError(str(error)) from None
    if worker:
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # one worker a core: more threads would only queue
    _Active.backend = backend
    _Active.corpus = None if corpus is None else Path(corpus).resolve()
    options.register_profiles()


@pytest.hookimpl(tryfirst=True)  # before Hypothesis reads the seed
def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gpu: needs a GPU; skipped, with the reason, where there is none")
    config.addinivalue_line("markers", f"{EXPLORES}: draws cases in its body; --diffgdn-shards multiplies it")
    if _Active.backend is None:
        return
    given: dict[str, Any] = getattr(config, "workerinput", {})
    seed = config.getoption("--diffgdn-seed")
    if seed is not None:
        if config.getoption("--hypothesis-seed", None) not in (None, seed):
            raise pytest.UsageError("--diffgdn-seed and --hypothesis-seed are the same: give one")
        config.option.hypothesis_seed = seed
    repeats = given.get(REPEATS, config.getoption("--hypothesis-seed", None) is not None)
    if options.profile(config) in ("dev", "fuzz") and config.getoption("--hypothesis-seed", None) is None:
        config.option.hypothesis_seed = given.get(SEED) or str(random.SystemRandom().randrange(2**32))
    options.adjust_profiles(config, repeats)
    _Active.repeats = repeats
    _make_harness(config)


def _make_harness(config: pytest.Config) -> None:
    given: dict[str, Any] = getattr(config, "workerinput", {})
    folder, name = given.get(RUNNING), given.get("workerid", "main")
    assert _Active.backend is not None
    _Active.harness = Harness(
        _Active.backend,
        config.getoption("--diffgdn-isolation"),
        Path(config.getoption("--diffgdn-corpus")),
        name,
        None if folder is None else Path(folder),
        config.getoption("--diffgdn-hang-after"),
    )


def pytest_unconfigure(config: pytest.Config) -> None:
    if _Active.harness is not None:
        _Active.harness.close()
        _Active.harness = None


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Workers draw from the seed that the header shows, and note the cases they run where this process finds
    them.
    """
    node.workerinput[SEED] = node.config.getoption("--hypothesis-seed", None)
    node.workerinput[REPEATS] = _Active.repeats
    if _Active.harness is not None:
        node.workerinput[RUNNING] = str(_Active.harness.folder)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """A worker that was killed leaves the case behind that it was running."""
    if error is None or _Active.harness is None:
        return
    finding = _Active.harness.left_behind(node.gateway.id)
    if finding is not None:
        path, problem = _Active.harness.findings.keep(finding)
        _Active.left_behind = problem or f"saved as {path}\nReproduce with:\n    diffgdn replay {path}"


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(crashitem: str, report: Any, sched: Any) -> None:
    """Called for the test of the worker that has just gone down."""
    if _Active.left_behind is not None:
        report.longrepr = f"{report.longrepr}\n{_Active.left_behind}"
        _Active.left_behind = None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A property once a shard. Properties are Hypothesis tests, and what is marked to explore in its body."""
    if _Active.backend is None or "diffgdn_check" not in metafunc.fixturenames:
        return
    explores = metafunc.definition.get_closest_marker(EXPLORES) is not None
    shards = options.shards(metafunc.config)
    if shards > 1 and (explores or hasattr(metafunc.function, "hypothesis")):
        metafunc.fixturenames.append("diffgdn_shard")
        metafunc.parametrize("diffgdn_shard", range(shards), ids=[f"shard{i}" for i in range(shards)])


def _draw_from_its_own_stream(item: pytest.Item) -> None:
    """The first shard draws from the seed of the run, each other one from a seed made of it."""
    from hypothesis import core

    seed = item.config.getoption("--hypothesis-seed", None)
    shard = getattr(getattr(item, "callspec", None), "params", {}).get("diffgdn_shard", 0)
    if _Active.backend is not None and seed is not None and seed.isdecimal():
        text = f"{seed}/shard/{shard}"
        derived = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
        core.global_force_seed = derived if shard else int(seed)  # type: ignore[assignment]


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Any:
    """Time that is up ends a test that found nothing. One in which no case ended fails with the reason."""
    from hypothesis.errors import Unsatisfiable, UnsatisfiedAssumption

    try:
        return (yield)
    except (TimeUp, Unsatisfiable, UnsatisfiedAssumption) as error:
        nothing = _Active.answers.nothing
        if nothing is not None and "diffgdn_check" in pyfuncitem.fixturenames:
            raise pytest.fail.Exception(nothing, pytrace=False) from None
        if isinstance(error, TimeUp):
            return True
        raise


def pytest_keyboard_interrupt(excinfo: pytest.ExceptionInfo[BaseException]) -> None:
    """What was found last is left whole, and told of."""
    for finding in _Active.first.values():
        harness = _harness()
        path = harness.findings.path / f"{finding.id}.json"
        _Active.interrupted += [f"saved as {path}", *harness.documented(finding), *unfinished(finding, path)]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Workers for `-n auto`: a core each, and on GPUs no more than a GPU holds."""
    if _Active.backend is None:
        return None
    cores = len(os.sched_getaffinity(0))
    return (
        cores
        if _Active.backend == "interpret"
        else min(cores, WORKERS_PER_GPU * len(backends.visible_gpus()))
    )


def pytest_addoption(parser: pytest.Parser) -> None:
    options.add(parser)


def pytest_report_header(config: pytest.Config) -> list[str]:
    if _Active.backend is None:
        return []
    profile, seed = options.profile(config), config.getoption("--hypothesis-seed", None)
    draws = {"ci": "derandomized", "replay": "corpus only"}.get(profile, f"seed {seed}")
    target = config.getoption("--diffgdn-target")
    head = f"diffgdn: backend {_Active.backend}, target {target}, profile {profile}, {draws}"
    missing = _gpu_missing()
    return [head] + ([f"diffgdn: gpu tests are skipped: {missing}"] if missing else [])


def _gpu_missing() -> str | None:
    if _Active.backend == "gpu":
        return None
    return backends.gpu_missing() or f"{backends.ENVIRONMENT}={_Active.backend}"


def pytest_runtest_setup(item: pytest.Item) -> None:
    if _Active.harness is None and _Active.backend is not None:
        _make_harness(item.config)  # activated by a conftest.py further down
    _Active.first.clear()
    _Active.saved.clear()
    most = item.config.getoption("--diffgdn-max-time")
    _Active.answers = Answers(
        _save_first,
        math.inf if most is None else most,
        confirm=lambda call, verdict, target: _harness().confirm(call, verdict, target),
        shorter=lambda sure, target, expired: _harness().shorter(sure, target, expired),
    )
    _draw_from_its_own_stream(item)
    test = getattr(item, "function", None)
    if hasattr(test, "hypothesis"):
        remember(test, f"{item.nodeid} {item.config.getoption('--diffgdn-target')}")
    if item.get_closest_marker("gpu") is not None and (reason := _gpu_missing()) is not None:
        pytest.skip(NEEDS_GPU + reason)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for line in _Active.interrupted:
        terminalreporter.write_line(line)
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
    """Runs a finding's case on its target, on this process's backend, under every check."""

    def runtest(self) -> None:
        from diffgdn import targets
        from diffgdn.findings import parse

        assert _Active.backend is not None
        finding = parse.read(self.path)
        if (reason := targets.missing(finding.target, _Active.backend)) is not None:
            pytest.skip(f"target {finding.target}: {reason}")
        verdict = _harness().replay(finding)
        if verdict.refused is not None:
            pytest.skip(f"{finding.target} does not take this case: {verdict.refused}")
        if verdict.failure is not None:
            raise verdict.failure.with_traceback(None)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if not isinstance(excinfo.value, (AssertionError, ValueError, RunnerError)):
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
    if _Active.backend is not None and options.profile(config) == "replay":
        others = [item for item in items if not isinstance(item, CorpusItem)]
        items[:] = items[: len(items) - len(others)]
        config.hook.pytest_deselected(items=others)


# --- what tests use ---


@pytest.fixture(scope="session")
def diffgdn_backend() -> str:
    """The backend of this process, "interpret" or "gpu"."""
    return _Active.backend or backends.detect()


@pytest.fixture(scope="session")
def diffgdn_target(request: pytest.FixtureRequest) -> Target:
    """The target that --diffgdn-target names."""
    from diffgdn import targets

    return targets.get(request.config.getoption("--diffgdn-target"))


@pytest.fixture(scope="session")
def diffgdn_check(request: pytest.FixtureRequest) -> Callable[..., Verdict]:
    """check(case, target, relation) -> Verdict, for the body of a property test.

    target: a name (default: --diffgdn-target). relation: the one to ask instead of the oracle. A failed check
    is raised; the case that Hypothesis ends with becomes a finding. What the target refuses is rejected.
    """
    from hypothesis import currently_in_test_context, reject

    chosen: str = request.config.getoption("--diffgdn-target")

    def check(case: Case, target: str = chosen, relation: str | None = None) -> Verdict:
        __tracebackhide__ = True
        kind = None if relation is None else f"relation_broken.{relation}"
        verdict = _Active.answers.verdict(
            case, target, lambda case: _harness().run(case, target, kind), relation
        )
        drawn = currently_in_test_context()
        if verdict is not None and verdict.refused is not None and not drawn:
            pytest.skip(f"{target} does not take this case: {verdict.refused}")
        if verdict is None or verdict.refused is not None:
            reject()
        if verdict.failure is not None:
            verdict.failure.__dict__["diffgdn"] = Call(verdict.case, relation), verdict, target, drawn
            # Where diffgdn noticed says nothing; a cause keeps its own.
            raise verdict.failure.with_traceback(None)
        return verdict

    return check


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Save what a failing test ended with, and say under its traceback how to run it again."""
    report = yield
    if call.when == "call" and call.excinfo is not None and report.failed:
        text = "\n\n".join(_saved(failure) for failure in leaves(call.excinfo.value))
        if text:
            report.sections.append(("diffgdn", text))
    return report


def _save_first(verdict: Verdict, sure: Confirmed, target: str) -> None:
    """The failure as it was seen, before it is shrunk: a shrink may be interrupted."""
    harness = _harness()
    finding = harness.finding(sure, target)
    _Active.first[type(sure.failure) if sure.alone else verdict.case.id] = finding
    if not (harness.findings.path / f"{finding.id}.json").exists():
        harness.findings.keep(finding)
        _Active.saved.add(finding.id)


def _saved(failure: CheckFailure) -> str:
    """Save the finding that a test ended with, and say how to see it again."""
    call, verdict, target, drawn = failure.__dict__["diffgdn"]
    harness, first = _harness(), _Active.first.pop(type(failure), None)
    first = _Active.first.pop(verdict.case.id, first)
    sure = _Active.answers.company.get((verdict.case.id, target))
    if sure is None and first is not None and first.case == verdict.case:
        sure = Confirmed(call, verdict)  # it has been asked when it was first seen
    sure = sure or harness.confirm(call, verdict, target)
    astray = not sure.alone and first is not None and first.reproduced and not first.prelude
    if sure.alone:
        sure = replace(sure, verdict=replace(sure.verdict, failure=harness.explained(sure.verdict, target)))
    finding = harness.finding(sure, target, None if first is None else first.case)
    finding = replace(finding, shrink=OUT_OF_TIME if astray else _Active.answers.shrunk(verdict, drawn))
    path, problem = harness.findings.keep(finding, anew=first is not None and first.id == finding.id)
    example = [f"    @example(case={verdict.case!r})"] if sure.alone else []
    said = [f"{type(sure.failure).__name__}: {sure.failure}"]
    if problem is not None:
        return "\n".join([*said, problem, "Reproduce with:", *example])
    if astray:
        assert first is not None
        said += [f"its shrink went astray: {line.strip()}" for line in company(finding)[:1]]
        said.append(f"as it was first seen: {harness.findings.path / first.id}.json")
    elif first is not None and first.id != finding.id and first.id in _Active.saved:
        harness.findings.remove(first)
    depends = company(finding)
    depends += [f"  {finding.case!r}"] if depends else []
    lines = [*said, *depends, f"saved as {path}", *harness.documented(finding)]
    return "\n".join(
        [*lines, "Reproduce with:", f"    diffgdn replay {path}", *example, *unfinished(finding, path)]
    )
