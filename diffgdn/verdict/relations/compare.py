"""Asks a relation of a case: the call, its other calls, and whether they agree."""

from __future__ import annotations

import inspect
import time
from dataclasses import replace

import torch
from torch import Tensor

from diffgdn.backend import interpreter
from diffgdn.cases.case import Case
from diffgdn.cases.state_options import StateOptions
from diffgdn.reference import noise
from diffgdn.targets import Target, refusal
from diffgdn.tensors import inputs
from diffgdn.verdict.comparison import Comparison
from diffgdn.verdict.failures import CheckFailure, KernelRaised, RelationBroken, Verdict
from diffgdn.verdict.relations import registry
from diffgdn.verdict.relations.labelled_results import STATES, Side, call, with_bounds
from diffgdn.verdict.relations.related_calls import Calls, DoesNotApply
from diffgdn.verdict.relations.transforms import MAKERS

WORDS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def run(case: Case, target: Target, backend: str, name: str) -> Verdict:
    """Ask one relation of a case; the verdict is refused if the relation says nothing about it.

    A kernel's fault never raises; errors of the framework itself do, and ValueError for an unknown relation.
    Calls that the case names before its own are not made: a relation is about calls among themselves. Where
    these have other shapes, arguments lie as the case's view says, whatever its lays.
    """
    relation = registry.get(name)
    reason = None if relation.takes(case.operation) else f"not about {case.op}"
    reason = reason or registry.missing(name, case.op, target.name, tuple(target.operations))
    reason = reason or (None if case.total else "no tokens") or relation.unless(case)
    usual = StateOptions(accepted=case.state_options.accepted if case.operation.commits else ())
    if case.state_options != usual and not relation.same_shapes:
        reason = reason or "options of states, of which only the same call again is asked"
    case_asked = replace(case, before=())
    if not relation.same_shapes:
        case_asked = replace(case_asked, lay=())  # strides are of one argument in one shape
        if reason is None and relation.bitwise:
            case_asked = replace(case_asked, batch_invariant=True)
    reason = reason or refusal(target, case_asked, backend)
    if reason is not None:
        return Verdict(case, target.name, backend, refused=reason)
    if backend == "interpret":
        interpreter.repair()
    bitwise = relation.bitwise and (relation.same_shapes or keeps_bits(target, case.op))
    start, asked = time.perf_counter(), _Asked(case_asked, target, backend, name, bitwise)
    failure, refused = None, None
    try:
        asked.judge()
    except DoesNotApply as why:
        refused = str(why)
    except CheckFailure as found:
        failure = found
    seconds = {"relation": time.perf_counter() - start}
    shares = {} if bitwise or refused is not None else {name: asked.share}
    return Verdict(
        case,
        target.name,
        backend,
        failure,
        refused,
        shares=shares,
        seconds=seconds,
        comparison=asked.broken if failure is not None else None,
    )


def keeps_bits(target: Target, op: str) -> bool:
    """Whether a target promises, with batch_invariant, the same bits in every batch: as its attribute
    `batch_invariant` says, or, if it has none, as the function does by taking that keyword."""
    says = getattr(target, "batch_invariant", None)
    function = getattr(target, "functions", {}).get(op)
    if says is not None or function is None:
        return says is not False
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(p.name == "batch_invariant" or p.kind is p.VAR_KEYWORD for p in parameters)


class _Asked:
    """One relation, asked of one case.

    bitwise: bits are compared. share: the worst disagreement as a share of its bound. broken: the result that
    broke the relation, beside the other side.
    """

    def __init__(self, case: Case, target: Target, backend: str, name: str, bitwise: bool) -> None:
        self.case, self.target, self.backend, self.name, self.bitwise = case, target, backend, name, bitwise
        self.share = 0.0
        self.broken: Comparison | None = None

    def judge(self) -> None:
        """Make the calls and compare them.

        Raises RelationBroken, KernelRaised if the case's own call does, and DoesNotApply.
        """
        case, data = self.case, inputs.draw(self.case)
        ours = call(case, data, self.target, self.backend)
        calls = Calls(self.target, self.backend)
        try:
            made = MAKERS[self.name](case, data, calls)
        except KernelRaised as error:
            message = f"the case's own call returned, a related one raised {error.message}"
            raise RelationBroken(case.op, error.tensor, None, message, self.name) from error
        if not self.bitwise:
            ours = with_bounds(ours, case, data, self.target)
        others = made if isinstance(made, list) else [made]
        compared = sum(self._compare(name, ours, other) for other in others for name in ours.results)
        if not compared:
            raise DoesNotApply("no results in common")

    def _compare(self, name: str, ours: Side, other: Side) -> int:
        """Compare the rows of a result that the other side speaks of, and count them. Raises
        RelationBroken."""
        done = 0
        for source in [name, *(STATES if name in STATES else ())]:
            if source not in other.results or (done and source != name):
                continue
            places: dict[tuple[str, int, int], int] = {}
            for row, label in enumerate(other.labels[source]):
                places.setdefault(label, row)
            pairs = [(r, places[label]) for r, label in enumerate(ours.labels[name]) if label in places]
            if pairs and ours.results[name].numel():
                self._check_agreement(name, source, ours, other, [r for r, _ in pairs], [r for _, r in pairs])
                done += len(pairs)
        return done

    def _check_agreement(
        self, name: str, source: str, ours: Side, other: Side, mine: list[int], theirs: list[int]
    ) -> None:
        """Raise RelationBroken unless rows `mine` of a result agree with rows `theirs` of the other side's
        `source`."""
        got, said = ours.results[name][mine], other.results[source][theirs]
        if other.columns is not None:
            got = got[:, :, other.columns]
        if self.bitwise:
            self._check_bits(name, got, said, mine, ours, other)
            return
        bound, rounding = self._bound(name, source, ours, other, mine, theirs, got, said)
        error = (got.double() - said.double()).abs()
        both = (got.double() == said.double()) | (got.isnan() & said.isnan())
        error = torch.where(both | bound.isinf(), 0.0, error).nan_to_num(nan=torch.inf)
        # As of an error: less the last roundings, which nobody can avoid, over sigmas.
        excess, room = (error - rounding).clamp(min=0.0), (bound - rounding).clamp(min=noise.TINY)
        ratio = torch.where(bound > 0, excess / room, torch.where(error > 0, torch.inf, 0.0))
        self.share = max(self.share, float(torch.where(bound.isinf(), 0.0, ratio).max()))
        mask = error > bound
        if mask.any():
            index = _worst(torch.where(mask, ratio, -1.0))
            far, limit = float(error[index]), float(bound[index])
            size = (
                f"{far:.3g} apart is {far / limit:.3g} times the bound {limit:.3g}" if limit else "not exact"
            )
            self._raise_broken(name, got, said, bound, mask, index, mine, ours, other, size)

    def _bound(
        self,
        name: str,
        source: str,
        ours: Side,
        other: Side,
        mine: list[int],
        theirs: list[int],
        got: Tensor,
        said: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Compute the largest disagreement that passes, which is the sum of both sides' bounds, and the last
        roundings in it: each [rows, HV, V(, K)], float64."""
        assert ours.bounds is not None
        own = ours.bounds[name][:, mine]
        if other.columns is not None:
            own = own[:, :, :, other.columns]
        both = 2 * own if other.repeats else own
        if other.bounds is not None:
            both = both + other.bounds[source][:, theirs]
        if other.repeats and said.dtype != got.dtype:
            both = both + noise.half_ulp(said.double().abs(), said.dtype)
        return both[0], both[1]

    def _check_bits(
        self, name: str, got: Tensor, said: Tensor, mine: list[int], ours: Side, other: Side
    ) -> None:
        """Raise RelationBroken unless two tensors have the same bits; of two dtypes the wider is rounded to
        the other, as a store does."""
        narrow = min(got.dtype, said.dtype, key=lambda dtype: dtype.itemsize)
        got, said = got.to(narrow), said.to(narrow)
        words = WORDS[got.element_size()]
        mask = got.contiguous().view(words) != said.contiguous().view(words)
        if mask.any():
            apart = (got.double() - said.double()).abs().nan_to_num(nan=torch.inf)
            index = _worst(torch.where(mask, apart, -1.0))
            zero = torch.zeros(got.shape, dtype=torch.float64)
            size = f"other bits, {float(apart[index]):.3g} apart"
            self._raise_broken(name, got, said, zero, mask, index, mine, ours, other, size)

    def _raise_broken(
        self,
        name: str,
        got: Tensor,
        said: Tensor,
        bound: Tensor,
        mask: Tensor,
        index: tuple[int, ...],
        mine: list[int],
        ours: Side,
        other: Side,
        size: str,
    ) -> None:
        """Raise RelationBroken, and keep the result beside the other side's as `broken`.

        got, said, bound, mask: of the rows `mine`, [rows, HV, columns(, K)]. index: of the worst element in
        them. size: of the disagreement, in words.
        """
        whole = ours.results[name].double()
        expected, limits = whole.clone(), torch.zeros_like(whole)
        columns = slice(None) if other.columns is None else other.columns
        for row, values, limit in zip(mine, said.double(), bound, strict=True):
            expected[row][:, columns], limits[row][:, columns] = values, limit
        none = torch.zeros_like(whole, dtype=torch.bool)
        self.broken = Comparison(
            self.case,
            name,
            got.dtype,
            whole,
            expected,
            limits / noise.MAX_SIGMAS,
            torch.zeros_like(whole),
            none,
        )
        full = (mine[index[0]], *index[1:])
        if other.columns is not None:
            full = (full[0], full[1], int(other.columns[index[2]]), *full[3:])
        what = registry.get(self.name).what
        message = (
            f"relation {self.name} ({what}): got {float(got[index]):.9g}, "
            f"related {float(said[index]):.9g}: {size} ({int(mask.sum())} of {mask.numel()} elements)"
        )
        raise RelationBroken(self.case.op, name, self.broken.place(full), message, self.name)


def _worst(ratio: Tensor) -> tuple[int, ...]:
    """Find the index of the largest element."""
    return tuple(int(i) for i in torch.unravel_index(ratio.argmax(), ratio.shape))
