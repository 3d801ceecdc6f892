"""Writes a finding as a script that stands alone: it needs torch and the kernel under test.

The script holds as data the tensors of the call as they lie in memory, the keyword arguments, what the call
leaves behind and its noise. It holds a copy of `standalone`, which computes the recurrence in a few lines of
float64 and asks what `execute` asks. It prints expected and got, and exits 1 while the kernel fails. The
bound is computed in the script, since it depends on the dtype in which a result comes back.

Three kinds of finding run through diffgdn instead: those on a target that is not made of plain functions
(`targets.FunctionTarget`), those of a broken relation, which is about several calls, and those of a case that
is executed otherwise than plainly, by a graph, on a side stream or on a second device.
"""

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

from diffgdn import targets
from diffgdn.cases import size_limits, target_names
from diffgdn.cases.case import Case
from diffgdn.cases.operand_options import NONE, passes_beta
from diffgdn.cases.prelude import Call
from diffgdn.cases.promises import EXACT
from diffgdn.findings import corpus
from diffgdn.findings.finding import Finding, shows_in_company
from diffgdn.findings.repro import inline, literals, standalone, texts
from diffgdn.reference import noise, oracle
from diffgdn.targets import FunctionTarget, calls
from diffgdn.tensors import inputs, poison
from diffgdn.tensors.arena import Arguments
from diffgdn.tensors.inputs import Data
from diffgdn.tensors.layout import arrange, has_zero_gaps
from diffgdn.tensors.results import results_of, returned_names
from diffgdn.verdict import execute

__all__ = ["script", "through", "write"]

# What a script uses of `standalone`; the rest comes along.
SHARED = (
    "Memory",
    "fill",
    "unpack",
    "per_token",
    "l2norm",
    "log_decay",
    "recurrence",
    "truths",
    "Result",
    "judge",
)
OUR_KERNELS = ("vk", "kv")  # built-in targets whose functions are those of diffgdn.kernels
UNWRITTEN = ("buffer", "changes", "out", "track")  # arguments that hold nothing before the call
LARGEST = 1 << 20  # elements, some 4 MB of source; shrunk cases have a few hundred


def write(finding: Finding, folder: Path) -> Path:
    """Write a finding's script beside its JSON file, and return its path. Raises TargetError and OSError."""
    path = folder / f"{finding.id}.py"
    corpus.write(path, script(finding).encode())
    return path


def script(finding: Finding) -> str:
    """Write the source of a script that shows a finding. Raises TargetError if its target is not found."""
    target, case = targets.get(finding.target), finding.case
    alone = finding.call == Call(case) and not shows_in_company(finding)
    alone = alone and (case.execution == Case.execution or finding.backend == "interpret")
    if not alone or not isinstance(target, FunctionTarget) or size_limits.elements(case) > LARGEST:
        return through(finding)
    data = inputs.draw(case)
    arguments = arrange(case, data, "cpu", target.layout)
    twice, ordered = execute.is_repeated(case, finding.backend), execute.is_turned(case, finding.backend)
    shared = inline.copied(standalone.__name__, SHARED + ("program_order",) * ordered)
    noises, unrounded = _noise(finding, target, data)
    promises = targets.promises_of(target).of(case.op)
    given = _keywords(target, case, arguments)
    asked = calls.asked_for(case, target.declares(case.op, given))
    return _fill(
        texts.ALONE,
        finding,
        backend=_backend(finding),
        imports=shared.imports,
        kernel=_kernel(finding),
        shared=shared.text,
        constants=_constants(finding),
        arguments="\n".join(_arguments(case, arguments)),
        recurrence="\n".join(_recurrence(case, arguments)),
        calls=_calls(case, "\n".join(_call(given, arguments)), ordered),
        results=textwrap.indent("\n".join(f"{result!r}," for result in results_of(case, promises)), " " * 4),
        limit=f"{noise.MAX_SIGMAS:g}",
        noise=textwrap.indent(noises, " " * 4),
        names=repr(returned_names(case)),
        unrounded=repr(unrounded),
        asked=(f", tail={case.tail}" if execute.has_zero_tail(case, target) else "")
        + (f", asked={asked}" if asked else "")
        + (", exact=True" if promises.result_form == EXACT else ""),
        again=str(("call_backwards" if ordered else "call") if twice else None),
    )


def _calls(case: Case, keywords: str, ordered: bool) -> str:
    """Write the function that makes the call; where the order of programs counts, one for the opposite."""
    template, indent = (texts.ORDERED_CALL, 12) if ordered else (texts.CALL, 8)
    told = {"call": textwrap.indent(keywords, " " * indent).strip()}
    return Template(template).substitute(told, order=repr(case.order), seed=case.values.seed)


def through(finding: Finding) -> str:
    """Write a script that has diffgdn make the calls."""
    steps = [] if finding.trace is None else finding.trace.words()
    before = "".join(f"\n{call!r}," for call in finding.prelude)
    return _fill(
        texts.THROUGH,
        finding,
        backend_name=finding.backend,
        target=finding.target,
        call=repr(finding.call),
        steps=textwrap.indent("\n".join(steps), "# "),
        before=textwrap.indent(before, " " * 4) + ("\n" if before else ""),
    )


def _fill(template: str, finding: Finding, **parts: str) -> str:
    """Fill a template with what every script says of its finding, and with `parts`."""
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
    """Replace what could end a docstring or escape from it."""
    return text.replace("\\", "/").replace('"""', "'''")


def _backend(finding: Finding) -> str:
    """Choose the statements that select the backend."""
    return texts.INTERPRETED if finding.backend == "interpret" else texts.ON_GPU


def _kernel(finding: Finding) -> str:
    """Write the imports of the function under test as `kernel`."""
    if finding.target in OUR_KERNELS:
        return f"from diffgdn.kernels import {calls.FUNCTIONS[finding.operation]} as kernel"
    if target_names.split(finding.target)[0] in (*targets.names(), *targets.registered()):
        pick = f"targets.get({finding.target!r}).functions[{finding.operation!r}]"
        return f"from diffgdn import targets\n\nkernel = {pick}"
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
    """Write the sizes of the case as constants."""
    case = finding.case
    spans = list(zip(case.starts, case.starts[1:], strict=False))
    return (
        f"DEVICE = {'cpu' if finding.backend == 'interpret' else 'cuda'!r}\n"
        f"H, HV, K, V = {case.H}, {case.HV}, {case.K}, {case.V}\n"
        f"TOKENS, SCALE = {case.tokens}, {case.effective_scale!r}\n"
        f"SPANS = {spans}  # first and last token of each sequence"
    )


def _strides(tensor: Tensor) -> str:
    """Write the strides of a tensor, in elements, as a tuple."""
    return f"({', '.join(map(str, tensor.stride()))},)"


def _arguments(case: Case, arguments: Arguments) -> Iterable[str]:
    """Write statements that make every tensor of the call, in variables named as in `arena.Arguments`."""
    yield f"memory = Memory({arguments.arena.nbytes}, DEVICE, {arguments.layout!r})"
    slots = sorted({slot for slot in case.pool.indices if slot >= 0})
    for region in arguments.regions:
        view = arguments.tensors[region.name]
        assert view is not None
        where, name = f"{region.start}, {_strides(view)}", region.name
        pooled = name == "state" and case.operation.has_pool
        if pooled or name in UNWRITTEN:
            pattern = "" if pooled else f", {poison.FRESH}"
            room = f"{name!r}, {tuple(view.shape)}, {view.dtype}, {where}{pattern}"
            yield f"{name} = memory.room({room})"
        else:
            if has_zero_gaps(region):
                yield f"memory.clear({region.start}, {region.extent * region.dtype.itemsize})"
            yield f"{name} = memory.place({name!r}, {literals.source(view)}, {where})"
        if pooled:
            yield from _written(case)
            yield from (f"state[{slot}] = {literals.source(view[slot])}" for slot in slots)
    for far in arguments.far:
        view, name = far.view, far.region.name
        yield f"# Most pages of {name} are never touched, and take no memory on a CPU."
        room = f"{name!r}, {tuple(view.shape)}, {view.dtype}, {far.region.start}, {_strides(view)}"
        pattern = ", 0" if has_zero_gaps(far.region) else ""
        yield f"{name} = memory.far_room({room}, {far.words.numel()}, {far.watched}{pattern})"
        if name in UNWRITTEN:
            yield f"fill({name}, {poison.FRESH})"
        elif name == "state" and case.operation.has_pool:
            yield from _written(case)
            yield from (f"state[{slot}] = {literals.source(view[slot])}" for slot in slots)
        else:
            yield f"{name}.copy_({literals.source(view)})"
    planned = {region.name for region in (*arguments.regions, *(one.region for one in arguments.far))}
    for name, tensor in arguments.tensors.items():
        if tensor is not None and name not in planned:
            joint = _joint(arguments, tensor)
            column = tensor.storage_offset() - arguments[joint].storage_offset()
            where = f"{_strides(tensor)}, {joint}.storage_offset() + {column}"
            yield f"{name} = {joint}.as_strided({tuple(tensor.shape)}, {where})"


def _written(case: Case) -> Iterable[str]:
    """Write statements that fill the slots which must be written for each token, before states lie there."""
    if case.state_options.slots:
        for _, slot, _ in case.kept:
            yield f"fill(state[{slot}], {poison.FRESH})"


def _joint(arguments: Arguments, tensor: Tensor) -> str:
    """Name the region of which this tensor is a view."""
    byte = tensor.storage_offset() * tensor.element_size()
    return max(
        (region for region in arguments.regions if region.start <= byte), key=lambda region: region.start
    ).name


class _Recorded(Exception):
    """Ends a call whose arguments were recorded."""


def _keywords(target: FunctionTarget, case: Case, arguments: Arguments) -> dict[str, Any]:
    """Record the keyword arguments that the target's function would get, without calling it."""
    given: dict[str, Any] = {}

    @functools.wraps(target.functions[case.op])  # keeps the signature, which decides what is passed
    def record(**keywords: Any) -> None:
        given.update(keywords)
        raise _Recorded

    with contextlib.suppress(_Recorded):
        FunctionTarget(target.name, {case.op: record}, target.layout).run(case, arguments)
    return given


def _call(given: dict[str, Any], arguments: Arguments) -> Iterable[str]:
    """Write keyword arguments of a call, one a line."""
    for keyword, value in given.items():
        if isinstance(value, Tensor):
            value = next(name for name, tensor in arguments.tensors.items() if tensor is value)
            yield f"{keyword}={value},"
        else:
            yield f"{keyword}={value!r},"


def _recurrence(case: Case, arguments: Arguments) -> Iterable[str]:
    """Write the recurrence in float64 over the script's own tensors."""
    mT = ".mT" if arguments.layout == "kv" else ""
    if case.operation.single_token:
        yield "xq, xk, xv = mixed_qkv.split([H * K, H * K, HV * V], dim=-1)"
    else:
        yield "xq, xk, xv = q, k, v"
    yield "rq, rk, rv = per_token(xq, H, K), per_token(xk, H, K), per_token(xv, HV, V)"
    if case.l2norm:
        yield "rq, rk = l2norm(rq), l2norm(rk)"
    yield "rq, rk = (x.repeat_interleave(HV // H, 1) for x in (rq, rk))"
    width = "K" if case.operation.is_kda else "1"
    yield f"rg = {_log_decay(case, width)}"
    yield f"rbeta = {_beta(case)}"
    yield "zero = torch.zeros(HV, V, K, dtype=torch.float64)"
    if case.values.state == "none":
        yield "initial = [zero for _ in SPANS]"
    elif case.operation.has_pool:
        slots = [-1 if n in case.fresh else slot for n, slot in enumerate(case.pool.indices)]
        yield f"initial = [state[slot]{mT}.cpu().double() if slot >= 0 else zero for slot in {slots}]"
    else:
        yield f"initial = list(state{mT}.cpu().double().clone())"
    trees = [list(tree) for tree in case.parents] if case.parents else None
    yield f"o, paths = recurrence(rq, rk, rv, rg, rbeta, initial, SPANS, SCALE, trees={trees})"
    yield f"truth = truths(o, paths, {case.total}, {case.chunk_size})"


def _log_decay(case: Case, width: str) -> str:
    """Write the log decay of the script's tensors, given or from raw gates."""
    if not case.raw_gates:
        return f"per_token(g, HV, {width})"
    bias = "None" if case.operands.dt_bias == NONE else "dt_bias"
    softplus = ""
    if not case.operands.plain_softplus:
        softplus = f", softplus={(case.operands.softplus_beta, case.operands.softplus_threshold)}"
    bound = f"lower_bound={case.gates.lower_bound!r}"
    return f"log_decay(per_token(a, HV, {width}), {bias}, A_log, {bound}{softplus})"


def _beta(case: Case) -> str:
    """Write beta of the script's tensors: given, from a raw one, or ones."""
    if not passes_beta(case):
        return "torch.ones(TOKENS, HV, dtype=torch.float64)"
    if not case.raw_beta:
        return "per_token(beta, HV)"
    return ("2.0 * " if case.operands.neg_eigval else "") + "torch.sigmoid(per_token(b, HV))"


def _noise(finding: Finding, target: FunctionTarget, data: Data) -> tuple[str, tuple[str, ...]]:
    """Write the noise of each truth as entries of a dict, and name the truths that only the last rounding
    rounds.
    """
    case, contract = finding.case, target.contract(finding.operation)
    device = execute.oracle_device(case, finding.backend) if torch.cuda.is_available() else "cpu"
    unrounded: frozenset[str] = frozenset()
    if case.values.law == "exact":
        unrounded = noise.unrounded(case, data, oracle.expected(case, data), contract)
    spread = {name: tensor.cpu() for name, tensor in noise.measure(case, data, contract, device).items()}
    needed = dict.fromkeys(result.truth for result in results_of(case))
    return "\n".join(f"{name!r}: {literals.noise(spread[name])}," for name in needed), tuple(
        sorted(unrounded)
    )
