"""Writes what a short script asserts of a result as a whole: that it came, in its shape and its dtype."""

from __future__ import annotations

from torch import Tensor

from diffgdn.findings.finding import Finding
from diffgdn.findings.repro.call_source import NotWritten, named
from diffgdn.targets.recording import Recorded
from diffgdn.tensors.results import in_layout, returned_names
from diffgdn.verdict import execute
from diffgdn.verdict.failures import CheckFailure


def asserted(
    finding: Finding,
    released: bool,
    run: execute.Run,
    raised: CheckFailure | None,
    returned: dict[str, Tensor],
    made: Recorded,
) -> str:
    """Write what is asserted of a result that did not come, or in another form; "" if it is right now.

    released: the target is a package's, with an adapter that names what comes back. raised: by the call.
    returned: by the target, by name of the result. Raises NotWritten for a copy that the target makes.
    """
    name, wrong = finding.tensor or "", raised
    assert run.arguments is not None
    if wrong is None:
        try:
            run.results(run.arguments, returned)
        except CheckFailure as error:
            wrong = error
    if wrong is None or (wrong.kind, wrong.tensor) != (finding.kind, name):
        return ""
    if finding.kind in ("not_returned", "not_asked") and released:
        raise NotWritten("the target names itself what the function returns")
    if finding.kind == "not_returned":
        return _has_part(made, returned_names(finding.case).index(name))
    if finding.kind == "not_asked":
        number = int(name.split()[-1]) - 1
        return f"returned[{number}] is None" if isinstance(made.returned, tuple) else "returned.numel() == 1"
    if isinstance(made.returned, tuple) and not returned:
        return "isinstance(returned, torch.Tensor)"
    one = returned[name]
    same = [place for place, tensor in named(made) if tensor is one]
    if not same:
        raise NotWritten("the wrong result is a copy that the target makes of what the function returns")
    result = next(found for found in run.expected() if found.name == name)
    if finding.kind == "wrong_dtype":
        allowed = ", ".join(f"torch.{dtype}" for dtype in result.dtypes)
        return f"{same[0]}.dtype in ({allowed},)"
    return f"tuple({same[0]}.shape) in {in_layout(result, run.arguments.layout)}"


def _has_part(made: Recorded, number: int) -> str:
    """Write that a value of those that a call returned is there."""
    if isinstance(made.returned, tuple):
        return f"len(returned) > {number} and returned[{number}] is not None"
    return f"isinstance(returned, tuple) and returned[{number}] is not None"
