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
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from diffgdn.backend import selection as backends
from diffgdn.cases.prelude import Call
from diffgdn.pytest_plugin import plugin_options as options
from diffgdn.pytest_plugin import plugin_state as state
from diffgdn.pytest_plugin.answers import Answers, TimeUp
from diffgdn.pytest_plugin.corpus_items import CorpusFile, CorpusItem
from diffgdn.pytest_plugin.hypothesis_database import remember
from diffgdn.pytest_plugin.plugin_harness import unfinished
from diffgdn.pytest_plugin.plugin_state import RUNNING, Activation, State, active, state_of
from diffgdn.pytest_plugin.reporting import leaves, save_first, saved
from diffgdn.verdict.question import question_of

if TYPE_CHECKING:
    from diffgdn.cases.case import Case
    from diffgdn.targets import Target
    from diffgdn.verdict.failures import Verdict

WORKERS_PER_GPU = 8  # each holds a CUDA context of some 500 MB, and a kernel rarely fills the GPU
NEEDS_GPU = "needs a GPU: "
KNOWN = "known failure "  # and the name of its entry: how many cases of a test failed so
SEED = "diffgdn_seed"
REPEATS = "diffgdn_repeats"
EXPLORES = "explores"


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
    state.remember(Activation(backend, None if corpus is None else Path(corpus).resolve()))
    options.register_profiles()


@pytest.hookimpl(tryfirst=True)  # before Hypothesis reads the seed
def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gpu: needs a GPU; skipped, with the reason, where there is none")
    config.addinivalue_line("markers", f"{EXPLORES}: draws cases in its body; --diffgdn-shards multiplies it")
    if state.activated() is None:
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
    active(config).repeats = repeats


def pytest_unconfigure(config: pytest.Config) -> None:
    state.close(config)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Workers draw from the seed that the header shows, and note the cases they run where this process finds
    them.
    """
    node.workerinput[SEED] = node.config.getoption("--hypothesis-seed", None)
    run = state_of(node.config)
    if run is not None:
        node.workerinput[REPEATS] = run.repeats
        node.workerinput[RUNNING] = str(run.harness.folder)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """A worker that was killed leaves the case behind that it was running."""
    run = state_of(node.config)
    if error is None or run is None:
        return
    finding = run.harness.left_behind(node.gateway.id)
    if finding is not None:
        path, problem = run.harness.findings.keep(finding)
        run.left_behind = problem or f"saved as {path}\nReproduce with:\n    diffgdn replay {path}"


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(crashitem: str, report: Any, sched: Any) -> None:
    """Called for the test of the worker that has just gone down."""
    run = state_of(sched.config)
    if run is not None and run.left_behind is not None:
        report.longrepr = f"{report.longrepr}\n{run.left_behind}"
        run.left_behind = None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A property once a shard. Properties are Hypothesis tests, and what is marked to explore in its body."""
    if state_of(metafunc.config) is None or "diffgdn_check" not in metafunc.fixturenames:
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
    if state_of(item.config) is not None and seed is not None and seed.isdecimal():
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
        run = state_of(pyfuncitem.config)
        nothing = None if run is None else run.answers.nothing
        if run is not None and nothing is not None and run.answers.verdicts and run.answers.only_known:
            raise pytest.skip.Exception(nothing) from None
        if nothing is not None and "diffgdn_check" in pyfuncitem.fixturenames:
            raise pytest.fail.Exception(nothing, pytrace=False) from None
        if isinstance(error, TimeUp):
            return True
        raise


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> Any:
    """After Ctrl-C what was found last is left whole, and told of."""
    run = state_of(session.config)
    if run is not None and exitstatus == pytest.ExitCode.INTERRUPTED:
        for finding in run.first.values():
            path = run.harness.findings.path / f"{finding.id}.json"
            run.interrupted += [
                f"saved as {path}",
                *run.harness.documented(finding),
                *unfinished(finding, path),
            ]
    return (yield)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Workers for `-n auto`: a core each, and on GPUs no more than a GPU holds."""
    run = state_of(config)
    if run is None:
        return None
    cores = len(os.sched_getaffinity(0))
    return cores if run.backend == "interpret" else min(cores, WORKERS_PER_GPU * len(backends.visible_gpus()))


def pytest_addoption(parser: pytest.Parser) -> None:
    options.add(parser)


def pytest_report_header(config: pytest.Config) -> list[str]:
    run = state_of(config)
    if run is None:
        return []
    profile, seed = options.profile(config), config.getoption("--hypothesis-seed", None)
    draws = {"ci": "derandomized", "replay": "corpus only"}.get(profile, f"seed {seed}")
    target = config.getoption("--diffgdn-target")
    head = f"diffgdn: backend {run.backend}, target {target}, profile {profile}, {draws}"
    missing = _gpu_missing(run)
    return [head] + ([f"diffgdn: gpu tests are skipped: {missing}"] if missing else [])


def _gpu_missing(run: State | None) -> str | None:
    """Why tests that need a GPU cannot run, or None."""
    if run is not None and run.backend == "gpu":
        return None
    return backends.gpu_missing() or f"{backends.ENVIRONMENT}={None if run is None else run.backend}"


def pytest_runtest_setup(item: pytest.Item) -> None:
    run = state_of(item.config)
    if run is not None:
        _begin(run, item.config.getoption("--diffgdn-max-time"))
    _draw_from_its_own_stream(item)
    test = getattr(item, "function", None)
    if hasattr(test, "hypothesis"):
        remember(test, f"{item.nodeid} {item.config.getoption('--diffgdn-target')}")
    if item.get_closest_marker("gpu") is not None and (reason := _gpu_missing(run)) is not None:
        pytest.skip(NEEDS_GPU + reason)


def _begin(run: State, max_time: float | None) -> None:
    """Forget the test before."""
    run.first.clear()
    run.saved.clear()
    run.answers = Answers(
        lambda verdict, sure, target: save_first(run, verdict, sure, target),
        math.inf if max_time is None else max_time,
        confirm=run.harness.confirm,
        shorter=run.harness.shorter,
        promises=lambda target: run.harness.about(target).promises,
    )


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    run = state_of(config)
    for line in () if run is None else run.interrupted:
        terminalreporter.write_line(line)
    for line in known_lines(terminalreporter.stats):
        terminalreporter.write_line(line, yellow=True)
    skipped = [report.longrepr for report in terminalreporter.stats.get("skipped", [])]
    reasons = [text[2] for text in skipped if isinstance(text, tuple) and NEEDS_GPU in text[2]]
    if reasons:
        terminalreporter.write_line(
            f"{len(reasons)} gpu tests skipped: {reasons[0].split(NEEDS_GPU)[-1]}", yellow=True
        )


def known_lines(stats: dict[str, list[Any]]) -> list[str]:
    """How many cases of all tests failed by each entry of known failures, in lines."""
    counts: Counter[str] = Counter()
    for report in [report for reports in stats.values() for report in reports]:
        for name, count in getattr(report, "user_properties", ()):
            if name.startswith(KNOWN):
                counts[name] += count
    return [f"{name}: {count} case{'' if count == 1 else 's'}" for name, count in sorted(counts.items())]


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    run = state_of(parent.config)
    if run is None or run.corpus is None or file_path.suffix != ".json":
        return None
    if file_path.resolve().parent != run.corpus:
        return None
    return CorpusFile.from_parent(parent, path=file_path)


@pytest.hookimpl(trylast=True)  # after plugins that shuffle
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The corpus first; under the replay profile, the corpus alone."""
    items.sort(key=lambda item: not isinstance(item, CorpusItem))
    if state_of(config) is not None and options.profile(config) == "replay":
        others = [item for item in items if not isinstance(item, CorpusItem)]
        items[:] = items[: len(items) - len(others)]
        config.hook.pytest_deselected(items=others)


# --- what tests use ---


@pytest.fixture(scope="session")
def diffgdn_backend() -> str:
    """The backend of this process, "interpret" or "gpu"."""
    activation = state.activated()
    return backends.detect() if activation is None else activation.backend


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
        run = active(request.config)
        verdict = run.answers.verdict(
            case,
            target,
            lambda case: run.harness.ask(case, target, question_of(Call(case, relation))),
            relation,
        )
        drawn = currently_in_test_context()
        if verdict is not None and verdict.refused is not None and not drawn:
            pytest.skip(f"{target} does not take this case: {verdict.refused}")
        if verdict is None or verdict.refused is not None:
            reject()
        if verdict.known is not None and not drawn:
            pytest.xfail(run.harness.known.named(verdict.known).words)
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
    run = state_of(item.config)
    if call.when == "call" and run is not None:
        report.user_properties += [(f"{KNOWN}{name}", count) for name, count in run.answers.known.items()]
    if call.when == "call" and call.excinfo is not None and report.failed:
        text = "\n\n".join(saved(active(item.config), failure) for failure in leaves(call.excinfo.value))
        if text:
            report.sections.append(("diffgdn", text))
    return report
