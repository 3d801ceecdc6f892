"""Mutants: bugs put back into copies of the kernels."""

from __future__ import annotations

import inspect
import re
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from diffgdn import kernels, targets
from diffgdn.campaign import events, reshrink
from diffgdn.campaign.config import Outcome
from diffgdn.cases.case import Case, Gates
from diffgdn.cases.operations import OPERATIONS, matching
from diffgdn.cli.mutants_command import mutants
from diffgdn.cli.options import Problem
from diffgdn.findings.finding import COMPLETE, OUT_OF_TIME, Finding
from diffgdn.mutants import hunt as hunting
from diffgdn.mutants import mutated_kernels
from diffgdn.mutants.catalogue import MUTANTS, NOT_HERE, OPEN, ROWS
from diffgdn.mutants.kernel_sources import sources
from diffgdn.mutants.kill_record import Record
from diffgdn.mutants.mutant import DeadMutant, Edit, Mutant
from diffgdn.mutants.mutant_targets import name_of
from diffgdn.mutants.peers.seen import Seen
from diffgdn.verdict import execute

SUM = "b_s *= tl.exp2(b_end)\n"  # in chunk/state.py, once


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_of_the_catalogue_still_changes_the_sources(name: str) -> None:
    mutant = MUTANTS[name]
    assert mutant.id == name
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
    plain, changed = sources(), mutated_kernels.edited(mutant)
    different = {file for file in plain if plain[file] != changed[file]}
    assert different == {edit.file for edit in mutant.edits}
    assert matching(mutant.operations)
    for file in different:
        compile(changed[file], file, "exec")


def test_every_bug_that_was_read_of_is_put_back_or_has_a_reason_not_to_be() -> None:
    assert len(ROWS) == len(set(ROWS)) == 82
    assert sorted([*MUTANTS, *NOT_HERE]) == sorted(ROWS)
    assert all(NOT_HERE.values())
    assert set(OPEN) <= set(MUTANTS)


def test_the_page_of_bugs_has_a_row_for_each() -> None:
    page = (Path(__file__).parents[2] / "docs/bugs-found.md").read_text()
    rows = re.findall(r"^\| ([a-z0-9-]+) \| (.*) \|$", page, re.MULTILINE)
    names = [name for name, _ in rows if name not in ("bug", "---")]
    assert sorted(names) == sorted(ROWS)
    reasons = {name: text for name, text in rows if name in {*NOT_HERE, *OPEN}}
    assert reasons == {**NOT_HERE, **OPEN}


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (Edit("chunk/state.py", "no such line", "x"), "chunk/state.py holds the anchor 0 times, not 1"),
        (Edit("chunk/state.py", SUM, "x", count=2), "chunk/state.py holds the anchor 1 times, not 2"),
        (Edit("chunk/state.py", SUM, SUM), "an edit of chunk/state.py changes nothing"),
        (Edit("chunk/stat.py", SUM, "x"), "there is no chunk/stat.py"),
    ],
)
def test_a_dead_mutant_is_an_error(edit: Edit, words: str) -> None:
    with pytest.raises(DeadMutant, match=re.escape(f"dead: {words}")):
        mutated_kernels.edited(Mutant("dead", "nowhere", "nothing", (edit,)))


def test_a_mutant_is_compiled_from_its_own_text_and_leaves_the_kernels_alone() -> None:
    module = mutated_kernels.load(MUTANTS["log-linear-gate-mix"])
    assert module.chunk_gated_delta_rule is not kernels.chunk_gated_delta_rule
    state = inspect.getmodule(module.chunk_gated_delta_rule).__package__  # type: ignore[union-attr]
    assert state == "diffgdn_mutant_log_linear_gate_mix.chunk"
    case = Case("gdn.extend", gates=Gates(law="constant"), chunk_size=16)
    failed = execute.run(case, targets.get(name_of("log-linear-gate-mix")), "interpret").failure
    assert failed is not None
    assert (failed.kind, failed.tensor) == ("beyond_bound", "state")
    assert execute.run(case, targets.get("vk"), "interpret").failure is None


def test_a_hunt_finds_a_mutant_and_shrinks_it(tmp_path: Path) -> None:
    kill = hunting.hunt(MUTANTS["log-linear-gate-mix"], "interpret", 1, 60.0, 2, tmp_path)
    assert kill.found
    assert kill.operation == "gdn.extend"
    assert kill.kind in ("beyond_bound", "not_exact")
    assert kill.shrunk is not None
    assert (kill.shrunk.lens, kill.shrunk.HV, kill.shrunk.K, kill.shrunk.V) == ((1,), 1, 16, 16)
    assert kill.shrink_seconds is not None
    assert OPERATIONS[kill.operation].is_chunked


def test_a_mutant_that_survives_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Mutant(
        "harmless", "nowhere", "nothing", (Edit("chunk/state.py", SUM, f"{SUM}            # same\n"),)
    )
    monkeypatch.setitem(MUTANTS, "harmless", plain)
    asked = []

    def hunt(mutant: Mutant, *_: object, isolation: str | None) -> hunting.Kill:
        asked.append(isolation)
        return hunting.Kill(mutant.id, False, 60.0, cases=3000)

    monkeypatch.setattr(hunting, "hunt", hunt)
    options = ["--id", "harmless", "--isolation", "none"]
    result = CliRunner().invoke(mutants, options, standalone_mode=False)
    assert asked == ["none"]
    assert result.return_value == 1
    assert "harmless" in result.output
    assert "SURVIVED  3000 cases in 60 s" in result.output
    assert "0 of 1 mutants found" in result.output


def table_of(path: Path, *kills: hunting.Kill, **answers: dict[str, Seen]) -> Path:
    """A file as a run before has left it."""
    record = Record(path)
    for kill in kills:
        record.add(kill)
    for mutant, seen in answers.items():
        record.add_peers(mutant.replace("_", "-"), seen)
    return path


FOUND = hunting.Kill(
    "pool-copied", True, 3.0, 21, "gdn.update", "not_exact", "state", Case("gdn.update"), 2.5, 17
)
YES, NO = Seen("yes", "test_chunk: o: ratio 0.6", 1), Seen("no", "", 40)


def test_what_a_file_holds_is_not_hunted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither is what peers' tests make of it; the page says both."""
    monkeypatch.setattr(hunting, "hunt", None)
    file = table_of(tmp_path / "kills.json", FOUND, pool_copied={"FLA": NO, "SGLang": YES})
    page = tmp_path / "page.md"
    options = ["--id", "pool-copied", "--json", str(file), "--page", str(page), "--peers", "--workers", "2"]
    result = CliRunner().invoke(mutants, options, standalone_mode=False)
    assert result.return_value == 0
    assert "pool-copied" in result.output
    assert "FLA's tests see 0 of 1, not 1; 0 are of what they do not call" in result.output
    assert "SGLang's tests see 1 of 1, not 0" in result.output
    lines = page.read_text().splitlines()
    options_again = "--max-time 60s --seed 1 --workers 2 --peers --page docs/mutants.md"
    assert f"    diffgdn mutants --id 'pool-copied' {options_again}" in lines
    row = next(line for line in lines if line.startswith("| pool-copied"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[3:9] == [
        "gdn.update, not_exact in state",
        "21",
        "3.0",
        "17",
        "2.5",
        "`Case(op='gdn.update')`",
    ]
    assert cells[9:] == ["smallest", "no", "yes"]
    head = next(line for line in lines if line.startswith("| bug"))
    assert head.count("|") == row.count("|")


def test_peers_are_asked_of_what_has_no_answer_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffgdn.mutants.peers.seen.look", lambda mutant, peer, backend: YES)
    file = table_of(tmp_path / "kills.json", FOUND)
    CliRunner().invoke(
        mutants, ["--id", "pool-copied", "--json", str(file), "--peers"], standalone_mode=False
    )
    record = Record(file)
    assert record.kills == {"pool-copied": FOUND}
    assert record.peers == {"pool-copied": {"FLA": YES, "SGLang": YES}}


def test_peers_alone_may_be_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later run takes them from the file; on the page a dash stands for the hunt."""
    monkeypatch.setattr(hunting, "hunt", None)
    monkeypatch.setattr("diffgdn.mutants.peers.seen.look", lambda mutant, peer, backend: YES)
    file, page = tmp_path / "kills.json", tmp_path / "page.md"
    options = ["--id", "pool-*", "--json", str(file), "--peers", "--no-hunt", "--page", str(page)]
    assert CliRunner().invoke(mutants, options, standalone_mode=False).return_value == 0
    assert Record(file).kills == {}
    assert Record(file).peers == {"pool-copied": {"FLA": YES, "SGLang": YES}}
    row = next(line for line in page.read_text().splitlines() if line.startswith("| pool-copied"))
    assert row.endswith(f"| {' | '.join('-' * 7)} | yes | yes |")
    assert "1 of 1 were not hunted in this run" in page.read_text()
    with pytest.raises(Problem, match="without --peers"):
        CliRunner().invoke(mutants, ["--no-hunt"], standalone_mode=False, catch_exceptions=False)


def test_a_file_of_something_else_is_a_problem(tmp_path: Path) -> None:
    file = tmp_path / "kills.json"
    file.write_text('[{"what": 1}]')
    with pytest.raises(Problem, match=r"--json .*kills.json: not a table of mutants"):
        CliRunner().invoke(
            mutants,
            ["--id", "pool-copied", "--json", str(file)],
            standalone_mode=False,
            catch_exceptions=False,
        )


def test_a_mutant_that_is_open_does_not_fail_the_command(tmp_path: Path) -> None:
    lost = hunting.Kill("cache-by-identity", False, 60.0, 900)
    file = table_of(tmp_path / "kills.json", lost)
    options = ["--id", "cache-by-identity", "--json", str(file)]
    assert "cache-by-identity" in OPEN
    assert CliRunner().invoke(mutants, options, standalone_mode=False).return_value == 0


def test_ctrl_c_is_no_survival(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends the command, not the hunt for one mutant."""
    monkeypatch.setattr("diffgdn.campaign.run", lambda *_: Outcome(interrupted=True))
    with pytest.raises(KeyboardInterrupt):
        hunting.hunt(MUTANTS["pool-copied"], "interpret", 1, 60.0, 2, tmp_path)


def test_the_list_names_each_with_its_source() -> None:
    result = CliRunner().invoke(mutants, ["--list"], standalone_mode=False)
    assert result.return_value == 0
    lines = result.output.splitlines()
    assert len(lines) == len(MUTANTS)
    assert any(line.startswith("pool-copied") and "FlashInfer #3490" in line for line in lines)


def found(op: str) -> Finding:
    return Finding(Case(op), "vk", "interpret", "beyond_bound", "it is wrong")


def at_times(monkeypatch: pytest.MonkeyPatch, *seconds: float) -> hunting._Watch:
    """Return a watch whose clock says these seconds, one after the other."""
    clock = iter(seconds)
    monkeypatch.setattr("diffgdn.mutants.hunt.time.monotonic", lambda: next(clock))
    return hunting._Watch(shrink=True)


def test_time_to_find_counts_from_the_first_phase_in_which_kernels_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watch = at_times(monkeypatch, 100.0, 109.0, 109.0)
    watch(events.PhaseStarted("start"))
    watch(events.PhaseStarted("compile"))
    watch(events.CaseRun("gdn.decode", "compile", 1.0))
    watch(events.PhaseEnded("compile", 6.0))
    watch(events.PhaseStarted("geometries"))
    watch(events.CaseRun("gdn.decode", "geometries", 1.0))
    watch(events.FindingFound(found("gdn.decode"), "a"))
    assert (watch.seconds, watch.compile_seconds, watch.cases) == (9.0, 6.0, 2)


def test_what_is_found_while_kernels_compile_took_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = at_times(monkeypatch, 100.0, 104.0, 104.0, 104.5)
    watch(events.PhaseStarted("compile"))
    watch(events.FindingFound(found("gdn.decode"), "a"))
    watch(events.PhaseEnded("compile", 4.5))
    assert (watch.seconds, watch.compile_seconds) == (4.0, 4.0)


def test_what_is_shrunk_is_the_finding_that_was_first() -> None:
    watch = hunting._Watch(shrink=True)
    watch(events.PhaseStarted("explore"))
    first, other = found("gdn.decode"), found("kda.decode")
    watch(events.FindingFound(first, "a"))
    watch(events.FindingFound(other, "b"))
    watch(events.FindingShrunk(other, "b", other.id, 1.0))
    assert watch.smaller is None
    with pytest.raises(KeyboardInterrupt):
        watch(events.FindingShrunk(first, "a", first.id, 1.0))
    assert watch.smaller is not None
    assert watch.smaller.finding == first


def test_a_shrink_that_the_campaign_left_off_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cases and seconds are those of both. What is as small as it gets is not asked again."""
    asked = []

    def go_on(entries: list[tuple[Finding, Path]], *_: object, **__: object) -> list[reshrink.Result]:
        finding, path = entries[0]
        asked.append((finding.shrink, path))
        smaller = replace(finding, case=Case("gdn.decode"))
        return [reshrink.Result(finding, path, "interpret", smaller, seconds=5.0, cases=40)]

    monkeypatch.setattr(reshrink, "run", go_on)
    watch = hunting._Watch(shrink=True)
    big = replace(found("gdn.decode"), case=Case("gdn.decode", HV=2), shrink=OUT_OF_TIME)
    watch.first, watch.shrink_seconds, watch.shrink_steps = events.FindingFound(big, "a/b.json"), 3.0, 7
    assert hunting._made_small(watch, "interpret") == (Case("gdn.decode"), 8.0, 47)
    assert asked == [(OUT_OF_TIME, Path("a/b.json"))]
    watch.first = events.FindingFound(replace(big, shrink=COMPLETE), "a/b.json")
    assert hunting._made_small(watch, "interpret") == (Case("gdn.decode", HV=2), 3.0, 7)
    assert len(asked) == 1


def test_the_last_word_of_a_campaign_is_not_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing would catch it: the command would end as if by Ctrl-C."""
    monkeypatch.setattr(hunting, "SHRINK_WAIT", -1.0)
    watch = hunting._Watch(shrink=True)
    watch.first = events.FindingFound(found("gdn.decode"), "a")
    watch(events.CampaignEnded(60.0, ()))
    with pytest.raises(KeyboardInterrupt):
        watch(events.PhaseStarted("explore"))


def test_steps_of_a_shrink_are_cases_of_the_operation_that_was_found_first() -> None:
    watch = hunting._Watch(shrink=True)
    watch(events.PhaseStarted("explore"))
    watch(events.CaseRun("gdn.decode", "explore", 1.0))
    watch(events.FindingFound(found("gdn.decode"), "a"))
    for op, shrinking in (
        ("gdn.decode", True),
        ("gdn.decode", True),
        ("gdn.decode", False),
        ("kda.decode", True),
    ):
        watch(events.CaseRun(op, "explore", 1.0, shrinking=shrinking))
    assert (watch.cases, watch.shrink_steps) == (1, 2)
