"""Makes the released flash-linear-attention kernels (`fla-core`) a target.

fla takes dense states, one a sequence, and returns new ones: the adapter gathers them from the pool (zeros
for index -1), and puts the final ones back where the operation writes the pool and the sequence is not empty.

fla knows no padding tokens behind the last sequence: it is passed the real ones alone, and its output is
filled up with zeros, which nothing compares.

What fla takes differs between its versions (0.4 to 0.6) and is read from its own signatures, docstrings and
checks. A refusal is something that fla says about itself; a wrong answer is a finding.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from diffgdn.cases.case import Case
from diffgdn.cases.case_checks import CHUNK_SIZES
from diffgdn.cases.operations import OPERATIONS
from diffgdn.cases.promises import AS_V, Promises
from diffgdn.cases.spans import Span
from diffgdn.reference.noise import Contract
from diffgdn.targets import launches, pinning, recording
from diffgdn.targets.base import TargetError
from diffgdn.targets.released.package import NO_BLOCK_POINTERS, NO_FUNCTION, Spec, lacks_block_pointers
from diffgdn.tensors.arena import Arguments

PACKAGE, DISPATCHED = "fla", "fla-dispatch"
FUNCTIONS = {
    "gdn.extend": ("fla.ops.gated_delta_rule", "chunk_gated_delta_rule"),
    "gdn.recurrent": ("fla.ops.gated_delta_rule", "fused_recurrent_gated_delta_rule"),
    "kda.extend": ("fla.ops.kda", "chunk_kda"),
    "kda.recurrent": ("fla.ops.kda", "fused_recurrent_kda"),
}
# The option for states [V, K] instead of [K, V], by its names since 0.6 and before.
V_FIRST = ("state_v_first", "transpose_state_layout")
RAW_GATE, RAW_BETA = "use_gate_in_kernel", "use_beta_sigmoid_in_kernel"
SAFE_LOWER_BOUND = -5.0  # chunk_kda: "`lower_bound` must be in the safe range [-5, 0)"
CONFIGURATIONS = 8  # at most: each one compiles every kernel anew, and fla's longest lists have 25 entries

# chunk_gated_delta_rule and chunk_kda (files below fla/ops, as of 0.6.0).
#
# Stored between stages in the dtype of k: A (gated_delta_rule/chunk_fwd.py: `torch.zeros(...,
# dtype=k.dtype)`; kda/chunk_intra.py: Aqk, Akk), w and u (wy_fast.py: empty_like), h
# (common/chunk_delta_h.py: `k.new_empty`), normalised q and k (../modules/norm/l2norm.py: `empty_like(x)`).
#
# Cast to it as operands: the state (`b_h1.to(b_w.dtype)`), v_new (`b_v.to(k.dtype.element_ty)`), beta * k and
# beta * v (wy_fast.py).
#
# In fp32: gates and their sums (utils/cumsum.py: `output_dtype=torch.float`), accumulators, the running
# state, the final state (`dtype=torch.float32`).
#
# tf32: products of fp32 operands take tl.dot's default, and the merge of A's inverse asks for it by name
# (SOLVE_TRIL_DOT_PRECISION), whatever the input dtype.
#
# Scaled: with a lower bound, kda/chunk_intra.py divides gates by the middle of the range that they can have
# (GATE_SHIFT), so that factors of a product are powers of the bound even where all gates are 1.
CHUNK = Contract(operand="input", chunked=True, tf32=True, scaled_gates=True)
# fused_recurrent_gated_delta_rule and fused_recurrent_kda (fused_recurrent.py of either): every load is
# followed by `.to(tl.float32)`, sums are tl.sum and not tl.dot, the state stays in registers as fp32 and the
# final state is allocated as fp32.
RECURRENT = Contract()


SPEC = Spec(
    name="fla",
    distribution="fla-core",
    package=PACKAGE,
    paths={op: (f"{module}:{name}",) for op, (module, name) in FUNCTIONS.items()},
    backends=("interpret", "gpu"),
    wanted=("fla/",),
)
# Read once, when fla is imported (fla/backends.py; before 0.6 fla/ops/backends): "1" bypasses its dispatch.
BYPASS = "FLA_DISABLE_BACKEND_DISPATCH"
DISPATCHERS = ("fla.backends", "fla.ops.backends")


def make(name: str, place: str | None) -> Fla:
    """Make the target of the installed package, or of a wheel or a folder. Raises TargetError.

    name: "fla" has fla's own Triton kernels alone, "fla-dispatch" what its dispatch takes.
    """
    os.environ[BYPASS] = "0" if name == DISPATCHED else "1"
    return Fla(place=place, name=name)


def _import() -> tuple[dict[str, Callable[..., Any]], dict[str, str]]:
    """Import fla's functions by operation, and say why others are missing. Raises TargetError."""
    found: dict[str, Callable[..., Any]] = {}
    missing: dict[str, str] = {}
    with warnings.catch_warnings():
        # fla warns about what it finds on the machine, and pytest turns warnings into errors.
        warnings.simplefilter("ignore")
        for op, (module, name) in FUNCTIONS.items():
            try:
                function = getattr(importlib.import_module(module), name, None)
            except ModuleNotFoundError as error:
                if error.name is not None and error.name.startswith(module):
                    missing[op] = NO_FUNCTION
                    continue
                raise TargetError(_one_line(error)) from error
            except Exception as error:  # whatever fla raises while it looks at devices and builds its kernels
                raise TargetError(_one_line(error)) from error
            if function is None:
                missing[op] = NO_FUNCTION
            elif lacks_block_pointers(function, PACKAGE):
                missing[op] = NO_BLOCK_POINTERS
            else:
                found[op] = recording.watched(function)
    if not found and NO_BLOCK_POINTERS in missing.values():
        raise TargetError(f"fla-core: {NO_BLOCK_POINTERS}")
    if not found:
        raise TargetError(f"fla has none of {', '.join(name for _, name in FUNCTIONS.values())}")
    return found, missing


def _one_line(error: Exception) -> str:
    """Say in one line why fla cannot be imported."""
    missing = isinstance(error, ModuleNotFoundError) and error.name == PACKAGE
    if missing:
        return "fla-core is not installed; pip install fla-core"
    reason = (str(error).strip() or "no message").splitlines()[0]
    return f"fla-core cannot be imported: {type(error).__name__}: {reason}"


class _Callee:
    """One of fla's functions, and what this version of it takes."""

    def __init__(self, function: Callable[..., Any], chunked: bool) -> None:
        self.call, self.chunked = function, chunked
        inner = inspect.unwrap(function)
        self.names = frozenset(inspect.signature(inner).parameters)
        try:
            source = inspect.getsource(inner)
        except (OSError, TypeError):
            source = ""
        sizes = re.search(r"chunk_size not in \(([\d, ]+)\)", source)
        self.chunk_sizes = (
            tuple(int(size) for size in sizes.group(1).split(",") if size.strip()) if sizes else (64,)
        )
        self.takes_chunk_size = sizes is not None
        # Asserted by chunk_kda. A caller with a pool in another dtype widens its states, which loses nothing.
        self.asks_float32_state = "initial_state.dtype == torch.float32" in source
        # The versions without it document v as [B, T, H, V], and take what they get.
        self.grouped_values = "GVA" in (inspect.getdoc(inner) or "")
        self.v_first = next((name for name in V_FIRST if name in self.names), None)
        # chunk_gated_delta_rule takes it among **kwargs.
        self.raw_gates = RAW_GATE in self.names or f'"{RAW_GATE}"' in source.replace("'", '"')
        beta = inspect.signature(inner).parameters.get("beta")
        self.beta_is_optional = beta is not None and beta.default is None

    @property
    def promises(self) -> dict[str, Any]:
        """Fields of `Promises`, of the axes that it does not take whole."""
        out: dict[str, Any] = {
            "chunk_size": [size for size in self.chunk_sizes if size in CHUNK_SIZES],
            "lower_bound": Span(SAFE_LOWER_BOUND, 0.0),
            "track": [False],
        }
        if not self.grouped_values:
            out["ratio"] = [1]
        if "return_intermediate_states" not in self.names:
            out["boundary"] = [False]
        if not self.raw_gates:
            out["raw_gates"] = [False]
        if RAW_BETA not in self.names:
            out["raw_beta"] = [False]
        if "lower_bound" not in self.names:
            out["bounded"] = [False]
        # tl.dot takes operands of one dtype; the recurrent kernels load everything as fp32.
        out |= {"mixed_qkv": not self.chunked, "no_beta": self.beta_is_optional}
        # The output is empty_like(v) or zeros_like(v) in all.
        return out | {"neg_eigval": "allow_neg_eigval" in self.names, "output_dtype": AS_V}

    @property
    def layouts(self) -> int:
        """Number of state layouts that it takes."""
        return 2 if self.v_first else 1


class Fla:
    """A target over the chunked and the recurrent operations."""

    batch_invariant = False  # its functions know no such keyword
    layout = "vk"  # of the pool that it is given; the layout of what fla gets is chosen by `case.config`

    def __init__(
        self,
        functions: Mapping[str, Callable[..., Any]] | None = None,
        package: str = PACKAGE,
        place: str | None = None,
        name: str = PACKAGE,
    ) -> None:
        """Import fla: what is installed, or what lies in a place, a wheel or a folder.

        functions, by operation, and package, by name, stand in for it. Raises TargetError.
        """
        self.name, self.missing = name, dict[str, str]()
        self.environment = {} if name == DISPATCHED else {BYPASS: "1"}  # before fla is imported
        self.place = None if functions else SPEC.imported_from(place)
        if not functions:
            functions, self.missing = _import()
        self._callees = {
            op: _Callee(function, OPERATIONS[op].is_chunked) for op, function in functions.items()
        }
        self._chosen: dict[str, dict[str, None]] = {}
        self._launched: dict[str, dict[str, None]] = {}
        self._package = package
        # It reads cu_seqlens on the CPU, and says nothing of CUDA graphs.
        own = {op: one.promises for op, one in self._callees.items()}
        self.promises = Promises(execution=("eager", "stream", "device"), operations=own)
        self._tuners: tuple[int, list[Any]] = (-1, [])

    @property
    def operations(self) -> tuple[str, ...]:
        return tuple(op for op in OPERATIONS if op in self._callees)

    def entry(self, case: Case) -> int:
        """Say which entry of their lists autotuned kernels launch for a case."""
        # Steps of 3.5 spread few configurations over long lists, and give either layout odd and even ones.
        return 7 * case.config // 2

    def contract(self, op: str) -> Contract:
        return CHUNK if OPERATIONS[op].is_chunked else RECURRENT

    def configurations(self, op: str) -> int:
        """Count the entries of the longest list among an operation's kernels, in each state layout.

        CONFIGURATIONS at most: their number multiplies what a campaign compiles.
        """
        callee = self._callees[op]
        longest = max(
            (len(one.configs) for one in pinning.reachable_autotuners(callee.call, self._package)), default=1
        )
        return min(CONFIGURATIONS, callee.layouts * max(longest, 1))

    def refuses(self, case: Case, backend: str) -> str | None:
        if case.op not in self._callees:
            return f"fla has no function for {case.op}"
        return None

    def run(self, case: Case, arguments: Arguments) -> dict[str, Tensor]:
        callee = self._callees[case.op]
        v_first = callee.v_first is not None and case.config % 2 == 1
        given = _keywords(case, arguments, callee, v_first)
        entry = self.entry(case)
        # chunk_kda: "return_intermediate_states is only allowed in inference mode".
        mode = torch.inference_mode() if case.boundary else torch.no_grad()
        names, chosen = dict[str, None](), dict[str, None]()
        self._launched[case.op], self._chosen[case.op] = names, chosen
        with (
            mode,
            launches.recorded(names),
            _choices(chosen),
            pinning.pinned(self._all_tuners(), entry),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")  # notes on shapes and renamed options
            returned = callee.call(**given)
        # A copy made outside inference mode is an ordinary tensor again.
        parts = [part.clone() if isinstance(part, Tensor) and case.boundary else part for part in returned]
        out = {"o": _with_tail(case, parts[0])}
        final = parts[1]
        if final is not None and not v_first:
            final = final.mT
        if case.final and final is not None:
            out["final"] = final
        if case.writes_state:
            _scatter(case, arguments, final)
        if case.boundary:
            out["boundary"] = (parts[2] if v_first else parts[2].mT).flatten(0, 1)  # [1, all chunks, ...]
        return out

    def provenance(self, op: str) -> dict[str, str]:
        """Say what ran: the package and its version, where it is from, the function, what fla's dispatch
        chose in the latest call, and which Triton kernels that launched.
        """
        out = {} if self.place is None else self.place.said(SPEC.distribution)
        out["function"] = ".".join(FUNCTIONS[op])
        out["dispatch"] = "to none of its backends" if self.name == DISPATCHED else "bypassed"
        if self._chosen.get(op):
            out["dispatch"] = ", ".join(self._chosen[op])
        if self._launched.get(op):
            out["kernels"] = ", ".join(self._launched[op])
        return out

    def _all_tuners(self) -> list[Any]:
        """Autotuners of every loaded module of fla; it loads some of them at a first call."""
        count = sum(1 for name in list(sys.modules) if name.split(".")[0] == self._package)
        if self._tuners[0] != count:
            self._tuners = (count, pinning.loaded_autotuners(self._package))
        return self._tuners[1]


@contextmanager
def _choices(names: dict[str, None]) -> Iterator[None]:
    """While active, note what fla's dispatch chooses, as function -> backend: it asks the one that it takes
    for its implementation.
    """
    module = next((sys.modules[name] for name in DISPATCHERS if name in sys.modules), None)
    base: Any = getattr(module, "BaseBackend", None)
    ask = getattr(base, "get_implementation", None)
    if ask is None:
        yield
        return

    def noting(backend: Any, function_name: str) -> Any:
        names[f"{function_name} -> {backend.backend_type}"] = None
        return ask(backend, function_name)

    base.get_implementation = noting
    try:
        yield
    finally:
        base.get_implementation = ask


def _keywords(case: Case, arguments: Arguments, callee: _Callee, v_first: bool) -> dict[str, Any]:
    tokens = {"q": "q", "k": "k", "v": "v", **dict(zip(("g", "beta"), case.decay_and_beta, strict=False))}
    out: dict[str, Any] = {name: _real(case, arguments[source]) for name, source in tokens.items()}
    out |= {
        "scale": case.scale,
        "initial_state": _gather(case, arguments, callee, v_first),
        "output_final_state": case.final or case.writes_state,
        "use_qk_l2norm_in_kernel": case.l2norm,
    }
    if case.packed:
        # A copy, because fla keeps the last few that it saw, and this one is a view of the whole arena.
        out["cu_seqlens"] = arguments["cu_seqlens"].clone()
    if callee.v_first is not None:
        out[callee.v_first] = v_first
    if case.operation.is_chunked and callee.takes_chunk_size:
        out["chunk_size"] = case.chunk_size
    if case.boundary:
        out["return_intermediate_states"] = True
    if case.raw_beta:
        out[RAW_BETA] = True
    if case.operands.neg_eigval:
        out["allow_neg_eigval"] = True
    if case.raw_gates:
        bias = arguments.get("dt_bias")
        bias = None if bias is None else bias.flatten()
        out |= {"A_log": arguments["A_log"], "dt_bias": bias, RAW_GATE: True}
        if case.gates.lower_bound is not None:
            out["lower_bound"] = case.gates.lower_bound
            if "safe_gate" in callee.names:
                out["safe_gate"] = True
    return out


def _real(case: Case, tensor: Tensor) -> Tensor:
    """View the tokens of sequences alone; only a batch packed to [1, tokens, ...] may have others."""
    return tensor[:, : case.total] if case.tail else tensor


def _with_tail(case: Case, o: Tensor) -> Tensor:
    """Append zeros for the padding tokens behind the last sequence."""
    if not case.tail:
        return o
    return torch.cat([o, o.new_zeros(o.shape[0], case.tail, *o.shape[2:])], dim=1)


def _slots(case: Case) -> tuple[int, ...]:
    """Name the slot of each sequence: its own number if the state is dense."""
    return case.pool.indices if case.operation.has_pool else tuple(range(len(case.lens)))


def _gather(case: Case, arguments: Arguments, callee: _Callee, v_first: bool) -> Tensor | None:
    """Copy initial states [N, HV, V, K] or [N, HV, K, V], in the pool's dtype or fp32; zeros for index -1 and
    for a sequence whose slot holds no initial state of its own."""
    if case.values.state == "none":
        return None
    pool, slots = arguments["state"], _slots(case)
    rows = [n for n, slot in enumerate(slots) if slot >= 0 and n not in case.fresh]
    out = pool.new_zeros(len(slots), *pool.shape[1:])
    out[rows] = pool[[slots[n] for n in rows]]
    if callee.asks_float32_state:
        out = out.float()
    return out if v_first else out.mT.contiguous()


def _scatter(case: Case, arguments: Arguments, final: Tensor) -> None:
    """Write final states [N, HV, V, K], rounded to the pool's dtype, into the slots of sequences that have
    tokens, in place."""
    pool, slots = arguments["state"], _slots(case)
    rows = [
        n for n, (slot, length) in enumerate(zip(slots, case.lens, strict=True)) if slot >= 0 and length > 0
    ]
    pool[[slots[n] for n in rows]] = final[rows].to(pool.dtype)
