"""Writes a finding as a script of one call that needs torch and the kernel's own package alone.

The call is the one that the target really makes, recorded while it is made (`targets.recording`): so the
script calls a package's own function, with tensors written out. What it asserts is the failure itself: the
worst elements beside their truth and bound, a tensor that must not change, or no more than that the call
returns. It holds nothing of diffgdn.

What no such call shows has no script of this kind (`call_source.NotWritten`): failures between calls, by a
graph or in another order of programs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

import torch
from torch import Tensor

from diffgdn.backend import interpreter
from diffgdn.cases import size_limits, target_names
from diffgdn.cases.case import Case
from diffgdn.cases.prelude import Call
from diffgdn.findings.finding import Finding, shows_in_company
from diffgdn.findings.repro import LARGEST, OUR_KERNELS, call_source, form_source
from diffgdn.findings.repro.call_source import NotWritten
from diffgdn.reference import noise
from diffgdn.targets import FunctionTarget, Target, calls, provenance_of, recording
from diffgdn.targets.recording import Recorded
from diffgdn.tensors import inputs
from diffgdn.tensors.layout import arrange
from diffgdn.tensors.results import collect, results_of, tail_of
from diffgdn.verdict import execute, localize
from diffgdn.verdict.comparison import Comparison, compare_results, received_dtypes
from diffgdn.verdict.failures import FAULT_KINDS, FORM_KINDS, CheckFailure
from diffgdn.verdict.pattern import Tile

MOST_ELEMENTS = 4  # of a wrong result that are asserted, the worst ones
VALUES = ("beyond_bound", "not_exact", "not_finite", "poison_leaked", "never_written", "tail_not_zero")
STATE_KINDS = ("input_changed", "slot_changed", "guard_written")
ONE_CALL = (*VALUES, *STATE_KINDS, *FAULT_KINDS, *FORM_KINDS, "raised")
SAME = "rtol=0, atol=0, equal_nan=True"
DEVICE = """\
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # Triton's interpreter, in which it was found
    try:  # diffgdn, where it is installed, mends it: bf16 is rounded, not truncated, and more
        from diffgdn.backend import interpreter

        interpreter.repair()
    except ImportError:
        pass"""
POISONED = """\
# What torch.empty allocates starts as NaN, so that what the call leaves unwritten shows.
torch.use_deterministic_algorithms(True, warn_only=True)
torch.utils.deterministic.fill_uninitialized_memory = True
"""
PINNED = """\
# Autotuned kernels launch the entry of their list that failed; nothing is measured.
for name, module in list(sys.modules.items()):
    for kernel in list(vars(module).values()) if name.split(".")[0] == "{package}" else ():
        while kernel is not None and not isinstance(getattr(kernel, "configs", None), list):
            kernel = getattr(kernel, "fn", None)
        if kernel is not None and kernel.configs:
            kernel.configs = [kernel.configs[{entry} % len(kernel.configs)]]
"""


@dataclass(frozen=True)
class CallScript:
    """A script of one call.

    text: its source; empty where there is none, and `why_not` says why. picture: where the result is wrong,
    as text. function: what is called, by its path; package: that it is imported from. provenance: what ran
    now. fails: whether the finding failed while the script was made; None where it was not run to the end.
    """

    text: str = ""
    why_not: str = ""
    picture: str = ""
    function: str = ""
    package: str = ""
    provenance: dict[str, str] = field(default_factory=dict)
    fails: bool | None = None


@dataclass
class _Made:
    """What one run of the case gave."""

    call: Recorded
    comparison: Comparison | None = None
    elements: list[tuple[str, float, float]] = field(default_factory=list)  # expression, expected, bound
    wrong: str = ""  # what holds once a result has its own form, as an expression
    fails: bool | None = None
    tile: dict[str, int] = field(default_factory=dict)  # of the kernels launched, see `launches.tiles`


def make(finding: Finding, target: Target, guarded: bool) -> CallScript:
    """Make the script of a finding; its target is called once, unless that ended its process.

    guarded: with NaN beside every tensor and in what the call allocates. A script without is shorter.
    """
    why = _beyond(finding, target)
    if why is not None:
        return CallScript(why_not=why)
    try:
        made = _run(finding, target)
        package, function = _function(finding, target)
        text = _script(finding, target, made, guarded, package, function)
        return _told(finding, target, made, f"{package}.{function}", package, text=text)
    except NotWritten as error:
        return CallScript(why_not=str(error), provenance=provenance_of(target, finding.operation))


def _told(finding: Finding, target: Target, made: _Made, path: str, package: str, text: str) -> CallScript:
    picture = "" if made.comparison is None else localize.text(made.comparison, Tile(**made.tile))
    ran = provenance_of(target, finding.operation)
    return CallScript(text, "", picture, path, package, ran, made.fails)


def _beyond(finding: Finding, target: Target) -> str | None:
    """Say why no one call of a function shows a finding; None if one may."""
    case = finding.case
    if finding.call != Call(case):
        return (
            "it takes several calls" if finding.trace is None else "it takes a serving loop of several calls"
        )
    if shows_in_company(finding):
        return "it takes other calls before it"
    if case.execution != Case.execution and finding.backend == "gpu":
        return f"its call is executed as {case.execution!r}"
    if finding.kind not in ONE_CALL:
        return f"{finding.kind} is about two calls"
    if size_limits.elements(case) > LARGEST:
        return "its tensors are too large to be written out; `diffgdn shrink` may find a smaller case"
    if not isinstance(target, FunctionTarget) and "function" not in provenance_of(target, case.op):
        return f"target {finding.target} is not made of functions"
    return None


def _function(finding: Finding, target: Target) -> tuple[str, str]:
    """Say which module and which of its functions the script calls."""
    op = finding.operation
    if finding.target in OUR_KERNELS:
        return "diffgdn.kernels", calls.FUNCTIONS[op]
    path = provenance_of(target, op).get("function")
    if path is not None:
        module, _, name = path.rpartition(".")
        return module, name
    module, _, name = finding.target.rpartition(":")
    return module, name


def _run(finding: Finding, target: Target) -> _Made:
    """Run the case once and note its call; of what ends a process only the call, which is not made."""
    case = finding.case
    run = execute.Run(case, target, finding.backend, explain=False)
    if finding.backend == "interpret":
        interpreter.repair()
    data = inputs.draw(case)
    run.arguments = arrange(case, data, run.device, target.layout)
    raised: CheckFailure | None = None
    returned: dict[str, Tensor] = {}
    from diffgdn.targets import launches  # imports Triton, which is not done before a target is loaded

    sizes: dict[str, int] = {}
    with (
        _watching(target, case.op), launches.tiles(sizes),
        recording.recorded(only=finding.kind in FAULT_KINDS) as made,
    ):  # fmt: skip
        try:
            returned = run.call(run.arguments)
        except CheckFailure as error:
            raised = error
    if len(made) != 1:
        raise NotWritten(f"the target makes {len(made)} calls for this case")
    found = _Made(made[0], tile=sizes)
    if finding.kind == "raised":
        found.fails = raised is not None
    elif finding.kind in FORM_KINDS:
        released = _is_released(target)
        found.wrong = form_source.asserted(finding, released, run, raised, returned, found.call)
        found.fails = bool(found.wrong)
    elif finding.kind == "tail_not_zero" and raised is None:
        rows = run.promised_tail(returned)
        if rows is not None:
            at = tail_of(case, call_source.addresses(returned["o"]))
            found.elements = list(call_source.not_zero(found.call, rows, at, MOST_ELEMENTS))
        found.fails = rows is not None and bool((rows != 0).any())
    elif finding.kind in VALUES and raised is None:
        found.comparison = _comparison(finding, target, run, returned, data)
        found.fails = bool(_wrong(found.comparison, run.exact).any())
        found.elements = list(_elements(found, run, returned))
    elif finding.kind in STATE_KINDS and raised is None:
        found.fails = run.arguments.find_change() is not None
    return found


def _watching(target: Target, op: str) -> AbstractContextManager[None]:
    """Have calls of a user's own function recorded; those of packages are watched from their import on."""
    if _is_released(target):
        return nullcontext()
    assert isinstance(target, FunctionTarget)
    return recording.in_place(target.functions, op)


def _is_released(target: Target) -> bool:
    return hasattr(target, "found") or not isinstance(target, FunctionTarget)


def _comparison(
    finding: Finding, target: Target, run: execute.Run, returned: dict[str, Tensor], data: Any
) -> Comparison:
    """Compare the result that is wrong with the truth. Raises NotWritten if the call left none."""
    assert run.arguments is not None
    case, contract = finding.case, target.contract(finding.operation)
    patterns = {name: run.fresh.pattern(tensor) for name, tensor in returned.items()}
    results = {name: tensor.cpu() for name, tensor in run.results(run.arguments, returned).items()}
    device = execute.oracle_device(case, finding.backend)
    reference = noise.reference(case, data, contract, received_dtypes(case, results), device)
    run.exact = reference.exact
    for comparison in compare_results(case, results, reference, patterns):
        if comparison.name == finding.tensor:
            return comparison
    raise NotWritten(f"the call leaves no {finding.tensor}")


def _wrong(comparison: Comparison, exact: bool) -> Tensor:
    """Mark the elements that are wrong: past their bound, or where nothing rounds not equal."""
    return comparison.got != comparison.expected if exact else localize.ratio(comparison) > 1


def _elements(
    made: _Made, run: execute.Run, returned: dict[str, Tensor]
) -> Iterator[tuple[str, float, float]]:
    """List the worst elements of a wrong result: where they come out, their truth and bound."""
    comparison = made.comparison
    assert comparison is not None
    assert run.arguments is not None
    ratio = torch.where(_wrong(comparison, run.exact), localize.ratio(comparison), -1.0)
    worst = [int(n) for n in ratio.flatten().argsort(descending=True, stable=True)[:MOST_ELEMENTS]]
    worst = [n for n in worst if ratio.flatten()[n] >= 0]
    held = {
        name: call_source.addresses(one) for name, one in run.arguments.tensors.items() if one is not None
    }
    back = {name: call_source.addresses(one) for name, one in returned.items()}
    lies = collect(results_of(run.case), held, back, run.arguments.layout)[comparison.name]
    at = {n: int(lies.reshape(-1)[n]) for n in worst}
    places = call_source.places(made.call, dict.fromkeys(at.values()))
    final = comparison.name == "state"
    found = [(n, places.get(at[n]) or (_in_final(made.call, comparison, n) if final else "")) for n in worst]
    if worst and not any(place for _, place in found):
        raise NotWritten("the wrong result is a copy that the target makes of what the function returns")
    for n, place in found:
        bound = 0.0 if run.exact else float(comparison.bound.flatten()[n])
        if place:
            yield place, float(comparison.expected.flatten()[n]), bound


def _in_final(made: Recorded, comparison: Comparison, number: int) -> str:
    """Find an element of a state that the target copied into the pool among returned final states, or not.

    They may be [V, K] or [K, V]; where both would do, an element off the diagonal is not told.
    """
    got = comparison.got
    row, head, v, k = (int(one) for one in torch.unravel_index(torch.tensor(number), got.shape))
    sequence, block, found = comparison.origins[row], got[row, head], set[str]()
    for name, tensor in call_source.named(made):
        if name.startswith("returned") and tensor.dim() == 4 and len(tensor) == len(comparison.case.lens):
            held = tensor[sequence, head].to(comparison.dtype).double().cpu()
            for own, index in ((block, (v, k)), (block.mT, (k, v))):
                if own.shape == held.shape and torch.equal(own.nan_to_num(), held.nan_to_num()):
                    found.add(f"{name}[{sequence}, {head}, {index[0]}, {index[1]}]")
    return found.pop() if len(found) == 1 else ""


def _script(finding: Finding, target: Target, made: _Made, guarded: bool, package: str, function: str) -> str:
    """Write the source."""
    tensors = list(call_source.arguments(made.call, guarded or finding.kind == "guard_written", "DEVICE"))
    before, after, prefix = _asserted(finding, made)
    parts = [
        "\n".join(_head(finding, target, package, function)),
        "\n".join(_helpers(tensors, finding)) + "\n",
        "\n".join(tensors),
        *([POISONED] if guarded and finding.kind in VALUES else []),
        "\n".join([*before, prefix + call_source.call(made.call, function, ""), *after, 'print("right")']),
    ]
    gaps = ["\n\n" if "def " in part else "\n" for part in parts]
    pairs = [f"{part.strip(chr(10))}\n{gap}" for part, gap in zip(parts, gaps, strict=True) if part.strip()]
    return "".join(pairs).rstrip("\n") + "\n"


def _head(finding: Finding, target: Target, package: str, function: str) -> Iterator[str]:
    """Write what is set and imported."""
    op, environment = finding.operation, dict(getattr(target, "environment", {}))
    pinned = target.configurations(op) > 1
    own = target_names.split(finding.target)[0] not in target_names.BUILT_IN and not _is_released(target)
    if environment or finding.backend == "interpret" or own:
        yield "import os"
    if pinned or own:
        yield "import sys"
    yield ""
    for name, value in environment.items():
        yield f"os.environ[{name!r}] = {value!r}"
    yield "import torch\n"
    yield DEVICE if finding.backend == "interpret" else 'DEVICE = "cuda"'
    yield ""
    if own and package.endswith(".py"):
        yield f'\nsys.path.insert(0, os.path.dirname("{package}"))'
        yield f"from {Path(package).stem} import {function} as target"
    elif own:
        yield "\nsys.path.insert(0, os.getcwd())"
        yield f"from {package} import {function} as target"
    else:
        yield f"from {package} import {function}"
    if own:
        yield f"\n{function} = target.functions[{op!r}]"
    if pinned:
        yield ""
        yield PINNED.format(package=package.split(".")[0], entry=_entry(finding, target)).rstrip()


def _entry(finding: Finding, target: Target) -> int:
    """Say which entry of its list an autotuned kernel launched."""
    entry = getattr(target, "entry", None)
    return finding.case.config if entry is None else int(entry(finding.case))


def _helpers(tensors: list[str], finding: Finding) -> Iterator[str]:
    text = "\n".join(tensors)
    laid = "laid(" in text
    if laid or "nan" in text or "inf" in text:
        yield 'nan, inf = float("nan"), float("inf")'
    if laid:
        beside = "nan" if finding.kind != "guard_written" else "-7.0"
        yield f"\n\n{Template(call_source.LAID).substitute(gap=beside)}"
    if finding.kind == "guard_written":
        yield f"\n{call_source.AROUND}"


def _asserted(finding: Finding, made: _Made) -> tuple[list[str], list[str], str]:
    """Write what stands before the call, after it, and what its value is assigned to."""
    kind = finding.kind
    if kind in VALUES:
        return [], _compared(finding, made), "returned = "
    if kind in STATE_KINDS:
        name = _argument(finding, made)
        if kind == "guard_written":
            return (
                [f"before = around({name})"],
                [f"torch.testing.assert_close(around({name}), before, {SAME})"],
                "",
            )
        index = _row(finding)
        after = f"torch.testing.assert_close({name}{index}, before{index}, {SAME})"
        return [f"before = {name}.clone()"], [after], ""
    said = finding.message.splitlines()[0].replace("\\", "/")
    if kind in FORM_KINDS:
        if not made.wrong:
            raise NotWritten("the result is right now")
        return [f"# {finding.tensor}: {said}"], [f"assert {made.wrong}"], "returned = "
    return [f"# {said}"], [], ""


def _compared(finding: Finding, made: _Made) -> list[str]:
    if not made.elements:
        raise NotWritten("the result is right now")
    lines = [f"# {finding.tensor}: the worst elements, what is right, and how far off each may be."]
    lines += ["for got, expected, bound in ("]
    lines += [f"    ({place}, {expected!r}, {bound:.9g})," for place, expected, bound in made.elements]
    lines += ["):"]
    lines += ['    said = f"got {got.item():.9g}, expected {expected:.9g} within {bound:.3g}"']
    lines += ["    assert abs(got.item() - expected) <= bound, said"]
    return lines


def _argument(finding: Finding, made: _Made) -> str:
    """Name the variable of the argument that a finding is about."""
    wanted = {"state": ("initial_state_source", "initial_state"), "buffer": ("intermediate_states_buffer",)}
    wanted |= {"indices": ("initial_state_indices", "ssm_state_indices"), "track": ("track_state",)}
    wanted |= {"rows": ("intermediate_state_indices", "step_change_indices"), "changes": ("step_changes",)}
    wanted |= {"parents": ("retrieve_parent_token",), "accepted": ("num_accepted_steps",)}
    tensor = finding.tensor or ""
    for name in (*wanted.get(tensor, ()), tensor):
        if name in made.call.given:
            return call_source.variable(name)
    raise NotWritten(f"the call has no argument for {tensor}")


def _row(finding: Finding) -> str:
    """Write the index of the slot, or of the row and step, that was changed; none for a whole tensor."""
    if finding.kind != "slot_changed":
        return ""
    numbers = [word for word in (finding.place or "").split() if word.isdecimal()]
    return f"[{', '.join(numbers)}]" if numbers else ""
