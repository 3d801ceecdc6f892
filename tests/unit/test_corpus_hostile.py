"""Files that no diffgdn wrote: each is refused in one line that names it, and nothing else happens."""

from __future__ import annotations

import json
import os
import socket
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diffgdn.cases.case import Case, Edit, Pool
from diffgdn.cases.trace import Trace
from diffgdn.cases.trace_steps import Step
from diffgdn.cli import run
from diffgdn.findings import corpus, parse
from diffgdn.findings.corpus import Corpus
from diffgdn.findings.finding import Finding
from diffgdn.findings.parse import MAX_BYTES, CorpusError

FINDING = Finding(Case(op="gdn.decode", lens=(2,)), "eager", "interpret", "beyond_bound", "it is wrong", "o")
TREE = Case(
    op="gdn.verify", lens=(3,), pool=Pool(steps=3, buffer=1, rows=(0,)), parents=((-1, 0, 1),)
).to_json()
TRACE = Trace("gdn", (Step("arrive", (0,)), Step("decode", (0,))))
SERVED = Finding(TRACE.last_call(), "eager", "interpret", "slot_changed", "it changed", trace=TRACE)
WHOLE = corpus.content(FINDING)
MOST_MEMORY = 64 << 20  # of a refusal; the largest file allowed has one megabyte

Put = Callable[[Path], None]


def holding(content: bytes) -> Put:
    return lambda path: corpus.write(path, content)


def changed(**fields: Any) -> Put:
    return holding(json.dumps({**FINDING.to_json(), **fields}).encode())


def with_case(**fields: Any) -> Put:
    return changed(case={**FINDING.case.to_json(), **fields})


def with_tree(*parents: int) -> Put:
    return changed(operation="gdn.verify", case={**TREE, "parents": [list(parents)]})


def with_trace(**fields: Any) -> Put:
    data = SERVED.to_json()
    return holding(json.dumps({**data, "trace": {**data["trace"], **fields}}).encode())


def with_edit(tensor: str, position: int, value: str = "1.0") -> Put:
    edits = [{"tensor": tensor, "position": position, "value": "VALUE"}]
    text = json.dumps({**FINDING.to_json(), "case": {**FINDING.case.to_json(), "edits": edits}})
    return holding(text.replace('"VALUE"', value).encode())


def nested(part: str, fields: dict[str, Any]) -> Put:
    return with_case(**{part: {**FINDING.case.to_json()[part], **fields}})


def linked_out(path: Path) -> None:
    outside = path.parent.parent / "outside.json"
    outside.write_bytes(WHOLE)
    path.symlink_to(outside.resolve())


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


TWICE = WHOLE.replace(b'"lane"', b'"target": "vk", "lane"')
HOSTILE: dict[str, tuple[Put, str]] = {
    # not what a file of text holds
    "empty": (holding(b""), "not JSON"),
    "cut in the first line": (holding(WHOLE[:1]), "not JSON"),
    "cut in a name": (holding(WHOLE[:20]), "not JSON"),
    "cut in the middle": (holding(WHOLE[: len(WHOLE) // 2]), "not JSON"),
    "cut before the end": (holding(WHOLE[:-2]), "not JSON"),
    "two findings": (holding(WHOLE + WHOLE), "not JSON: Extra data"),
    "zeros": (holding(bytes(4096)), "not JSON"),
    "binary": (holding(bytes(range(256))), "not JSON"),
    "a ZIP file": (holding(b"PK\x03\x04\x14\x00" + WHOLE), "not JSON"),
    "a pickle": (holding(b"\x80\x04\x95\x20\x00\x00\x00\x00\x00\x00\x00cos\nsystem\n."), "not JSON"),
    "UTF-16": (holding(WHOLE.decode().encode("utf-16")), "not JSON"),
    "UTF-32": (holding(WHOLE.decode().encode("utf-32")), "not JSON"),
    "a byte order mark": (holding(b"\xef\xbb\xbf" + WHOLE), "not JSON: Unexpected UTF-8 BOM"),
    "Latin-1": (holding(WHOLE.replace(b"wrong", b"wr\xf6ng")), "not JSON"),
    "YAML": (holding(b"!!python/object/apply:os.system ['true']"), "not JSON"),
    "a comment": (holding(WHOLE + b"// by hand"), "not JSON"),
    "deep lists": (holding(b"[" * 500_000), "not JSON"),
    "deep objects": (holding(b'{"a":' * 150_000), "not JSON"),
    "too large": (holding(b" " * MAX_BYTES + WHOLE), "larger than 1048576 bytes"),
    # numbers
    "1e999": (with_edit("q", 0, "1e999"), "1e999 is more than a float holds"),
    "-1e999": (with_edit("q", 0, "-1e999"), "-1e999 is more than a float holds"),
    "NaN": (with_edit("q", 0, "NaN"), "NaN is not JSON"),
    "Infinity": (with_edit("q", 0, "-Infinity"), "-Infinity is not JSON"),
    "a long integer": (with_case(tail=10**3000), "an integer of 3001 digits"),
    "a very long integer": (holding(WHOLE.replace(b"null", b"7" * 9000)), "an integer of 9000 digits"),
    # fields
    "a field twice": (holding(TWICE), "a field is given twice"),
    "an unknown field": (changed(__class__="os"), "unknown field '__class__'"),
    "an unknown field of the case": (with_case(__reduce__=["os.system"]), "unknown field '__reduce__'"),
    "a string": (holding(b'"finding"'), "a finding is a JSON object, got str"),
    "null": (holding(b"null"), "a finding is a JSON object, got NoneType"),
    "a case that is a list": (changed(case=[]), "case: expected dict, got []"),
    "lens that are text": (with_case(lens="12"), "case.lens: expected a list of integers"),
    "lens that are truth values": (with_case(lens=[True]), "case.lens: expected a list of integers"),
    "a huge wrong value": (with_case(lens="x" * 900_000), "case.lens: expected a list of integers"),
    "a huge wrong list": (with_case(lens=[-1] * 200_000), "lens: negative length"),
    "a version of the future": (changed(format_version=3, more=1), "this diffgdn reads 1 to 2, got 3"),
    "a version before the first": (with_case(format_version=0), "this diffgdn reads 1 to 5, got 0"),
    "a version that is text": (changed(format_version="1"), "this diffgdn reads 1 to 2, got '1'"),
    # names
    "a kind that is a path": (changed(kind="../../x"), "kind: expected a word"),
    "a kind that is code": (changed(kind='relation_broken.x"); y("'), "kind: expected a word"),
    "a kind that is long": (changed(kind="x" * 1000), "kind: expected a word"),
    "an operation that is a path": (changed(operation="/etc/passwd"), "operation: '/etc/passwd', but"),
    "a case of an operation that is a path": (with_case(op="../x"), "op: expected one of gdn.extend"),
    "a target with NUL": (changed(target="eager\0.py:x"), "target: expected up to 300 printable"),
    "a target of two lines": (changed(target="a:b\nc"), "target: expected up to 300 printable"),
    "a target that is long": (changed(target="a/" * 5000 + "b.py:c"), "target: expected up to 300"),
    "a tensor with an escape": (changed(tensor="\x1b]0;o\x07"), "tensor: expected up to 300 printable"),
    "a place of many digits": (changed(place="token " + "9" * 5000), "place: expected up to 300"),
    "a version with an escape": (changed(versions={"torch": "\x1b[2J"}), "versions: expected up to 300"),
    "a backend of its own": (changed(lane="gpu; true"), "lane: expected interpret or gpu"),
    # sizes
    "a billion heads": (with_case(H=10**9, HV=10**9), "lens, tail and heads: "),
    "a trillion tokens": (with_case(lens=[10**12]), "lens, tail and heads: "),
    "a trillion tokens of padding": (with_case(tail=10**12), "lens, tail and heads: "),
    "many sequences": (
        with_case(lens=[0] * 90_000, H=64, HV=64, K=256, V=256, pool={"indices": [-1] * 90_000}),
        "lens, tail and heads: ",
    ),
    "a pool of 2**62 slots": (nested("pool", {"slots": 2**62}), "pool.slots and pool.pitch: "),
    "slots far apart": (nested("pool", {"slots": 2, "pitch": 2**60}), "pool.slots and pool.pitch: "),
    "a slot past the pool": (nested("pool", {"indices": [7]}), "pool.indices: -1 to 0, got (7,)"),
    "a step buffer without end": (
        changed(
            operation="gdn.verify",
            case={**TREE, "parents": [], "pool": {**TREE["pool"], "steps": 2**40, "buffer": 2**20}},
        ),
        "pool.buffer and pool.steps: ",
    ),
    "an unshrunk case without end": (
        changed(unshrunk={**FINDING.case.to_json(), "lens": [2**50]}),
        "unshrunk: lens, tail and heads: ",
    ),
    "a scale that no float holds": (nested("values", {"v_exponent": 10**9}), "no float holds 2**1000000000"),
    "an edit past the end": (with_edit("q", 32), "is outside of q, which has 32 elements"),
    "an edit before the start": (with_edit("v", -1), "is outside of v"),
    "an edit of no tensor": (with_edit("__dict__", 0), "has no tensor '__dict__'"),
    # trees
    "a token that is its own parent": (with_tree(-1, 1, 1), "parents: -1 first, then earlier tokens"),
    "two tokens that are each other's": (with_tree(-1, 2, 1), "parents: -1 first, then earlier tokens"),
    "a tree without a root": (with_tree(0, 0, 0), "parents: -1 first, then earlier tokens"),
    "a parent far away": (with_tree(-1, 0, 2**40), "parents: -1 first, then earlier tokens"),
    # traces
    "a loop with too much memory": (
        with_trace(slots=256, HV=256, K=256, V=256),
        "trace: slots, rows and draft: ",
    ),
    "a loop with too many steps": (
        with_trace(steps=[{"act": "arrive", "requests": [0]}] * 20_000),
        "trace: steps: at most 400",
    ),
    "a loop of its own acts": (
        with_trace(steps=[{"act": "__init__", "requests": [0]}]),
        "trace: steps[0]: act: expected one of",
    ),
    "a trace of another case": (with_trace(seed=7), "case: not the last call of the trace"),
    # not files
    "a folder": (lambda path: path.mkdir(), "not a plain file"),
    "a pipe": (os.mkfifo, "not a plain file"),
    "a socket": (listening, "No such device or address"),
    "a device without end": (lambda path: path.symlink_to("/dev/zero"), "not in "),
    "a link out of the folder": (linked_out, "not in "),
    "a link to nothing": (lambda path: path.symlink_to("gone.json"), "No such file or directory"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "Too many levels of symbolic links"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A corpus folder beside nothing else, in the current directory."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return Path("strange")


def seen(folder: Path) -> list[tuple[str, float, float]]:
    return sorted((str(path), *path.lstat()[6:9:2]) for path in folder.resolve().parent.rglob("*"))


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line_and_nothing_else_happens(
    folder: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    put, reason = HOSTILE[what]
    folder.mkdir()
    path = folder / "x.json"
    put(path)
    before = seen(folder)
    tracemalloc.start()
    with pytest.raises(CorpusError) as caught:
        Corpus(folder).findings()
    assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    tracemalloc.stop()
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert reason in message
    assert message.isprintable()
    assert len(message) < 400
    for line, out in (("replay strange", ""), ("corpus prune --yes strange", "")):
        assert run(line.split()) == 2
        assert capsys.readouterr() == (out, f"diffgdn: {message}\n")
    assert run(["corpus", "list", "strange"]) == 2
    assert capsys.readouterr() == (f"no finding: {message}\n0 findings in strange, 1 other\n", "")
    assert seen(folder) == before


def test_a_device_is_not_read_wherever_it_lies() -> None:
    with pytest.raises(CorpusError, match="/dev/zero: not a plain file"):
        parse.read(Path("/dev/zero"))


def test_the_name_of_a_file_cannot_write_to_a_screen(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    holding(b"{")(folder / "\x1b[2J\na.json")
    holding(WHOLE)(folder / "\x1b[3J\nb.json")
    assert run(["corpus", "list", "strange"]) == 2
    shown = capsys.readouterr().out
    assert shown.replace("\n", "").isprintable()
    assert r"no finding: strange/\x1b[2J\na.json: not JSON" in shown
    assert r"  \x1b[3J\nb  beyond_bound" in shown


def test_a_message_cannot_write_to_a_screen(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It may say anything, as an exception of a kernel may; what is shown is text."""
    changed(message="wrong\x1b]52;c;eA==\x07\u202e\ud800\nsecond")(folder / "x.json")
    assert run(["corpus", "show", "strange/x.json"]) == 0
    shown = capsys.readouterr().out
    assert r"  wrong\x1b]52;c;eA==\x07\u202e\ud800" + "\n  second\n" in shown


def test_any_message_of_ours_is_saved_and_reads_back(folder: Path) -> None:
    """File names that are no text reach messages as lone surrogates, compilers write in colours."""
    ours = Finding(FINDING.case, "eager", "gpu", "raised", "OSError: \udcff \x1b[31mred\x1b[0m \0 ünï")
    assert parse.read(Corpus(folder).save(ours)) == ours


def test_a_long_target_leaves_room_for_the_rest_of_a_file_name(folder: Path) -> None:
    ours = Finding(FINDING.case, "a/" * 140 + "b.py:c", "gpu", "relation_broken.permuted", "no", "o")
    assert parse.read(Corpus(folder).save(ours)) == ours


def test_an_edit_of_the_last_element_is_within(folder: Path) -> None:
    case = Case(op="gdn.decode", lens=(2,), tail=1, edits=(Edit("q", 47, 2.0), Edit("a", 2, 0.5)))
    ours = Finding(case, "eager", "interpret", "beyond_bound", "no", "o")
    assert parse.read(Corpus(folder).save(ours)) == ours
