"""Writes a finding as an issue for the tracker of whoever maintains the kernel: Markdown, on its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from diffgdn.cases.promises import EVERYTHING, Promises
from diffgdn.findings.finding import Finding
from diffgdn.findings.parse import printable
from diffgdn.search import needs

FEW = 3  # features in a title
LONG = 120  # lines of a script that is folded
CONTENT = ("gates.", "values.", "order", "config")  # words about what tensors hold
RESULTS = {
    "o": "output",
    "state": "state",
    "final": "final state",
    "boundary": "states at chunk boundaries",
    "steps": "states after each step",
    "tracked": "tracked states",
}
# What a kind of failure is, in words about the function. $: the result or the argument.
SAYS = {
    "beyond_bound": "computes a wrong $",
    "not_exact": "computes a wrong $",
    "not_finite": "returns values that are not finite in the $",
    "poison_leaked": "lets memory that belongs to none of its arguments reach the $",
    "never_written": "leaves elements of the $ unwritten",
    "tail_not_zero": "leaves rows of the $ behind the last sequence that are not zero",
    "not_returned": "does not return the $ that it was asked for",
    "not_asked": "returns what it was not asked for ($)",
    "wrong_shape": "returns the $ in another shape",
    "wrong_dtype": "returns the $ in another dtype",
    "input_changed": "writes to its argument $, which is to be read only",
    "slot_changed": "writes to the $ of a sequence that it was not asked about",
    "guard_written": "writes to memory beside $",
    "not_repeatable": "gives other bits when the same call is made again",
    "not_captured": "cannot be captured in a CUDA graph",
    "execution_differs": "gives other bits when it is executed otherwise",
    "crashed": "ends its process",
    "hung": "does not return",
}
INTERPRETED = (
    "Without a GPU it runs in Triton's interpreter, whose own faults diffgdn mends where it is installed."
)
BOUND = (
    "The bound belongs to this case: what roundings to the formats that the kernel works in can do to this "
    "element, eight times its standard deviation. It is no constant tolerance."
)


@dataclass(frozen=True)
class Issue:
    """What an issue is made of, beside the finding.

    function, package: by their paths. message: of the failure as it is now. script: the source of a script.
    alone: whether it needs torch and the package alone; why_not: why it does not. output: the last lines of
    the script as it ran. picture: where the result is wrong. ran: what ran now, in words. versions: of what
    ran it. since: the first version that fails, in words.
    """

    function: str
    package: str
    message: str
    script: str
    alone: bool = True
    why_not: str = ""
    output: tuple[str, ...] = ()
    picture: str = ""
    ran: Mapping[str, str] | None = None
    versions: Mapping[str, str] | None = None
    since: str = ""


def text(finding: Finding, issue: Issue, promises: Promises = EVERYTHING) -> str:
    """Write the issue. promises: of the target, for what need not be said of the case."""
    about = features(finding, promises)
    parts = [
        f"# {title(finding, issue, about)}",
        sentence(finding, issue, about),
        "## Reproduce\n\n" + "\n\n".join(_script(issue, finding.backend == "interpret")),
        "## Expected and got\n\n" + "\n".join(_wrong(finding, issue)),
        "## Where it is wrong\n\n```text\n" + issue.picture + "\n```" if issue.picture else "",
        f"## Since\n\n{issue.since[:1].upper()}{issue.since[1:]}" if issue.since else "",
        "## Versions\n\n" + "\n".join(_versions(finding, issue)),
        "## How it was found\n\n" + _found(finding),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def title(finding: Finding, issue: Issue, about: list[str]) -> str:
    """Write one line: the function, what is wrong, and what it takes."""
    name = issue.function.rpartition(".")[2] or finding.operation
    return f"{name} {_says(finding)}" + (f" ({', '.join(about[:FEW])})" if about else "")


def sentence(finding: Finding, issue: Issue, about: list[str]) -> str:
    """Say in a sentence what is wrong."""
    name = f"`{issue.function}`" if issue.function else finding.operation
    where = f" in calls with {_joined(about)}" if about else " in its plainest call"
    return f"{name} ({finding.operation}) {_says(finding)}{where}."


def features(finding: Finding, promises: Promises = EVERYTHING) -> list[str]:
    """Say in a few words each what the shrunk case has that the plainest one has not, but for its numbers."""
    found = needs.of(finding.trace or finding.case, promises)
    return [said(word, value) for word, value in found.items() if not word.startswith(CONTENT)]


def said(word: str, value: Any) -> str:
    """Say what a condition asks for."""
    if not isinstance(value, Mapping):
        return f"{word} {str(value).lower() if isinstance(value, bool) else value}"
    words = {"least": "at least", "most": "at most", "multiple": "a multiple of", "not": "not"}
    return f"{word} {' and '.join(f'{words[name]} {one}' for name, one in value.items())}"


def _joined(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _says(finding: Finding) -> str:
    if finding.kind == "raised":
        return f"raises {finding.message.partition(':')[0]}"
    said = SAYS.get(finding.kind, f"fails ({finding.kind})")
    return said.replace("$", RESULTS.get(finding.tensor or "", finding.tensor or "result"))


def _script(issue: Issue, interpreted: bool) -> Iterator[str]:
    if issue.alone:
        own = issue.package if issue.package.endswith(".py") else issue.package.partition(".")[0]
        yield f"The script needs torch and `{own}` alone. It exits 0 once this is mended." + (
            f" {INTERPRETED}" if interpreted else ""
        )
    else:
        yield f"The script makes the calls through diffgdn (`pip install diffgdn`): {issue.why_not}."
    source = f"```python\n{issue.script.rstrip()}\n```"
    long = len(issue.script.splitlines()) > LONG
    yield f"<details><summary>The script</summary>\n\n{source}\n\n</details>" if long else source
    if issue.output:
        yield "It prints:\n\n```text\n" + "\n".join(map(printable, issue.output)) + "\n```"


def _wrong(finding: Finding, issue: Issue) -> Iterator[str]:
    for line in issue.message.splitlines():
        yield f"- {printable(line)}"
    if finding.place:
        yield f"- at {finding.place.removeprefix('at ')}, of {finding.tensor}"
    if finding.kind == "beyond_bound":
        yield f"\n{BOUND}"


def _versions(finding: Finding, issue: Issue) -> Iterator[str]:
    for name, value in (issue.ran or finding.provenance).items():
        shown = PurePath(value).name if name == "from" and "/" in value else value
        yield f"- {name}: {printable(shown)}"
    for name, value in (issue.versions or finding.versions).items():
        yield f"- {name} {printable(value)}"
    yield f"- backend: {'a GPU' if finding.backend == 'gpu' else 'Triton interpreter on the CPU'}"


def _found(finding: Finding) -> str:
    shrunk = ", and made smaller from a larger case" if finding.unshrunk is not None else ""
    return (
        f"By diffgdn, which compares kernels with a float64 reference on generated cases{shrunk}, "
        f"{finding.found or 'by hand'}. In its words:\n\n```text\n{(finding.trace or finding.case)!r}\n```"
    )
