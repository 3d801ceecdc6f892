"""The scoreboard as a page of Markdown: probe runs of released kernels, and the defects found in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from diffgdn.cases.operations import OPERATIONS
from diffgdn.cases.promise_axes import shown
from diffgdn.findings.defects import OPEN, THEIRS, Defect
from diffgdn.probe.cells import CRASHES, HANGS, NOT_REACHED, PLAIN, RAISES, REFUSED, RIGHT, WRONG
from diffgdn.report import scoreboard_runs
from diffgdn.report.scoreboard_runs import ProbeRun, Score
from diffgdn.search import needs

COLUMNS = (RIGHT, WRONG, RAISES, CRASHES, HANGS, REFUSED, NOT_REACHED)
WHOSE = {
    "theirs": "theirs",
    "ours": "ours: a fault of diffgdn",
    "adapter": "of the adapter that calls it",
    "open": "open: nobody has decided yet",
}
HEAD = """\
# Scoreboard

Released kernels, feature by feature, and what was found wrong in them. `diffgdn scoreboard` writes this page
from probe runs (`docs/scoreboard/`) and from `docs/defects.toml`; do not edit it.

    diffgdn probe sglang --json probe.json              # a run; --from takes another version
    diffgdn scoreboard probe.json                       # adds it, and writes the page anew

A [cell](probe.md#the-matrix) is a feature in an operation: right, wrong, raises, crashes, hangs, refused by
the target or not reached. A cell that is not right is no verdict about who is at fault: a package may never
have promised the feature; in parentheses stands what its target does not promise. What was read in the source
down to its cause is a defect, below.
"""
NO_RUNS = "There are no runs yet."
NO_DEFECTS = "None is written down yet."


def page(runs: Sequence[ProbeRun], defects: Sequence[Defect]) -> str:
    """Write the page."""
    parts = [HEAD, "## Runs\n", *(_runs(runs) if runs else [NO_RUNS]), ""]
    for run in runs:
        parts += _of_run(run, defects)
    parts += ["## Defects\n", *(_overview(defects) if defects else [NO_DEFECTS]), ""]
    for defect in defects:
        parts += [*_defect(defect, _versions(defects, defect.target)), ""]
    return "\n".join(parts).rstrip() + "\n"


def _runs(runs: Sequence[ProbeRun]) -> Iterator[str]:
    yield f"| kernels | backend | device | date | operations | {' | '.join(COLUMNS)} |"
    yield f"|---|---|---|---|---|{'---|' * len(COLUMNS)}"
    for run in runs:
        counts = " | ".join(str(run.count(status) or "-") for status in COLUMNS)
        about = f"[{_title(run)}](#{_anchor(_title(run))})"
        operations = f"{len(run.operations)}"
        yield f"| {about} | {run.backend} | {run.device} | {run.date or '?'} | {operations} | {counts} |"


def _title(run: ProbeRun) -> str:
    return f"{run.target} {run.version}, {run.backend}"


def _anchor(title: str) -> str:
    """Spell a heading as links to it do."""
    kept = "".join(one for one in title.lower() if one.isalnum() or one in "_- ")
    return kept.replace(" ", "-")


def _of_run(run: ProbeRun, defects: Sequence[Defect]) -> Iterator[str]:
    """Write a run: a line for each operation, then what is not right in it."""
    yield f"### {_title(run)}\n"
    said = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    yield f"On {run.device}, {run.date or 'date unknown'}; {said}.\n"
    yield f"| operation | {' | '.join(COLUMNS)} | pairs right |"
    yield f"|---|{'---|' * len(COLUMNS)}---|"
    scores = [(op, run.operations[op]) for op in OPERATIONS if op in run.operations]
    for op, score in scores:
        counts = " | ".join(str(score.count(status) or "-") for status in COLUMNS)
        pairs = f"{score.pairs - len(score.pairs_not_right)} of {score.pairs}" if score.pairs else "-"
        yield f"| {op} | {counts} | {pairs} |"
    lines = [(op, list(_not_right(run, op, score, defects))) for op, score in scores]
    if any(some for _, some in lines):
        broken = [(op, name) for op, score in scores for name in _broken(score)]
        read = sum(any(explains(one, run, op, name) for one in defects) for op, name in broken)
        said = f" ({len(broken)} promised, of which {read} have a defect below)" if broken else ""
        yield f"\nNot right{said}:\n"
    for op, some in lines:
        yield from [f"- {op}: {'; '.join(some)}"] if some else []
    yield ""


def _not_right(run: ProbeRun, op: str, score: Score, defects: Sequence[Defect]) -> Iterator[str]:
    """List the features of an operation that are not right, an axis at a time, each with its defects."""
    if score.plain != RIGHT:
        yield f"the plain case {score.plain}{_links(run, op, PLAIN, defects)}"
        return
    for status, names in score.others.items():
        if status in (REFUSED, NOT_REACHED):
            continue
        by: dict[tuple[str, str], list[str]] = {}
        for name in names:
            axis, _, value = name.rpartition("=")
            said = value if name in score.promised else f"({value})"
            by.setdefault((axis, _links(run, op, name, defects)), []).append(said)
        yield from (f"{axis} {', '.join(values)} {status}{links}" for (axis, links), values in by.items())
    if score.pairs_not_right:
        yield f"of pairs {', '.join(score.pairs_not_right)}"


def _broken(score: Score) -> list[str]:
    """List the features of an operation that break a promise: not right, and promised."""
    asked = [
        name
        for status, names in score.others.items()
        if status not in (REFUSED, NOT_REACHED)
        for name in names
    ]
    return [PLAIN] if score.plain != RIGHT else [name for name in asked if name in score.promised]


def _links(run: ProbeRun, op: str, feature: str, defects: Sequence[Defect]) -> str:
    found = [defect for defect in defects if explains(defect, run, op, feature)]
    return f" ({', '.join(f'[{one.id}](#{_anchor(one.id)})' for one in found)})" if found else ""


def explains(defect: Defect, run: ProbeRun, op: str, feature: str) -> bool:
    """Tell whether a cell that is not right is a defect's: its case has the feature, or it names it.

    What was seen in the interpreter is in the source, and so on a GPU too; the reverse need not hold.
    """
    if defect.target != run.target or op not in defect.operations:
        return False
    if run.version in defect.right_in or (defect.backend == "gpu" and run.backend != "gpu"):
        return False
    if defect.features:
        return any(fnmatchcase(feature, pattern) for pattern in defect.features)
    axis, _, value = feature.rpartition("=")
    condition = needs.of(defect.case).get(axis)
    if isinstance(condition, dict):
        number = int(value) if value.lstrip("-").isdecimal() else None
        return number is not None and condition.get("least", number) <= number <= condition.get(
            "most", number
        )
    return condition is not None and shown(condition) == value


def _overview(defects: Sequence[Defect]) -> Iterator[str]:
    count = {word: sum(one.whose == word for one in defects) for word in WHOSE}
    said = ", ".join(f"{number} {word}" for word, number in count.items() if number)
    patched = sum(one.mended_by_patch for one in defects)
    yield f"{len(defects)} in all: {said}. Of {patched} a patched copy passed. Versions that were run:\n"
    for target in dict.fromkeys(one.target for one in defects):
        yield f"- {target}: {', '.join(_versions(defects, target))}"
    yield ""
    yield "| defect | target | operations | wrong in | right in | whose |"
    yield "|---|---|---|---|---|---|"
    order = {word: n for n, word in enumerate((THEIRS, OPEN))}
    for one in sorted(defects, key=lambda one: (order.get(one.whose, len(order)), one.target)):
        about = f"[{_cell(one.title)}](#{_anchor(one.id)})"
        known = _versions(defects, one.target)
        wrong, right = spans(one.wrong_in, known), spans(one.right_in, known) or "-"
        yield f"| {about} | {one.target} | {', '.join(one.operations)} | {wrong} | {right} | {one.whose} |"


def _versions(defects: Sequence[Defect], target: str) -> list[str]:
    """List the versions of a target that were run on any defect, the oldest first."""
    named = {version for one in defects if one.target == target for version in (*one.wrong_in, *one.right_in)}
    return sorted(named, key=scoreboard_runs.number)


def spans(versions: Sequence[str], known: Sequence[str]) -> str:
    """Write versions as ranges of those that were run: "0.5.8, 0.5.10 to 0.5.23"."""
    found: list[list[str]] = []
    for before, version in zip(("", *known), known, strict=False):
        if version in versions:
            if found and found[-1][-1] == before:
                found[-1].append(version)
            else:
                found.append([version])
    return ", ".join(one[0] if len(one) == 1 else f"{one[0]} to {one[-1]}" for one in found)


def _defect(one: Defect, known: Sequence[str]) -> Iterator[str]:
    """Write a defect as a section. known: the versions of its target that were run."""
    yield f"### {one.id}\n"
    yield f"{one.title}\n"
    where = f" in {one.result}" if one.result else ""
    yield f"- {one.target}, {', '.join(one.operations)}: `{one.kind}`{where}"
    yield f"- case: `{one.case!r}`"
    right = f"; right in {spans(one.right_in, known)}" if one.right_in else ""
    backend = f", on backend {one.backend}" if one.backend else ""
    yield f"- wrong in {spans(one.wrong_in, known)}{right}{backend}"
    yield f"- whose: {WHOSE[one.whose]}"
    yield f"- cause: {_line(one.cause)}"
    told = "patched copy" in one.mend
    patched = " (a patched copy passed)" if one.mended_by_patch and not told else ""
    said = {"mend": f"{one.mend}{patched}", "promised": one.promised, "their tolerances": one.tolerance}
    said = {name: text for name, text in said.items() if getattr(one, FIELD.get(name, name))}
    said |= {"link": f"<{one.link}>"} if one.link else {}
    said |= {"note": one.note} if one.note else {}
    yield from (f"- {name}: {_line(text)}" for name, text in said.items())


FIELD = {"their tolerances": "tolerance"}


def _line(text: str) -> str:
    """Put text on one line of a list."""
    return " ".join(text.split())


def _cell(text: str) -> str:
    return _line(text).replace("|", "\\|").replace("[", "(").replace("]", ")")
