"""A trace: what a serving loop did, step after step, in numbers, names and short tuples.

Like a case, a trace is small enough to read, print and store, its repr evaluates back, its JSON form carries
`format_version`, and its id is a hash of its content. `diffgdn.verdict.serving` plays it: every step that
calls a kernel becomes a case of one operation (`call`). `trace_steps.Book` says which steps may come next.
Imports no torch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffgdn.cases import trace_form
from diffgdn.cases.case import Case, Gates, Pool, Values
from diffgdn.cases.case_checks import DTYPES, MAX_DIM, PROGRAM_ORDERS
from diffgdn.cases.json_record import Record, read, require
from diffgdn.cases.operations import FAMILIES
from diffgdn.cases.trace_form import Form
from diffgdn.cases.trace_steps import CALLS, LATER_FIELDS, PADDING, Book, Step, move

# Each older version is still read, and written where it will do.
# 2: `order`; 3: snapshots, compaction, drafts verified again or committed late, how calls are made.
FORMAT_VERSION = 3
ADDED = {"order": 2, "form": 3, "reuse": 3, "graphs": 3}  # fields, and the version that each came with
GATE_LAWS = ("zero", "model", "mixed", "uniform", "constant")
BETA_LAWS = ("one", "half", "uniform")  # none above 1: a step must not enlarge what is wrong with a state
VALUE_LAWS = ("normal", "uniform", "ones", "exact")
MOST_STEPS, MOST_SLOTS, MOST_PITCH = 400, 256, 4096


@dataclass(frozen=True, repr=False)
class Trace(Record):
    """Steps of a serving loop over one pool, and the sizes of its tensors.

    The pool is [slots, HV, V, K] with `pitch` elements between slots, the intermediate buffer [rows, draft,
    HV, V, K]; `state` is the dtype of both. The tokens of step n are drawn from `seed` and n. `form` holds
    what differs in how calls are made. With `reuse` the loop has one table of each kind of indices (slots,
    rows, cu_seqlens, parents), which it overwrites after each call. With `graphs` decode and verify run on a
    GPU through CUDA graphs, padded to sizes that engines capture. The other fields are those of `Case`.

    Making a trace raises ValueError if no loop could do this (`check`).
    """

    family: str
    steps: tuple[Step, ...] = ()
    slots: int = 3
    rows: int = 2
    draft: int = 3
    H: int = 1
    HV: int = 1
    K: int = 4
    V: int = 4
    dtype: str = "float32"
    state: str = "float32"
    pitch: int = 0
    law: str = "normal"
    gate: str = "zero"
    beta: str = "half"
    l2norm: bool = False
    chunk_size: int = 64
    seed: int = 0
    order: str = "ascending"
    graphs: bool = False
    form: Form = Form()  # noqa: RUF009  (frozen)
    reuse: bool = False

    def __post_init__(self) -> None:
        check(self)

    @property
    def op(self) -> str:
        """Return what is served, which stands where a case has its operation."""
        return f"{self.family}.serving"

    @property
    def id(self) -> str:
        """Return twelve hex digits of the SHA-256 of the canonical JSON form."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def operations(self) -> tuple[str, ...]:
        """List the names of the operations that the trace calls, in the order of CALLS."""
        acts = {step.act for step in self.steps}
        return tuple(f"{self.family}.{kind}" for kind in CALLS if kind in acts)

    def words(self) -> list[str]:
        """Describe the steps for a person, one line each."""
        book, lines = Book(self), []
        for number, step in enumerate(self.steps):
            lines.append(f"{number}: {book.words(step)}")
            book.apply(step)
        return lines

    @property
    def format_version(self) -> int:
        """Return the oldest version that holds this trace, so that what it does not need changes no id."""
        book = Book(self)
        for step in self.steps:
            book.apply(step)
        needed = [version for name, version in ADDED.items() if getattr(self, name) != getattr(Trace, name)]
        return max([1, *needed, *[3] * book.later])

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict of all fields, defaults included, and `format_version`."""
        version, data = self.format_version, dataclasses.asdict(self)
        kept = {name: value for name, value in data.items() if ADDED.get(name, 1) <= version}
        if version < 3:
            for step in kept["steps"]:
                for name in LATER_FIELDS:
                    del step[name]
        return {"format_version": version, **kept}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Trace:
        """Build the trace that `to_json` wrote.

        Raises ValueError for an unknown version, for a field that is unknown, missing or of the wrong type,
        and for a step that cannot follow the ones before it; the message names it.
        """
        require(isinstance(data, Mapping), f"a trace must be a JSON object, got {type(data).__name__}")
        version: Any = data.get("format_version")
        require(
            type(version) is int and 1 <= version <= FORMAT_VERSION,
            f"format_version: this diffgdn reads 1 to {FORMAT_VERSION}, got {version!r:.40}",
        )
        body = {name: value for name, value in data.items() if name != "format_version"}
        trace = read(cls, body, "trace")
        require(
            version >= trace.format_version,
            f"format_version: this trace needs version {trace.format_version}, got {version}",
        )
        return trace

    def call(self, number: int, slots: Mapping[int, int], rows: Mapping[int, int]) -> Case:
        """Make the case that step `number` calls. `slots` and `rows` give each request its slot and its row
        of the buffer.
        """
        step = self.steps[number]
        kind, N = step.act, len(step.requests)
        keeps = kind == "verify"
        pool = Pool(
            slots=self.slots,
            indices=tuple(PADDING if one == PADDING else slots[one] for one in step.requests),
            pitch=self.pitch,
            dtype=self.state,
            steps=self.draft if keeps else 0,
            buffer=self.rows if keeps else 0,
            rows=tuple(PADDING if one == PADDING else rows[one] for one in step.requests) if keeps else (),
        )
        op = f"{self.family}.{kind}"
        return Case(
            op=op,
            lens=step.lengths if N else (0,),
            H=self.H,
            HV=self.HV,
            K=self.K,
            V=self.V,
            dtype=self.dtype,
            pool=pool,
            gates=Gates(law=self.gate, beta=self.beta, **self.form.gates(op)),
            values=Values(law=self.law, seed=self.seed * MOST_STEPS + number),
            l2norm=self.l2norm,
            chunk_size=self.chunk_size,
            parents=step.parents,
            order=self.order,
            boundary=kind == "extend" and (self.form.boundary or step.tracks),
            **self.form.fields(op),
        )

    def last_call(self) -> Case:
        """Make a case of the trace's last call, for readers that want one case; without any call, a decode of
        one token.
        """
        slots, kept, rows = dict[int, int](), dict[int, int](), dict[int, int]()
        first = replace_steps(self, (Step("arrive", (0,)), Step("decode", (0,))))
        last = first.call(1, {0: self.form.reserved}, {})
        for number, step in enumerate(self.steps):
            move(step, range(self.form.reserved, self.slots), slots, kept)
            if step.act in CALLS:
                live = [one for one in step.requests if one != PADDING]
                rows = {one: row for row, one in enumerate(live)}
                last = self.call(number, slots, rows)
        return last


def call_of(case: Case | Trace) -> Case:
    """Return a case itself, or a trace's last call."""
    return case.last_call() if isinstance(case, Trace) else case


def replace_steps(trace: Trace, steps: Sequence[Step]) -> Trace:
    """Give a loop other steps. Raises ValueError if they cannot follow each other."""
    return dataclasses.replace(trace, steps=tuple(steps))


def check(trace: Trace) -> None:
    """Check that a serving loop could do this. Raises ValueError that names the field or the step."""
    for name, value, allowed in (
        ("family", trace.family, FAMILIES),
        ("dtype", trace.dtype, DTYPES),
        ("state", trace.state, DTYPES),
        ("law", trace.law, VALUE_LAWS),
        ("gate", trace.gate, GATE_LAWS),
        ("beta", trace.beta, BETA_LAWS),
        ("chunk_size", trace.chunk_size, (16, 32, 64)),
        ("order", trace.order, PROGRAM_ORDERS),
    ):
        require(
            value in allowed, f"{name}: expected one of {', '.join(map(str, allowed))}, got {value!r:.40}"
        )
    for name, value, most in (
        ("slots", trace.slots, MOST_SLOTS),
        ("rows", trace.rows, MOST_SLOTS),
        ("draft", trace.draft, MOST_SLOTS),
        ("K", trace.K, MAX_DIM),
        ("V", trace.V, MAX_DIM),
        ("HV", trace.HV, MAX_DIM),
    ):
        require(1 <= value <= most, f"{name}: expected 1 to {most}, got {value}")
    require(
        trace.H >= 1 and trace.HV % trace.H == 0, f"HV: expected a multiple of H, got {trace.HV}, H={trace.H}"
    )
    require(0 <= trace.pitch <= MOST_PITCH, f"pitch: expected 0 to {MOST_PITCH}, got {trace.pitch}")
    trace_form.check(trace.form, trace.family, trace.dtype, trace.slots)
    require(trace.seed >= 0, f"seed: expected 0 or more, got {trace.seed}")
    require(len(trace.steps) <= MOST_STEPS, f"steps: at most {MOST_STEPS}, got {len(trace.steps)}")
    book = Book(trace)
    for number, step in enumerate(trace.steps):
        try:
            book.apply(step)
        except ValueError as error:
            raise ValueError(f"steps[{number}]: {error}") from None
