"""Says which stage of our own kernels is the first whose intermediate leaves its bound.

The call is made once more, while the stages of extend hand over what they leave (`observed` in the kernels'
pipeline). Each is held to its truth and noise in float64 (`noise.intermediates`) as results are to theirs, in
the order in which they are made; states and v_new, which make each other, chunk by chunk. The recurrent
kernels have one stage: there the state and the output are told apart, by the results of the call.
Intermediates of a right kernel keep their bounds: tests/property/test_stages.py.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from diffgdn.backend import interpreter
from diffgdn.cases.case import Case
from diffgdn.reference import noise
from diffgdn.reference.noise.intermediates import Intermediate, intermediates
from diffgdn.reference.noise.tolerance import representable
from diffgdn.targets import Target
from diffgdn.tensors import inputs
from diffgdn.tensors.inputs import Data
from diffgdn.tensors.layout import arrange
from diffgdn.tensors.poison import PoisonedEmpty
from diffgdn.verdict import execute, executions
from diffgdn.verdict.comparison import compare_results, describe_place, received_dtypes
from diffgdn.verdict.failures import CheckFailure

# What each is called, in the order in which they are made.
WORDS = {
    "table": "chunk table",
    "q": "l2norm of q",
    "k": "l2norm of k",
    "G": "cumulative gate",
    "A": "A, the inverse in a chunk",
    "A_qk": "A_qk, the attention in a chunk",
    "q_decayed": "q with its decay",
    "k_decayed": "k with its decay",
    "w": "w",
    "u": "u",
    "h": "chunk state h",
    "v_new": "v_new",
    "state": "final state",
    "final": "final state",
    "steps": "state after a token",
    "boundary": "state at a chunk's start",
    "tracked": "tracked state",
    "o": "output",
}
LOG2E = 1.4426950408889634  # the kernels' gates are in log2 units
WITHIN, ARGUMENTS = "what it is made of is within", "it is made of the arguments"
MADE = dict.fromkeys(("table", "q", "k", "G"), ARGUMENTS)  # of WITHIN the others


@dataclass(frozen=True)
class Stage:
    """The first stage that is wrong. name: a key of WORDS. place: of its first wrong element, in words,
    chunk: its number in the sequence. word, made: what it is called and made of; "" for the usual.
    """

    name: str
    place: str
    chunk: int = 0
    word: str = ""
    made: str = ""

    def __str__(self) -> str:
        word, made = self.word or WORDS[self.name], self.made or MADE.get(self.name, WITHIN)
        return f"stage: {word} {self.place} is the first to leave its bound; {made}"


def first_wrong(case: Case, target: Target, backend: str) -> Stage | None:
    """Find the stage of a case that is wrong in some result, by a call of its own.

    None for kernels that are not ours or not of a version that hands its stages over, for a case that is too
    large to be followed, if the call raises, and where no stage is wrong or none can be told.
    """
    pipeline = _pipeline(target, case.op)
    if pipeline is None:
        return None
    if backend == "interpret":
        interpreter.repair()
    run = execute.Run(executions.as_run(case, target, backend), target, backend, explain=False)
    try:
        return _Trace(run, pipeline).first()
    except CheckFailure:
        return None
    finally:
        run.release()


def _pipeline(target: Target, op: str) -> ModuleType | None:
    """Find the module that runs the chunk stages of the kernels a target is made of; None if not ours."""
    function = getattr(target, "functions", {}).get(op)
    package = (getattr(function, "__module__", None) or "").rpartition(".")[0]
    for name in (f"{package}.pipeline", f"{package}.chunk.pipeline"):
        if hasattr(sys.modules.get(name), "observed"):
            return sys.modules[name]
    return None


class _Trace:
    """One call of a case, with what its stages left."""

    def __init__(self, run: execute.Run, pipeline: ModuleType) -> None:
        """Make the call. Raises CheckFailure."""
        self.run, self.case, self._pipeline = run, run.case, pipeline
        self.data: Data = inputs.draw(self.case)
        self.contract = run.target.contract(self.case.op)
        self.exact = False
        self._kept = set[tuple[str, int]]()  # rows of states that came back, by result
        self._left: dict[str, Any] = {}  # by the stages, as it was when the last had run
        self._passed: dict[str, Any] = {}
        run.arguments = arrange(self.case, self.data, run.device, run.target.layout)
        run.accompany(run.arguments)
        with pipeline.observed(self._take):
            self._returned = run.call(run.arguments)

    def _take(self, names: dict[str, Any]) -> None:
        kept = ("table", "first", "q", "k", "gc", "w", "u", "h", "v_new", "kg", "qg", "A")
        copies = {name: names[name].cpu().clone() for name in kept if name in names}
        self._left, self._passed = copies, names

    def first(self) -> Stage | None:
        """Find the first stage with a wrong element."""
        results = self._wrong_results()
        if not any(results.values()):
            tail = self._of_tail()
            if tail is not None:
                return tail
        if not self.case.operation.is_chunked:
            return self._of_one_stage(results)
        found = self._wrong_intermediates()
        if found is None:
            return None
        found |= {name: stage for name, stage in results.items() if name not in found}
        first = next((found[name] for name in WORDS if found.get(name)), None)
        if first is not None and first.name == "h" and found["v_new"]:
            # They make each other: h of a chunk its v_new, and that h of the next.
            return min(first, found["v_new"], key=lambda stage: stage.chunk)
        return first

    def _wrong_results(self) -> dict[str, Stage | None]:
        """Find the first wrong element of each result."""
        case, run, found = self.case, self.run, dict[str, Stage | None]()
        assert run.arguments is not None
        patterns = {name: run.fresh.pattern(tensor) for name, tensor in self._returned.items()}
        results = {name: one.cpu() for name, one in run.results(run.arguments, self._returned).items()}
        stored = received_dtypes(case, results)
        device = execute.oracle_device(case, run.backend)
        reference = noise.reference(case, self.data, self.contract, stored, device)
        self.exact = reference.exact
        for one in compare_results(case, results, reference, patterns):
            wrong = one.got != one.expected if self.exact else one.error_in_sigmas > noise.MAX_SIGMAS
            hit = (wrong | one.unwritten).nonzero()
            if one.name != "o":
                self._kept |= {(one.name, row) for row in one.origins}
            found[one.name] = Stage(one.name, one.place(tuple(hit[0, :2].tolist()))) if len(hit) else None
        return found

    def _of_tail(self) -> Stage | None:
        """Choose between chunk table and output where a row of padding is not zero: in extend the table says
        which rows are padding, and the output stage zeroes them."""
        rows = self.run.promised_tail(self._returned)
        wrong = [] if rows is None else (rows != 0).flatten(1).any(1).nonzero().flatten().tolist()
        if rows is None or not wrong:
            return None
        if not self.case.operation.is_chunked:
            return Stage("o", f"(padding token {wrong[0]})", made="no state goes into it")
        if not self._left:
            return None
        covered = set[int]()
        for start, count in self._left["table"].tolist():
            covered |= set(range(start, start - count))
        missed = [token for token in wrong if self.case.total + token not in covered]
        if missed:
            return Stage("table", f"(padding token {missed[0]})")
        return Stage("o", f"(padding token {wrong[0]})", made="the chunk table has it as padding")

    def _wrong_intermediates(self) -> dict[str, Stage | None] | None:
        """Find the first wrong element of each intermediate; None if they are not known."""
        case, left = self.case, self._left
        strongest = sys.modules[f"{self._pipeline.__package__}.gates"].STRONGEST.value
        truths = intermediates(case, self.data, self.contract, strongest)
        if truths is None or not left:
            return None
        if not truths:
            return {}
        found: dict[str, Stage | None] = {"table": self._wrong_table()}
        if found["table"]:
            return found
        gate = truths["G"]
        truths["G"] = Intermediate(gate.truth * LOG2E, gate.noise * LOG2E)
        got = {"G": left["gc"], "w": left["w"], "u": left["u"], "v_new": left["v_new"]}
        got |= {name: left[name] for name in "qk"} if case.l2norm else {}
        if "A" in left:
            got |= {"A_qk": left["A"], "q_decayed": left["qg"], "k_decayed": left["kg"]}
        h = left["h"].mT if self.run.target.layout == "kv" else left["h"]
        found |= {name: self._wrong(name, tensor, truths[name]) for name, tensor in got.items()}
        found["h"] = self._wrong("h", h, truths["h"])
        if found["w"] or found["u"]:
            found["A"] = self._wrong_inverse(truths["A"], both=bool(found["w"] and found["u"]))
        return found

    def _beyond(self, name: str, got: Tensor, known: Intermediate) -> Tensor:
        """Mark the elements beyond their bound: zero where nothing rounds."""
        truth, exact = known.truth, self.exact and name != "G"  # a sum in log2 units always rounds
        if exact and representable(truth, got.dtype):
            return got.double() != truth
        last = noise.last_rounding(truth, known.noise, got.dtype)
        beyond = noise.error_in_sigmas((got.double() - truth).abs(), last, known.noise) > noise.MAX_SIGMAS
        return beyond & ~noise.overflows(truth, noise.bound_of(last, known.noise), got.dtype)

    def _wrong(self, name: str, got: Tensor, known: Intermediate) -> Stage | None:
        """Find the first wrong element, by its chunk."""
        rows = got.reshape(-1, *known.truth.shape[1:])[: len(known.truth)]
        missing = len(known.truth) - len(rows)  # for which the stage had no room
        rows = torch.nn.functional.pad(rows, (0, 0) * (rows.dim() - 1) + (0, missing), value=torch.nan)
        return self._stage(name, self._beyond(name, rows, known))

    def _stage(self, name: str, mask: Tensor) -> Stage | None:
        """Name the earliest place of a mask, [tokens or chunks, heads, ...]."""
        if not mask.any():
            return None
        case, size = self.case, self.case.chunk_size
        step = size if name == "h" else 1
        chunks = [t // size for length in case.lens for t in range(0, length, step)]
        hits = mask.flatten(2).any(2).nonzero().tolist()
        row, head = min(hits, key=lambda hit: chunks[hit[0]])
        place = describe_place(case, "boundary" if name == "h" else "o", (row, head))
        if name != "h":
            place = place.replace(" token", f" chunk {chunks[row]}, token")
        return Stage(name, place, chunks[row])

    def _wrong_table(self) -> Stage | None:
        """Find the first chunk whose first token or number of tokens is wrong, or whose sequence's number of
        its first chunk is."""
        case, size = self.case, self.case.chunk_size
        cut = [(n, t) for n, length in enumerate(case.lens) for t in range(0, length, size)]
        at = {n: i - t // size for i, (n, t) in reversed(list(enumerate(cut)))}
        for (n, t), entry in zip(cut, self._left["table"].tolist(), strict=False):
            right = [case.starts[n] + t, min(size, case.lens[n] - t)]
            if entry != right or int(self._left["first"][n]) != at[n]:
                return Stage("table", f"(sequence {n}, chunk {t // size})", t // size)
        return None

    def _wrong_inverse(self, known: Intermediate, both: bool) -> Stage | None:
        """Find the first wrong element of A, by the stage that makes it, called with unit vectors for v: it
        then returns A with each column times its beta.

        both: whether w and u are wrong. If one of them is, the way that it is stored may be as wrong.
        """
        case, passed = self.case, self._passed
        v, q, k = (passed[name] for name in "vqk")
        unit = torch.zeros(v.shape[0] * v.shape[1], case.HV, case.chunk_size, dtype=v.dtype)
        for n, length in enumerate(case.lens):
            for t in range(length):
                unit[case.starts[n] + t, :, t % case.chunk_size] = 1.0
        unit = unit.view(*v.shape[:2], *unit.shape[1:]).to(v.device)
        shared = {name: passed[name] for name in ("dtype", "raw_beta", "neg_eigval")}
        beta, table, size = passed["beta"], passed["table"], passed["chunk_size"]
        with PoisonedEmpty():
            if "A" in self._left:
                got = self._pipeline.wy_kda(q, k, unit, passed["gc"], beta, table, size, **shared)[3]
            else:
                raw = {name: passed[name] for name in ("A_log", "dt_bias")}
                got = self._pipeline.wy_gdn(k, unit, passed["g"], beta, table, size, **raw, **shared)[2]
        rows = got.cpu().reshape(-1, *known.truth.shape[1:])[: case.total]
        mask = self._beyond("A", rows, known)
        return self._stage("A", mask) if both or (mask & rows.isfinite()).any() else None

    def _of_one_stage(self, results: dict[str, Stage | None]) -> Stage | None:
        """Choose of the results of a recurrent kernel: a wrong state makes the output wrong, never the
        reverse. None where the state that goes with a wrong output did not come back."""
        for name in ("state", "final", "steps"):
            wrong = results.get(name)
            if wrong is not None:
                return wrong if name == "steps" else replace(wrong, word="state", made=ARGUMENTS)
        output = results.get("o")
        if output is None or self.case.operation.commits:  # of a draft's states one at most came back
            return output
        sequence = int(output.place.split()[1].rstrip(","))
        tokens = range(self.case.starts[sequence], self.case.starts[sequence + 1])
        kept = {("state", sequence), ("final", sequence), *(("steps", token) for token in tokens)}
        return replace(output, made="the state it is read from is within") if kept & self._kept else None
