"""Every format version of a finding, by an example in tests/corpus/formats that is never written again."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from diffgdn.cases import case, trace
from diffgdn.cases.case import Case, Edit, Gates, Pool, Values
from diffgdn.cases.lay import Lay
from diffgdn.cases.operand_options import Operands
from diffgdn.cases.prelude import Call
from diffgdn.cases.sparsity import Only
from diffgdn.cases.state_options import StateOptions
from diffgdn.cases.trace import Trace
from diffgdn.cases.trace_form import Form
from diffgdn.cases.trace_steps import Step
from diffgdn.findings import corpus, parse
from diffgdn.findings.finding import FORMAT_VERSION, Finding
from diffgdn.findings.parse import CorpusError

LATER = 99  # a version of the future
FORMATS = Path(__file__).parents[1] / "corpus" / "formats"
TRACE = Trace(
    family="gdn",
    steps=(
        Step("arrive", (0,)),
        Step("verify", (0, -1), lens=(2, 1), parents=((-1, 0), (-1,))),
        Step("commit", (0,), accepted=(1,)),
        Step("decode", (0,)),
    ),
    slots=2,
    dtype="bfloat16",
    law="uniform",
    seed=5,
)
ORDERED = Trace(family="gdn", steps=(Step("arrive", (0,)), Step("decode", (0,))), order="descending")
SNAPSHOTS = Trace(
    family="gdn",
    steps=(
        Step("arrive", (0,)),
        Step("extend", (0,), lens=(2,), chunks=(0,)),
        Step("fork", (1,), sources=(0,)),
        Step("verify", (1,), lens=(2,)),
        Step("verify", (1,), lens=(2,), accepted=(0,)),
        Step("drop", (0,)),
        Step("compact", ()),
    ),
    slots=4,
    chunk_size=16,
    form=Form(gate_dtype="float32", index_dtype="int64", view="gapped", scale=0.5, reserved=1),
    reuse=True,
    graphs=True,
)
EXAMPLES = {
    "finding-1-case-1": Finding(
        case=Case(
            op="kda.verify",
            lens=(3, 1),
            H=2,
            HV=4,
            K=5,
            V=3,
            dtype="bfloat16",
            pool=Pool(slots=4, indices=(3, -1), pitch=2, dtype="float16", steps=4, buffer=2, rows=(1, -1)),
            gates=Gates(law="jump", strength=0.5, at=1, beta="uniform", dtype="bfloat16", lower_bound=-5.0),
            values=Values(law="normal", seed=9, v_exponent=3, q_exponent=-2),
            tail=1,
            cu_dtype="int64",
            view="gapped",
            l2norm=True,
            scale=0.25,
            parents=((-1, 0, 0), (-1,)),
            edits=(Edit("q", 7, -4.0),),
        ),
        target="my_kernel.py:verify",
        backend="gpu",
        kind="beyond_bound",
        message="got 1, expected 2 – error 1 is 4 times the bound\nin a second line",
        tensor="steps",
        place="(sequence 0, token 2, head 1, V 0, K 4)",
        versions={"torch": "2.13.0", "device": "NVIDIA H100 80GB HBM3"},
        seed=2**63,
        found="2026-11-25",
        unshrunk=Case(op="kda.verify", lens=(9, 4), pool=Pool(2, (1, 0), steps=9, buffer=2, rows=(0, 1))),
    ),
    "finding-1-case-2": Finding(
        case=Case(
            op="gdn.extend",
            lens=(40,),
            pool=Pool(),
            values=Values(law="zero"),
            only=(Only("v", tokens=(3, (8, 15)), heads=(0,), value=1.0), Only("k", K=())),
            chunk_size=16,
            boundary=True,
        ),
        target="vk",
        backend="interpret",
        kind="relation_broken.split",
        message="it is wrong",
    ),
    "finding-1-trace-1": Finding(
        case=TRACE.last_call(),
        target="eager",
        backend="interpret",
        kind="slot_changed",
        message="step 3 (decode 0): it changed",
        tensor="state",
        place="slot 1",
        found="2026-11-25",
        trace=TRACE,
    ),
    "finding-2-case-1": Finding(
        case=Case("gdn.decode", dtype="bfloat16"),
        target="vk",
        backend="interpret",
        kind="beyond_bound",
        message="got 1.25, expected 0.25: error 1 is 5.47 times the bound 0.183",
        tensor="o",
        place="(sequence 0, token 0, head 0, V 0)",
        found="2026-11-27",
        prelude=(Call(Case("gdn.decode")), Call(Case("gdn.update", lens=(2,)), "split"), Call(TRACE)),
    ),
    "finding-2-case-2": Finding(
        case=Case("gdn.update"),
        target="my_kernel.py:update",
        backend="gpu",
        kind="crashed",
        message="the process that ran the kernel ended: killed by SIGKILL; not again in a fresh process",
        found="2026-11-27",
        reproduced=False,
    ),
    "finding-2-case-3": Finding(
        case=Case("gdn.extend", lens=(1, 1), pool=Pool(2, (0, 1)), chunk_size=16, order="shuffled"),
        target="my_kernel.py:extend",
        backend="interpret",
        kind="not_repeatable",
        message="the same call twice gave different bits",
        prelude=(Call(Case("gdn.decode")),),
    ),
    "finding-1-trace-2": Finding(
        case=ORDERED.last_call(),
        target="eager",
        backend="interpret",
        kind="slot_changed",
        message="step 1 (decode 0): it changed",
        trace=ORDERED,
    ),
    "finding-1-case-4": Finding(
        case=Case(
            "gdn.verify",
            lens=(2, 1),
            dtype="bfloat16",
            pool=Pool(slots=4, indices=(1, -1), dtype="bfloat16"),
            operands=Operands(v="float32", A_log="bfloat16", dt_bias="none", softplus_threshold=2.0),
            state_options=StateOptions(slots=((0, 1), (-1, -1)), accepted=(2, 1)),
            lay=(Lay("q", (0, 5, 0, 0), (0, 2, 1, 3), 16), Lay("A_log", (1,))),
            before=("new_values", "other_dtype"),
            execution="stream",
        ),
        target="my_kernel.py:verify",
        backend="gpu",
        kind="execution_differs",
        message="on a side stream it left other bits",
        tensor="o",
    ),
    "finding-1-case-5": Finding(
        case=Case(
            "kda.extend",
            pool=Pool(slots=2, indices=(1,)),
            gates=Gates("constant", raw=True),
            operands=Operands(beta="activated", beta_dtype="float32"),
            state_options=StateOptions(initial=(False,), track=(0,)),
            chunk_size=16,
        ),
        target="my_kernel.py:extend",
        backend="interpret",
        kind="beyond_bound",
        message="it is wrong",
        tensor="tracked",
    ),
    "finding-1-case-6": Finding(
        case=Case(
            "kda.verify_commit",
            lens=(3, 1),
            pool=Pool(slots=2, indices=(1, 0), steps=3, buffer=2, rows=(0, 1)),
            parents=((-1, 0, 0), (-1,)),
            state_options=StateOptions(accepted=(3, 0)),
        ),
        target="my_kernel.py:both",
        backend="gpu",
        kind="slot_changed",
        message="a slot of which nothing is accepted was written",
        tensor="state",
    ),
    "finding-1-trace-3": Finding(
        case=SNAPSHOTS.last_call(),
        target="eager",
        backend="interpret",
        kind="slot_changed",
        message="step 4 (verify 1): it changed",
        trace=SNAPSHOTS,
    ),
}


def files() -> dict[str, Path]:
    return {path.stem: path for path in FORMATS.glob("*.json")}


def test_each_version_that_can_be_read_has_an_example() -> None:
    assert set(files()) == set(EXAMPLES)
    found = [json.loads(path.read_text()) for path in files().values()]
    assert {data["format_version"] for data in found} == set(range(1, FORMAT_VERSION + 1))
    assert {data["case"]["format_version"] for data in found} == set(range(1, case.FORMAT_VERSION + 1))
    traces = {data["trace"]["format_version"] for data in found if "trace" in data}
    assert traces == set(range(1, trace.FORMAT_VERSION + 1))


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_reads_to_the_finding_it_was_written_from(name: str) -> None:
    assert parse.read(files()[name]) == EXAMPLES[name]


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_is_written_in_a_version_stays_as_it_was(name: str) -> None:
    """A change of the fields, their order or their spelling is a new version, with an example of its own."""
    assert corpus.content(EXAMPLES[name]) == files()[name].read_bytes()


@pytest.mark.parametrize(
    ("inside", "name", "reads"),
    [
        ((), "finding-1-case-1", "1 to 2"),
        (("case",), "finding-1-case-1", "1 to 5"),
        (("unshrunk",), "finding-1-case-1", "1 to 5"),
        (("trace",), "finding-1-trace-1", "1 to 3"),
    ],
)
def test_a_version_of_the_future_is_refused_by_number(
    tmp_path: Path, inside: tuple[str, ...], name: str, reads: str
) -> None:
    """Also where its other fields are unknown here: the version is what a person can act on."""
    data = json.loads(files()[name].read_text())
    part = data[inside[0]] if inside else data
    part |= {"format_version": LATER, "new": True}
    path = tmp_path / "later.json"
    path.write_text(json.dumps(data))
    where = "".join(f"{one}: " for one in inside)
    with pytest.raises(CorpusError) as caught:
        parse.read(path)
    assert str(caught.value) == f"{path}: {where}format_version: this diffgdn reads {reads}, got {LATER}"


@pytest.mark.parametrize("script", sorted((FORMATS / "scripts").glob("*.py")), ids=lambda path: path.stem)
def test_a_script_that_an_older_version_wrote_still_runs(script: Path) -> None:
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "right"), done.stderr
