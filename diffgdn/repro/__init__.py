"""A finding as a script that stands alone: torch, and the kernel under test.

The script holds the tensors of the call as they lie in memory, the keyword arguments, the recurrence in a few
lines of float64, and the bounds; it prints expected and got, and exits 1 while the kernel fails. A target
that is not made of plain functions (see `targets.FunctionTarget`) has no such call; its script runs the case
through diffgdn, as does that of a broken relation, which is about several calls."""

from __future__ import annotations

import contextlib
import functools
import textwrap
from collections.abc import Iterable
from pathlib import Path
from string import Template
from typing import Any

import torch
from torch import Tensor

from diffgdn import arena, corpus, footprint, inputs, noise, oracle, targets
from diffgdn.arena import Arguments
from diffgdn.case import Case
from diffgdn.corpus import Finding
from diffgdn.inputs import DTYPE, Data
from diffgdn.repro import company, literals, texts
from diffgdn.targets import FunctionTarget, calls
from diffgdn.verdict import relation_of

__all__ = ["script", "write"]

LARGEST = 1 << 20  # elements, some 4 MB of source; shrunk cases have a few hundred


def write(finding: Finding, folder: Path) -> Path:
    """Write a finding's script beside its JSON file. The path written."""
    path = folder / f"{finding.id}.py"
    corpus.write(path, script(finding).encode())
    return path


def script(finding: Finding) -> str:
    """The source of a script that shows a finding. Raises TargetError if its target cannot be had here."""
    target, case = targets.get(finding.target), finding.case
    relation = relation_of(finding.kind)
    if company.needed(finding):
        return _fill(company.TEXT, finding, **company.parts(finding))
    if finding.trace is not None:
        return _fill(
            texts.TRACE,
            finding,
            lane_name=finding.lane,
            target=finding.target,
            trace=repr(finding.trace),
            steps=textwrap.indent("\n".join(finding.trace.words()), "# "),
        )
    if relation is not None:
        return _fill(
            texts.RELATION, finding, lane_name=finding.lane, target=finding.target, relation=relation
        )
    if not isinstance(target, FunctionTarget) or footprint.elements(case) > LARGEST:
        return _fill(texts.THROUGH, finding, lane_name=finding.lane, target=finding.target)
    data = inputs.draw(case)
    arguments = arena.arrange(case, data, "cpu", target.layout)
    return _fill(
        texts.ALONE,
        finding,
        lane=_lane(finding),
        kernel=_kernel(finding),
        constants=_constants(finding),
        arguments="\n".join(_arguments(case, arguments)),
        recurrence="\n".join(_recurrence(case, arguments)),
        call=textwrap.indent("\n".join(_call(target, case, arguments)), " " * 8).strip(),
        results="\n".join(_results(case, data, target)),
        writes="\n".join(_writes(case)),
        again=texts.AGAIN if finding.kind == "not_repeatable" else "",
    )


def _fill(template: str, finding: Finding, **parts: str) -> str:
    head = {
        "title": _prose(
            f"{finding.operation} on {finding.target}: "
            + " ".join(part for part in (finding.kind, finding.tensor, finding.place) if part)
        ),
        "message": _prose(finding.message),
        "found": finding.found or "by hand",
        "versions": _prose(", ".join(f"{name} {version}" for name, version in finding.versions.items()))
        or "unknown",
        "id": finding.id,
        "case": repr(finding.case),
    }
    return Template(template).substitute({**head, **parts})


def _prose(text: str) -> str:
    """Text that cannot end a docstring."""
    return text.replace("\\", "/").replace('"""', "'''")


def _lane(finding: Finding) -> str:
    if finding.lane == "interpret":
        return (
            'os.environ["TRITON_INTERPRET"] = "1"  # Triton\'s interpreter, where it was found: no GPU needed'
        )
    return 'os.environ.pop("TRITON_INTERPRET", None)  # found on a GPU'


def _kernel(finding: Finding) -> str:
    """Imports of the function under test as `kernel`."""
    if finding.target in targets.names():
        return f"from diffgdn.kernels import {calls.FUNCTIONS[finding.operation]} as kernel"
    module, _, name = finding.target.rpartition(":")
    pick = f"kernel = target.functions[{finding.operation!r}]"
    if not module.endswith(".py"):
        return f"sys.path.insert(0, os.getcwd())\nfrom {module} import {name} as target\n\n{pick}"
    return (
        "import importlib.util\n\n"
        f"spec = importlib.util.spec_from_file_location({Path(module).stem!r}, {module!r})\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "sys.modules[spec.name] = module\n"
        "spec.loader.exec_module(module)\n"
        f"target = module.{name}\n{pick}"
    )


def _constants(finding: Finding) -> str:
    case = finding.case
    spans = list(zip(case.starts, case.starts[1:], strict=False))
    return (
        f"DEVICE = {'cpu' if finding.lane == 'interpret' else 'cuda'!r}\n"
        f"H, HV, K, V = {case.H}, {case.HV}, {case.K}, {case.V}\n"
        f"TOKENS, SCALE = {case.tokens}, {case.effective_scale!r}\n"
        f"SPANS = {spans}  # first and last token of each sequence"
    )


def _strides(tensor: Tensor) -> str:
    return f"({', '.join(map(str, tensor.stride()))},)"


def _arguments(case: Case, arguments: Arguments) -> Iterable[str]:
    """Statements that make every tensor of the call, in variables named as in `arena.Arguments`."""
    for region in arguments.regions:
        view = arguments.tensors[region.name]
        assert view is not None
        values = literals.source(view)
        named: tuple[int, ...] = ()
        if region.name == "state" and case.operation.has_pool:
            named = tuple(sorted({slot for slot in case.pool.indices if slot >= 0}))
            values = f"torch.full({tuple(view.shape)}, nan, dtype={view.dtype})"
        elif region.name in ("buffer", "out"):
            values = f"torch.full({tuple(view.shape)}, nan, dtype={view.dtype})"
        yield f"{region.name} = place({region.name!r}, {values}, {_strides(view)}, {region.extent})"
        yield from (f"state[{slot}] = {literals.source(view[slot])}" for slot in named)
    if arguments.far is not None:
        pool = arguments["state"]
        yield "# Most pages of this pool are never touched, and take no memory on a CPU."
        yield f"state = torch.empty({arguments.far.numel()}, dtype={pool.dtype}, device=DEVICE)"
        yield f"state = state.as_strided({tuple(pool.shape)}, {_strides(pool)})"
        slots = sorted({slot for slot in case.pool.indices if slot >= 0})
        yield from (f"state[{slot}] = {literals.source(pool[slot])}" for slot in slots)
    planned = {region.name for region in arguments.regions} | {"state"}
    for name, tensor in arguments.tensors.items():
        if tensor is not None and name not in planned:
            joint = _joint(arguments, tensor)
            column = tensor.storage_offset() - arguments[joint].storage_offset()
            where = f"{_strides(tensor)}, {joint}.storage_offset() + {column}"
            yield f"{name} = {joint}.as_strided({tuple(tensor.shape)}, {where})"


def _joint(arguments: Arguments, tensor: Tensor) -> str:
    """The tensor of which this one is a view."""
    byte = tensor.storage_offset() * tensor.element_size()
    return max(
        (region for region in arguments.regions if region.start <= byte), key=lambda region: region.start
    ).name


class _Recorded(Exception):
    """Ends a recorded call."""


def _keywords(target: FunctionTarget, case: Case, arguments: Arguments) -> dict[str, Any]:
    """The keyword arguments that the target's function gets, taken down instead of called."""
    given: dict[str, Any] = {}

    @functools.wraps(target.functions[case.op])  # keeps the signature, which decides what is passed
    def record(**keywords: Any) -> None:
        given.update(keywords)
        raise _Recorded

    with contextlib.suppress(_Recorded):
        FunctionTarget(target.name, {case.op: record}, target.layout).run(case, arguments)
    return given


def _call(target: FunctionTarget, case: Case, arguments: Arguments) -> Iterable[str]:
    for keyword, value in _keywords(target, case, arguments).items():
        if isinstance(value, Tensor):
            value = next(name for name, tensor in arguments.tensors.items() if tensor is value)
            yield f"{keyword}={value},"
        else:
            yield f"{keyword}={value!r},"


def _recurrence(case: Case, arguments: Arguments) -> Iterable[str]:
    """The recurrence in float64 over the script's own tensors."""
    mT = ".mT" if arguments.layout == "kv" else ""
    yield "def per_token(x, *shape):"
    yield "    return x.cpu().double().reshape(TOKENS, *shape)"
    yield "\n"
    if case.operation.single_token:
        yield "xq, xk, xv = (x.reshape(TOKENS, -1) for x in mixed_qkv.split([H * K, H * K, HV * V], dim=-1))"
    else:
        yield "xq, xk, xv = q, k, v"
    yield "rq, rk, rv = per_token(xq, H, K), per_token(xk, H, K), per_token(xv, HV, V)"
    if case.l2norm:
        yield "rq, rk = (x / torch.sqrt((x * x).sum(-1, keepdim=True) + 1e-6) for x in (rq, rk))"
    yield "rq, rk = (x.repeat_interleave(HV // H, 1) for x in (rq, rk))"
    yield from _gates(case)
    if case.values.state == "none":
        yield "initial = [torch.zeros(HV, V, K, dtype=torch.float64) for _ in SPANS]"
    elif case.operation.has_pool:
        yield f"slots = {list(case.pool.indices)}"
        yield "zero = torch.zeros(HV, V, K, dtype=torch.float64)"
        yield f"initial = [state[s]{mT}.cpu().double() if s >= 0 else zero for s in slots]"
    else:
        yield f"initial = list(state{mT}.cpu().double().clone())"
    if case.parents:
        yield f"trees = {[list(tree) for tree in case.parents]}"
    yield "expected_o = torch.zeros(TOKENS, HV, V, dtype=torch.float64)"
    yield "paths = []  # of each sequence: the initial state, and the state after each token, [HV, V, K]"
    yield "for n, (start, stop) in enumerate(SPANS):"
    yield "    path = [initial[n]]"
    yield "    for t in range(start, stop):"
    yield f"        S = path[{'trees[n][t - start] + 1' if case.parents else '-1'}]"
    yield "        S = S * torch.exp(rg[t]).unsqueeze(-2)"
    yield "        d = rbeta[t].unsqueeze(-1) * (rv[t] - (S * rk[t].unsqueeze(-2)).sum(-1))"
    yield "        S = S + d.unsqueeze(-1) * rk[t].unsqueeze(-2)"
    yield "        expected_o[t] = SCALE * (S * rq[t].unsqueeze(-2)).sum(-1)"
    yield "        path.append(S)"
    yield "    paths.append(path)"
    if case.operation.single_token and -1 in case.pool.indices:
        yield "# In this operation the rows of padding are zero."
        yield "expected_o[[n for n, s in enumerate(slots) if s < 0]] = 0.0"


def _gates(case: Case) -> Iterable[str]:
    width = "K" if case.operation.is_kda else "1"
    if not case.raw_gates:
        yield f"rg, rbeta = per_token(g, HV, {width}), per_token(beta, HV)"
        return
    yield "rate = torch.exp(A_log.cpu().double()).view(HV, 1)"
    yield f"x = per_token(a, HV, {width}) + dt_bias.cpu().double().view(HV, {width})"
    if case.gates.lower_bound is None:
        yield "rg = -rate * torch.logaddexp(x, torch.zeros_like(x))  # softplus"
    else:
        yield f"rg = {case.gates.lower_bound!r} * torch.sigmoid(rate * x)"
    yield "rbeta = torch.sigmoid(per_token(b, HV))"


def _bounds(case: Case, data: Data, target: FunctionTarget) -> dict[str, Tensor]:
    """The largest error that passes, for every element of the oracle's results (and of `final`)."""
    contract = target.contract(case.op)
    truth = oracle.expected(case, data)
    spread = noise.measure(case, data, contract)
    state = DTYPE[case.pool.dtype]
    final = state if case.values.state != "none" else torch.float32
    stored = {
        "o": DTYPE[case.dtype],
        "state": state,
        "steps": state,
        "boundary": DTYPE[case.dtype],
        "final": final,
    }
    out = {}
    for name, dtype in stored.items():
        key = "state" if name == "final" else name
        if key not in truth.items():
            continue
        wanted, noises = truth.items()[key], spread[key]
        bound = noise.half_ulp(wanted.abs() + noise.LIMIT * noises, dtype) + noise.LIMIT * noises + noise.TINY
        bound = torch.where(wanted.abs() + bound >= torch.finfo(dtype).max, torch.inf, bound)
        out[name] = bound
    same = {name: stored[name] for name in truth.items()}
    if noise.is_exact(case, data, truth, contract, same):
        out = {name: torch.zeros_like(bound) for name, bound in out.items()}
    return out


def _results(case: Case, data: Data, target: FunctionTarget) -> Iterable[str]:
    """Comparisons of everything that the call leaves behind."""
    bounds = _bounds(case, data, target)
    mT = ".mT" if target.layout == "kv" else ""

    def bound(name: str) -> str:
        return f"bound_{name} = {literals.bounds(bounds[name])}"

    returns_states = case.operation.kind in ("extend", "recurrent")
    names = ["o"] + ["final", "boundary"] * returns_states
    if case.op == "kda.extend":
        names = ["o"] + ["boundary"] * case.boundary + ["final"] * case.final
    yield "values = returned if isinstance(returned, tuple) else (returned,)"
    yield f"results = dict(zip({names}, values))"
    yield bound("o")
    yield "o = results['o'].reshape(TOKENS, HV, V)"
    yield f"ok &= compare('o [token, head, V]', o[:{case.total}], expected_o[:{case.total}], bound_o)"
    if case.writes_state:
        yield bound("state")
        yield f"slots = {list(case.pool.indices) if case.operation.has_pool else list(range(len(case.lens)))}"
        yield "for n, (start, stop) in enumerate(SPANS):"
        yield "    if slots[n] >= 0 and stop > start:"
        yield f"        got = state[slots[n]]{mT}"
        yield "        name = f'state of sequence {n} [head, V, K]'"
        yield "        ok &= compare(name, got, paths[n][-1], bound_state[n])"
    if case.final and returns_states:
        yield bound("final")
        yield "if results.get('final') is not None:"
        yield f"    got = results['final']{mT}"
        yield "    want = torch.stack([path[-1] for path in paths])"
        yield "    ok &= compare('final state [sequence, head, V, K]', got, want, bound_final)"
    if case.boundary and case.operation.is_chunked:
        yield bound("boundary")
        yield "if results.get('boundary') is not None:"
        yield f"    want = [path[t] for path in paths for t in range(0, len(path) - 1, {case.chunk_size})]"
        yield f"    got = results['boundary']{mT}.reshape(len(want), HV, V, K)"
        yield "    if want:"
        yield "        want = torch.stack(want)"
        yield "        ok &= compare('boundary states [chunk, head, V, K]', got, want, bound_boundary)"
    if case.keeps_steps:
        yield bound("steps")
        yield f"for n, row in enumerate({list(case.pool.rows)}):"
        yield "    start, stop = SPANS[n]"
        yield "    if row >= 0 and stop > start:"
        yield f"        got = buffer[row, : stop - start]{mT}"
        yield "        want = torch.stack(paths[n][1:])"
        yield "        name = f'steps of sequence {n} [step, head, V, K]'"
        yield "        ok &= compare(name, got, want, bound_steps[start:stop])"


def _writes(case: Case) -> Iterable[str]:
    """Statements that copy what the operation documents as written into `before`."""
    yield "at_first = {name: storage.clone() for name, storage in before.items()}"
    yield "def was(name):"
    yield "    view = memory[name][1]"
    yield "    return before[name].as_strided(view.shape, view.stride(), GUARD)"
    yield "\n"
    live = [length > 0 for length in case.lens]
    if case.writes_state:
        slots = case.pool.indices if case.operation.has_pool else tuple(range(len(case.lens)))
        written = [slot for slot, some in zip(slots, live, strict=True) if slot >= 0 and some]
        yield "if 'state' in memory:"
        yield f"    for slot in {written}:"
        yield "        was('state')[slot] = state[slot]"
    if case.keeps_steps:
        pairs = [
            (row, length)
            for row, length in zip(case.pool.rows, case.lens, strict=True)
            if row >= 0 and length
        ]
        yield f"for row, length in {pairs}:"
        yield "    was('buffer')[row, :length] = buffer[row, :length]"
    if case.operation.single_token:
        yield "was('out').copy_(out)"
