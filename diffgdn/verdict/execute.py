"""Run one case on one target, compare it with the oracle, and reach a verdict. In this process."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from diffgdn.backend import interpreter
from diffgdn.cases.case import Case
from diffgdn.reference import noise
from diffgdn.reference.noise import Reference
from diffgdn.targets import Target
from diffgdn.tensors import inputs
from diffgdn.tensors.arena import Arguments
from diffgdn.tensors.inputs import Data
from diffgdn.tensors.layout import arrange
from diffgdn.tensors.poison import FRESH, PoisonedEmpty
from diffgdn.tensors.results import WrongSize, collected, of_truth, result_of, results_of
from diffgdn.verdict import calibration, checks, leak_source
from diffgdn.verdict.checks import CheckFailure, Comparison
from diffgdn.verdict.failures import Errors, Verdict

GPU_ORACLE_STATE = 50_000  # elements of all states from which the oracle is quicker on the GPU


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def device_of(backend: str) -> str:
    """Where a backend's tensors live."""
    return "cuda" if backend == "gpu" else "cpu"


def oracle_device(case: Case, backend: str) -> str:
    """Where the oracle is quicker on a case."""
    elements = len(case.lens) * case.HV * case.K * case.V
    return device_of(backend) if elements >= GPU_ORACLE_STATE else "cpu"


def run(case: Case, target: Target, backend: str, explain: bool = False, errors: bool = False) -> Verdict:
    """The verdict on one case. A kernel's fault never raises; errors of the framework itself do.

    explain: trace a leak to the memory that it comes from, which takes some fifteen calls more. errors: with
    the distribution of all errors that have a bound, also of the one that fails.
    """
    refusal = target.refuses(case, backend)
    if refusal is not None:
        return Verdict(case, target.name, backend, refused=refusal)
    if backend == "interpret":
        interpreter.repair()
    clock, run = _Clock(), Run(case, target, backend, explain, errors)
    failure = None
    try:
        run.judge(clock)
    except CheckFailure as found:
        failure = found
    finally:
        run.release()
    comparison = (
        run.current if failure is not None and failure.tensor == getattr(run.current, "name", None) else None
    )
    return Verdict(
        case,
        target.name,
        backend,
        failure,
        None,
        run.exact,
        run.shares,
        clock.seconds,
        comparison,
        errors=tuple(run.errors),
    )


def assert_correct(case: Case, target: Target, backend: str) -> Verdict:
    """Like `run`, raising the failure if there is one."""
    verdict = run(case, target, backend)
    if verdict.failure is not None:
        raise verdict.failure
    return verdict


def is_repeated(case: Case, backend: str) -> bool:
    """Whether a case's call is made twice. In the interpreter, which is sequential, one case in four is
    enough."""
    return backend != "interpret" or int(case.id[0], 16) % 4 == 0


class Run:
    """One case on one target: its calls, and what they return. `diffgdn.verdict.serving` makes calls of its
    own with it."""

    def __init__(
        self, case: Case, target: Target, backend: str, explain: bool, collects: bool = False
    ) -> None:
        self.explain, self.collects = explain, collects
        self.case, self.target, self.backend = case, target, backend
        self.device = device_of(backend)
        self.exact = False
        self.shares: dict[str, float] = {}
        self.errors: list[Errors] = []
        self.current: Comparison | None = None
        self.arguments: Arguments | None = None
        self.fresh = PoisonedEmpty()  # of the latest call

    def judge(self, clock: _Clock) -> None:
        """Ask every question in order; the first that fails raises its CheckFailure."""
        case, contract = self.case, self.target.contract(self.case.op)
        with clock("inputs"):
            data = inputs.draw(case)
            self.arguments = arrange(case, data, self.device, self.target.layout)
        with clock("kernel"):
            returned = self.call(self.arguments)
        with clock("checks"):
            change = self.arguments.find_change()
            checks.memory(case, change)
            self.check_fresh(returned)
            patterns = {name: self.fresh.pattern(tensor) for name, tensor in returned.items()}
            results = {name: tensor.cpu() for name, tensor in self.results(self.arguments, returned).items()}
        with clock("oracle"):
            device = oracle_device(case, self.backend)
            reference = noise.reference(case, data, contract, kept_in(case, results), device)
            self.exact = reference.exact
        with clock("checks"):
            for comparison in comparisons(case, results, reference, patterns):
                self.current = comparison
                checks.written(comparison)
                checks.finite(
                    comparison,
                    lambda: self._clean(data).get(comparison.name),  # noqa: B023 (called at once)
                    lambda mask: self._leak(data, comparison.name, mask),  # noqa: B023
                )
                if self.exact:
                    checks.exact(comparison)
                else:
                    self.shares[comparison.name] = comparison.share
                    if self.collects:
                        self.errors.append(calibration.errors(comparison))
                    checks.bounded(comparison)
            self.current = None
            checks.slots(case, change)
        with clock("kernel"):
            self._repeat(returned, results)

    def release(self) -> None:
        """Give a far pool's memory back at once."""
        far = self.arguments is not None and self.arguments.far is not None
        self.arguments = None
        if far and self.device == "cuda":
            torch.cuda.empty_cache()

    def check_fresh(self, returned: dict[str, Tensor]) -> None:
        """Nothing was written beside memory that the latest call allocated."""
        stray = self.fresh.stray()
        if stray is not None:
            place = stray.tensor.untyped_storage().data_ptr()
            names = [name for name, t in returned.items() if t.untyped_storage().data_ptr() == place]
            checks.fresh(self.case, stray, names[0] if names else None)

    def call(
        self, arguments: Arguments, zeros: bool = False, only: tuple[int, str] | None = None
    ) -> dict[str, Tensor]:
        """What the target returns, fresh memory poisoned. Raises KernelRaised."""
        self.fresh = PoisonedEmpty(zeros, only)
        try:
            with self.fresh:
                returned = self.target.run(self.case, arguments)
            if self.device == "cuda":
                torch.cuda.synchronize()
        except Exception as error:
            message = interpreter.explain(str(error).strip()) or "no message"
            raise checks.KernelRaised(
                self.case.op, None, None, f"{type(error).__name__}: {message}"
            ) from error
        return returned

    def results(self, arguments: Arguments, returned: dict[str, Tensor]) -> dict[str, Tensor]:
        """Every result that this case has and the target returns, see `results.collected`. Raises
        KernelRaised for one of another size."""
        try:
            return collected(results_of(self.case), arguments, returned, arguments.layout)
        except WrongSize as error:
            raise checks.KernelRaised(self.case.op, error.name, None, str(error)) from None

    def _clean(self, data: Data) -> dict[str, Tensor]:
        """Results of the same case with zeros for all poison: padding tokens, unnamed slots, guards, fresh
        memory."""
        arguments = self._calm(data)
        try:
            returned = self.call(arguments, zeros=True)
        except CheckFailure:
            return {}
        results = {name: tensor.cpu().double() for name, tensor in self.results(arguments, returned).items()}
        return {
            name: tensor.reshape(self.current.got.shape)
            if self.current and name == self.current.name
            else tensor
            for name, tensor in results.items()
        }

    def _calm(self, data: Data) -> Arguments:
        """Arguments without poison."""
        calm = {
            name: torch.nan_to_num(tensor, nan=0.0) if tensor.is_floating_point() else tensor
            for name, tensor in data.items()
        }
        return arrange(self.case, calm, self.device, self.target.layout, zeros=True)

    def _leak(self, data: Data, name: str, mask: Tensor) -> str | None:
        """What memory makes elements of a result not finite: the call again, with parts of the poison."""
        if not self.explain:
            return None
        poisoned = arrange(self.case, data, self.device, self.target.layout)
        calm = self._calm(data)

        def leaks(words: Tensor | None = None, only: tuple[int, str] | None = None) -> bool:
            calm.restore()
            if words is not None:
                calm.copy_words(poisoned, words)
            try:
                result = self.results(calm, self.call(calm, zeros=True, only=only))[name]
            except CheckFailure:
                return False
            return not bool(result.cpu().reshape(mask.shape)[mask].isfinite().all())

        return leak_source.source(poisoned, calm, leaks, lambda: self.fresh.allocated)

    def _repeat(self, returned: dict[str, Tensor], first: dict[str, Tensor]) -> None:
        """A second run from the same memory."""
        if not is_repeated(self.case, self.backend):
            return
        assert self.arguments is not None
        after = self.arguments.bits()
        self.arguments.restore()
        again = self.call(self.arguments)
        passed = {
            tensor.untyped_storage().data_ptr()
            for tensor in self.arguments.tensors.values()
            if tensor is not None
        }
        for name, tensor in again.items():
            place = tensor.untyped_storage().data_ptr()
            shared = (
                tensor.numel()
                and place not in passed
                and place == returned[name].untyped_storage().data_ptr()
            )
            checks.not_shared(self.case, name, bool(shared))
        results = self.results(self.arguments, again)
        for name, tensor in first.items():
            checks.repeatable(self.case, _words(tensor), _words(results[name].cpu()), name)
        checks.repeatable(self.case, after, self.arguments.bits(), "memory")


def kept_in(case: Case, results: Mapping[str, Tensor]) -> list[tuple[str, torch.dtype]]:
    """Of each result of a run, the truth that it is compared with, and the dtype that it came in."""
    return [(result_of(case, name).truth, tensor.dtype) for name, tensor in results.items()]


def comparisons(
    case: Case, results: dict[str, Tensor], reference: Reference, patterns: Mapping[str, int] | None = None
) -> Iterator[Comparison]:
    """Each result of a run (as `results_of` names them, on the CPU and in its own dtype) beside the
    reference. patterns: what the memory of a result started with, where that is not poison.FRESH."""
    truth = reference.truth.items()
    for name, got in results.items():
        result = result_of(case, name)
        wanted = of_truth(result, truth[result.truth]).cpu()
        noises = of_truth(result, reference.noise[result.truth]).cpu()
        last = noise.last_rounding(wanted, noises, got.dtype)
        got = got.reshape(wanted.shape)
        yield Comparison(
            case,
            name,
            got.dtype,
            got.double(),
            wanted,
            noises,
            last,
            checks.unwritten_mask(got, (patterns or {}).get(name, FRESH)),
        )


def _words(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).contiguous().view(torch.int16)
