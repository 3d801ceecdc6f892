"""Runs one case on one target in this process, compares it with the oracle, and reaches a verdict."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from diffgdn.backend import interpreter
from diffgdn.cases.case import Case
from diffgdn.cases.promises import ZERO
from diffgdn.reference import noise
from diffgdn.targets import Target, promises_of, refusal
from diffgdn.tensors import inputs
from diffgdn.tensors.arena import Arguments
from diffgdn.tensors.inputs import Data
from diffgdn.tensors.layout import arrange
from diffgdn.tensors.poison import PoisonedEmpty
from diffgdn.tensors.results import Result, WrongForm, collect, results_of, tail_of
from diffgdn.verdict import checks, earlier_calls, executions, leak_source
from diffgdn.verdict.comparison import TAIL, Comparison, compare_results, compare_tail, received_dtypes
from diffgdn.verdict.error_counts import count_errors
from diffgdn.verdict.failures import CheckFailure, Errors, KernelRaised, TailNotZero, Verdict

GPU_ORACLE_STATE = 50_000  # elements of all states from which the oracle is quicker on the GPU


class _Clock:
    """Adds up the seconds of each part of a run, by name."""

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
    """Name the torch device of a backend's tensors: "cuda" or "cpu"."""
    return "cuda" if backend == "gpu" else "cpu"


def oracle_device(case: Case, backend: str) -> str:
    """Name the torch device on which the oracle is quicker for a case."""
    elements = len(case.lens) * case.HV * case.K * case.V
    return device_of(backend) if elements >= GPU_ORACLE_STATE else "cpu"


def run(case: Case, target: Target, backend: str, explain: bool = False, errors: bool = False) -> Verdict:
    """Run one case and judge it. A kernel's fault never raises; errors of the framework itself do.

    explain: trace a leak to the memory that it comes from, which takes some fifteen calls more. errors: count
    the errors of every result that has a bound, the one that fails included.
    """
    refused = refusal(target, case, backend) or executions.lacking(case, backend)
    if refused is not None:
        return Verdict(case, target.name, backend, refused=refused)
    if backend == "interpret":
        interpreter.repair()
    clock, run = _Clock(), Run(executions.as_run(case, target, backend), target, backend, explain, errors)
    run.live = len(case.lens)
    failure = None
    try:
        run.judge(clock)
    except CheckFailure as found:
        failure = found
    finally:
        run.release()
    about = TAIL if isinstance(failure, TailNotZero) else getattr(failure, "tensor", None)
    comparison = run.current if run.current is not None and run.current.name == about else None
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
    """Run one case and judge it, as `run` does. Raises the CheckFailure, if there is one."""
    verdict = run(case, target, backend)
    if verdict.failure is not None:
        raise verdict.failure
    return verdict


def has_zero_tail(case: Case, target: Target) -> bool:
    """Whether a case has output rows of padding tokens, which the target promises to be zero."""
    promised = promises_of(target).of(case.op).tail_output == ZERO
    return promised and case.tail > 0 and case.state_options.output


def is_repeated(case: Case, backend: str) -> bool:
    """Whether a case's call is made twice: on a GPU always; in the interpreter, which is sequential, for one
    case in four, and for all whose programs run in another order than ascending."""
    return backend != "interpret" or case.order != Case.order or int(case.id[0], 16) % 4 == 0


def is_turned(case: Case, backend: str) -> bool:
    """Whether the second call runs programs in the opposite order: in the interpreter, for a case that is in
    another order than ascending. So what depends on the order goes by the case, not by whether its id has it
    repeated, and shrinks as other failures do."""
    return backend == "interpret" and case.order != Case.order


def program_order(case: Case, backend: str, again: bool = False) -> AbstractContextManager[None]:
    """Run the programs of kernels in the order of the case's first or second call; on a GPU there is none."""
    if backend != "interpret":
        return nullcontext()
    backwards = again and is_turned(case, backend)
    return interpreter.program_order(case.order, case.values.seed, backwards)


class Run:
    """One case on one target: its calls, and what they return.

    exact: nothing in the case rounds. shares: worst error of each result as a share of its bound. errors: of
    each result, if `collects`. current: the comparison that is being checked. arguments: of the case's own
    call, earlier: of those before it. fresh: memory that the latest call allocated. live: sequences of the
    case, without those that pad it for a graph. `relations` and `serving` make calls of their own with it.
    """

    def __init__(
        self, case: Case, target: Target, backend: str, explain: bool, collects: bool = False
    ) -> None:
        self.explain, self.collects = explain, collects
        self.case, self.target, self.backend = case, target, backend
        self.device, self.live = device_of(backend), len(case.lens)
        self.exact = False
        self.shares: dict[str, float] = {}
        self.errors: list[Errors] = []
        self.current: Comparison | None = None
        self.arguments: Arguments | None = None
        self.earlier: list[Arguments] = []
        self.fresh = PoisonedEmpty()

    def judge(self, clock: _Clock) -> None:
        """Make the call, then ask every check in order. Raises the first CheckFailure."""
        case, contract = self.case, self.target.contract(self.case.op)
        with clock("inputs"):
            data = inputs.draw(case)
            self.arguments = arrange(case, data, self.device, self.target.layout)
        with clock("kernel"):
            self.accompany(self.arguments)
            returned = self.call(self.arguments)
        with clock("checks"):
            change = self.arguments.find_change()
            checks.check_memory(case, change)
            self.check_fresh(returned)
            patterns = {name: self.fresh.pattern(tensor) for name, tensor in returned.items()}
            results = {name: tensor.cpu() for name, tensor in self.results(self.arguments, returned).items()}
            tail = self.promised_tail(returned)
        with clock("oracle"):
            device = oracle_device(case, self.backend)
            reference = noise.reference(case, data, contract, received_dtypes(case, results), device)
            self.exact = reference.exact
        with clock("checks"):
            for comparison in compare_results(case, results, reference, patterns):
                self.current = comparison
                checks.check_written(comparison)
                checks.check_finite(
                    comparison,
                    lambda: self._results_without_poison(data).get(comparison.name),  # noqa: B023 (called at once)
                    lambda mask: self._name_leak(data, comparison.name, mask),  # noqa: B023
                )
                if self.exact:
                    checks.check_exact(comparison)
                else:
                    self.shares[comparison.name] = comparison.share
                    if self.collects:
                        self.errors.append(count_errors(comparison))
                    checks.check_bounded(comparison)
            if tail is not None:
                self.current = compare_tail(case, tail, patterns["o"])
                checks.check_tail(case, tail, patterns["o"])
                self.current = None
            checks.check_slots(case, change)
        with clock("kernel"):
            self._check_repeats(returned, results)
            executions.check(self, data, results)

    def release(self) -> None:
        """Drop the arguments; on a GPU give the memory of far ones back at once."""
        far = self.arguments is not None and self.arguments.far
        self.arguments, self.earlier = None, []
        if far and self.device == "cuda":
            torch.cuda.empty_cache()

    def check_fresh(self, returned: dict[str, Tensor]) -> None:
        """Raise GuardWritten if the latest call wrote beside memory that it had allocated."""
        stray = self.fresh.stray()
        if stray is not None:
            place = stray.tensor.untyped_storage().data_ptr()
            names = [name for name, t in returned.items() if t.untyped_storage().data_ptr() == place]
            checks.check_fresh_memory(self.case, stray, names[0] if names else None)

    def accompany(self, arguments: Arguments, zeros: bool = False) -> None:
        """Make the calls that the case names before its own, as `earlier_calls.make` does. Raises
        KernelRaised."""
        self.earlier += earlier_calls.make(self.case, self.target, self.backend, arguments, zeros)

    def call(
        self,
        arguments: Arguments,
        zeros: bool = False,
        only: tuple[int, str] | None = None,
        again: bool = False,
    ) -> dict[str, Tensor]:
        """Call the target once, fresh memory poisoned. Raises KernelRaised, and NotReturned.

        zeros, only: as in `PoisonedEmpty`. again: it is the second call. Returns what the target returns,
        by name of the result.
        """
        self.fresh = PoisonedEmpty(zeros, only)
        try:
            with self.fresh, program_order(self.case, self.backend, again):
                returned = self.target.run(self.case, arguments)
            if self.device == "cuda":
                torch.cuda.synchronize()
        except WrongForm as error:
            checks.refuse_form(self.case, error)
        except Exception as error:
            message = interpreter.explain(str(error).strip()) or "no message"
            raise KernelRaised(self.case.op, None, None, f"{type(error).__name__}: {message}") from error
        return returned

    def expected(self) -> tuple[Result, ...]:
        """List the results that the case has, in the dtypes that the target promises."""
        return results_of(self.case, promises_of(self.target).of(self.case.op))

    def results(self, arguments: Arguments, returned: dict[str, Tensor]) -> dict[str, Tensor]:
        """Collect every result that this case has and the target returns, see `results.collect`. Raises
        WrongShape and WrongDtype."""
        try:
            return collect(self.expected(), arguments, returned, arguments.layout)
        except WrongForm as error:
            checks.refuse_form(self.case, error)

    def promised_tail(self, returned: dict[str, Tensor]) -> Tensor | None:
        """Copy the output rows that are promised to be zero, [tail, HV, V] on the CPU; None if none are."""
        if not has_zero_tail(self.case, self.target) or "o" not in returned:
            return None
        return tail_of(self.case, returned["o"]).cpu()

    def _results_without_poison(self, data: Data) -> dict[str, Tensor]:
        """Make the call with zeros for all poison (padding tokens, unnamed slots, guards, fresh memory).

        Returns results in float64 on the CPU, the current one in its comparison's shape; none if the call
        raises.
        """
        arguments = self._without_poison(data)
        try:
            self.accompany(arguments, zeros=True)
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

    def _without_poison(self, data: Data) -> Arguments:
        """Lay the tensors out with zeros for all poison, padding tokens included."""
        calm = {
            name: torch.nan_to_num(tensor, nan=0.0) if tensor.is_floating_point() else tensor
            for name, tensor in data.items()
        }
        return arrange(self.case, calm, self.device, self.target.layout, zeros=True)

    def _name_leak(self, data: Data, name: str, mask: Tensor) -> str | None:
        """Name the memory that makes the elements in the mask not finite, by calls with parts of the poison;
        None if that is not asked for or no part does so alone."""
        if not self.explain:
            return None
        poisoned = arrange(self.case, data, self.device, self.target.layout)
        calm = self._without_poison(data)

        def leaks(words: Tensor | None = None, only: tuple[int, str] | None = None) -> bool:
            calm.restore()
            try:
                self.accompany(calm, zeros=True)
                if words is not None:
                    calm.copy_words(poisoned, words)
                result = self.results(calm, self.call(calm, zeros=True, only=only))[name]
            except CheckFailure:
                return False
            return not bool(result.cpu().reshape(mask.shape)[mask].isfinite().all())

        return leak_source.find_source(poisoned, calm, leaks, lambda: self.fresh.allocated)

    def _check_repeats(self, returned: dict[str, Tensor], first: dict[str, Tensor]) -> None:
        """Make the call again from the same memory, if it is to be repeated. Raises NotRepeatable."""
        if not is_repeated(self.case, self.backend):
            return
        assert self.arguments is not None
        after = self.arguments.bits()
        self.arguments.restore()
        again = self.call(self.arguments, again=True)
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
            checks.check_not_shared(self.case, name, bool(shared))
        results, turned = self.results(self.arguments, again), is_turned(self.case, self.backend)
        for name, tensor in first.items():
            checks.check_repeatable(self.case, _words(tensor), _words(results[name].cpu()), name, turned)
        checks.check_repeatable(self.case, after, self.arguments.bits(), "memory", turned)


def _words(tensor: Tensor) -> Tensor:
    """Copy or view a tensor's memory as int16 words, [words]."""
    return tensor.reshape(-1).contiguous().view(torch.int16)
