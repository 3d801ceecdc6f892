"""Repro scripts: they fail while the kernel is wrong, pass once it is right, and need diffgdn for the kernel
alone.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from diffgdn import targets
from diffgdn.cases.case import Case, Gates, Pool, Values
from diffgdn.findings import repro
from diffgdn.findings.finding import Finding
from diffgdn.findings.repro import inline, literals, standalone

# A user's kernel: plain PyTorch behind SGLang's keyword arguments, right or wrong by an environment variable.
KERNEL = """
import os
import torch
from diffgdn.targets import target

BUG = os.environ.get("BUG", "")

@target("gdn.recurrent", name="mine")
def mine(q, k, v, g, beta, scale, initial_state, output_final_state, cu_seqlens, use_qk_l2norm_in_kernel):
    o, spans = torch.empty_like(v), cu_seqlens.tolist()
    final = torch.empty_like(initial_state)
    for n, (start, stop) in enumerate(zip(spans, spans[1:])):
        S = initial_state[n].double()
        for t in range(start, stop):
            S = S * g[0, t].double().exp()[:, None, None] * (1.01 if BUG == "value" and t > start else 1)
            d = beta[0, t, :, None].double() * (v[0, t].double() - (S * k[0, t].double()[:, None]).sum(-1))
            S = S + d[:, :, None] * k[0, t].double()[:, None]
            if BUG != "hole":
                o[0, t] = scale * (S * q[0, t].double()[:, None]).sum(-1)
        final[n] = S
    if BUG == "input":
        k[0, 0, 0, 0] += 1
    if BUG == "guard":
        q.as_strided((1,), (1,), q.storage_offset() - 1).zero_()
    if BUG == "raise":
        raise RuntimeError("no such tile")
    if BUG == "twice":
        mine.calls = getattr(mine, "calls", 0) + 1
        o *= 1 + 1e-7 * mine.calls
    return o, final
"""
# What stands for `target` where there is no diffgdn.
ALONE = """
import types

def target(op, name):
    return lambda function: types.SimpleNamespace(functions={op: function})
"""
CASE = Case(
    op="gdn.recurrent",
    lens=(2, 0, 3),
    H=2,
    HV=2,
    K=3,
    V=5,
    pool=Pool(indices=()),
    gates=Gates(law="uniform", beta="uniform"),
    values=Values(law="normal", seed=3),
    scale=0.5,
    tail=1,
    view="packed",
    chunk_size=16,
)


TWICE_SEED = 0  # with it, the interpreter makes the call of CASE twice


def finding(case: Case, target: str, kind: str = "beyond_bound") -> Finding:
    return Finding(
        case,
        target,
        "interpret",
        kind,
        'got """1""", expected 2\\n',
        "o",
        "(sequence 2, token 1, head 0, V 3)",
    )


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mykernel.py").write_text(KERNEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def execute(path: Path, bug: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "BUG": bug}
    return subprocess.run(
        [sys.executable, path.name],
        cwd=path.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_script_of_a_users_target_fails_and_shows_where(kernel: Path) -> None:
    path = repro.write(finding(CASE, "mykernel:mine"), kernel)
    assert path.name.endswith(f"{CASE.id}.py")
    done = execute(path, "value")
    assert done.returncode == 1, done.stderr
    assert re.search(r"^o \[token, head, V\]: \d+ of 50 elements are wrong$", done.stdout, re.MULTILINE)
    assert re.search(r"worst at \[\d, \d, \d\]: error \S+, bound \S+", done.stdout)
    assert re.search(r"^    got  .*\n    expected ", done.stdout, re.MULTILINE)
    assert done.stdout.endswith("WRONG\n")


def test_the_script_passes_once_the_kernel_is_right(kernel: Path) -> None:
    done = execute(repro.write(finding(CASE, "mykernel:mine"), kernel))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == "o [token, head, V]: 0 of 50 elements are wrong"
    assert done.stdout.endswith("right\n")


def test_the_script_needs_no_diffgdn(kernel: Path) -> None:
    """Torch, numpy, and the kernel: here one whose module does not import diffgdn either."""
    path = repro.write(finding(CASE, "mykernel:mine"), kernel)
    alone = KERNEL.replace("from diffgdn.targets import target\n", ALONE)
    (kernel / "mykernel.py").write_text(alone)
    without = f"import sys; sys.modules['diffgdn'] = None; exec(open({path.name!r}).read(), {{}})"
    for bug, code in (("", 0), ("value", 1)):
        done = subprocess.run(
            [sys.executable, "-c", without],
            cwd=kernel,
            env={**os.environ, "BUG": bug},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert done.stdout.endswith("WRONG\n" if bug else "right\n")


# In process, without the start of an interpreter: what the script itself does.
def run_here(source: str, capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    assert "TRITON_INTERPRET" in source
    try:
        with pytest.raises(SystemExit) as ended:
            exec(compile(source, "script", "exec"), {"__name__": "__main__"})
    finally:
        torch.use_deterministic_algorithms(False)
    return ended.value.code, capsys.readouterr().out


@pytest.mark.parametrize(
    ("bug", "kind", "said"),
    [
        ("hole", "never_written", "o [token, head, V]: 50 of 50 elements are wrong"),
        ("input", "input_changed", "qkv: memory at element 6 was changed"),
        ("guard", "guard_written", "qkv: memory at element -1 was changed"),
        ("raise", "raised", "the kernel raised RuntimeError: no such tile"),
        ("twice", "not_repeatable", "the same call twice gave different bits"),
    ],
)
def test_every_kind_of_failure_shows(
    kernel: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    bug: str,
    kind: str,
    said: str,
) -> None:
    monkeypatch.setenv("BUG", bug)
    monkeypatch.delitem(sys.modules, "mykernel", raising=False)
    case = replace(CASE, values=replace(CASE.values, seed=TWICE_SEED)) if bug == "twice" else CASE
    code, shown = run_here(repro.script(finding(case, "mykernel.py:mine", kind)), capsys)
    assert (code, said in shown) == (1, True), shown


POOLED: dict[str, Any] = {"H": 2, "HV": 4, "K": 5, "V": 3, "values": Values(law="normal", seed=9)}
CASES = {
    "extend": Case(
        op="gdn.extend",
        lens=(17, 0, 3),
        pool=Pool(slots=4, indices=(3, -1, 0), pitch=7),
        boundary=True,
        chunk_size=16,
        view="gapped",
        gates=Gates(law="model", beta="uniform"),
        tail=2,
        **POOLED,
    ),
    "kda extend from raw gates": Case(
        op="kda.extend",
        lens=(18,),
        pool=Pool(dtype="bfloat16"),
        l2norm=True,
        chunk_size=16,
        gates=Gates(law="model", raw=True, lower_bound=-5.0),
        boundary=True,
        **POOLED,
    ),
    "recurrent": Case(
        op="kda.recurrent",
        lens=(3, 3),
        pool=Pool(indices=()),
        packed=False,
        gates=Gates(law="uniform", beta="half"),
        **POOLED,
    ),
    "update with shared slots": Case(
        op="gdn.update",
        lens=(2, 1),
        inplace=False,
        gates=Gates(law="uniform"),
        pool=Pool(slots=3, indices=(2, 2), steps=2, buffer=2, rows=(1, 0)),
        **POOLED,
    ),
    "decode": Case(
        op="kda.decode",
        lens=(1, 0, 2),
        pool=Pool(slots=3, indices=(0, 2, -1)),
        index_dtype="int64",
        gates=Gates(law="model"),
        dtype="bfloat16",
        **POOLED,
    ),
    "packed_decode": Case(
        op="gdn.packed_decode",
        lens=(1, 1),
        pool=Pool(slots=3, indices=(2, -1)),
        view="gapped",
        gates=Gates(law="model"),
        **POOLED,
    ),
    "verify a tree": Case(
        op="gdn.verify",
        lens=(4, 2),
        pool=Pool(slots=2, indices=(0, 1), steps=5, buffer=3, rows=(2, -1)),
        parents=((-1, 0, 0, 1), (-1, 0)),
        gates=Gates(law="model"),
        **POOLED,
    ),
}


@pytest.mark.parametrize("target", ["vk", "kv"])
@pytest.mark.parametrize("name", CASES)
def test_our_own_kernels_pass_their_scripts(
    name: str, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    case = CASES[name]
    if target not in case.operation.layouts:
        pytest.skip(f"{case.op} has no {target} layout")
    source = repro.script(finding(case, target))
    imported = {node.module for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)}
    # the first for `interpreter`, if it is there
    assert {name for name in imported if str(name).startswith("diffgdn")} == {
        "diffgdn.backend",
        "diffgdn.kernels",
    }
    code, shown = run_here(source, capsys)
    assert (code, "are wrong" in shown) == (0, True), shown


def test_the_script_of_another_built_in_target_calls_that_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One made of functions, as the guide of targets makes one; here it does nothing."""
    built = targets.FunctionTarget("loop", {"gdn.decode": lambda v, **_: torch.zeros_like(v)})
    get = targets.get
    monkeypatch.setattr(targets, "names", lambda: ("vk", "loop"))
    monkeypatch.setattr(targets, "get", lambda name: built if name == "loop" else get(name))
    code, shown = run_here(repro.script(finding(Case("gdn.decode"), "loop")), capsys)
    assert (code, "WRONG" in shown) == (1, True), shown


def test_a_script_without_a_function_to_call_goes_through_diffgdn(capsys: pytest.CaptureFixture[str]) -> None:
    source = repro.script(finding(CASE, "eager"))
    code, shown = run_here('"TRITON_INTERPRET"\n' + source, capsys)
    assert (code, shown) == (0, "right\n")


@pytest.mark.parametrize("kind", ["beyond_bound", "relation_broken.heads"])
@pytest.mark.parametrize("target", ["vk", "eager"])
def test_text_of_a_finding_stays_text_in_its_script(kind: str, target: str) -> None:
    """A finding may come from a stranger; its script is run by a person."""
    text = '""" + planted() + """\\'
    finding = Finding(Case("gdn.decode"), target, "interpret", kind, text, text, text, versions={text: text})
    source = ast.parse(repro.script(finding))
    assert "planted()" in (ast.get_docstring(source) or "")
    assert "planted" not in {node.id for node in ast.walk(source) if isinstance(node, ast.Name)}


def test_a_pool_past_two_to_the_31_elements_takes_no_memory_in_the_script() -> None:
    case = Case(op="gdn.decode", pool=Pool(slots=9_000_000, indices=(8_999_999,)))
    source = repro.script(finding(case, "vk"))
    assert len(source) - len(inline.copied(standalone.__name__, repro.SHARED).text) < 10_000
    assert "state[8999999] = torch.full((1, 16, 16), 1.0, dtype=torch.float32)" in source


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int32, torch.int64],
)
@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (2, 3), (4, 2, 60), (3, 800)])
def test_a_literal_evaluates_to_the_same_bits(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 100
    if values.numel() > 2 and dtype.is_floating_point:
        values.view(-1)[:3] = torch.tensor([torch.nan, torch.inf, -0.0])
    names = {"torch": torch, "nan": torch.nan, "inf": torch.inf, "unpack": standalone.unpack}
    for tensor in (values.to(dtype), torch.full(shape, 3, dtype=dtype)):
        back = eval(literals.source(tensor), names)
        assert (back.dtype, back.shape) == (dtype, shape)
        assert torch.equal(back.nan_to_num(nan=5.0), tensor.nan_to_num(nan=5.0))
        assert torch.equal(back.signbit() | back.isnan(), tensor.signbit() | tensor.isnan())


def test_noise_is_written_bit_for_bit() -> None:
    """A bound made of other noise would be another bound."""
    noise = torch.rand(5000, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 1e-5
    noise[:3] = torch.tensor([torch.inf, 2.0**-120, 0.0])
    names = {"torch": torch, "nan": torch.nan, "inf": torch.inf, "unpack": standalone.unpack}
    for spread in (noise, noise[:7], noise.float()):
        written = eval(literals.noise(spread), names)
        assert written.dtype == spread.dtype
        assert torch.equal(written, spread)


INLINED = {
    "near": """
import math
import numpy as np
from typing import Any
from diffgdn_toy.far import LIMIT, helper

# What it is.
UNIT = LIMIT / 2
UNUSED = np.pi

def area(x: Any) -> float:
    return helper(x) * UNIT + math.pi
""",
    "far": "LIMIT = 4.0\n\n\ndef helper(x):\n    return x + LIMIT\n\n\ndef other():\n    return 0\n",
    "twin": "from diffgdn_toy.far import helper\nLIMIT = 1\n\ndef area(x):\n    return helper(LIMIT)\n",
    "renamed": "from diffgdn_toy.far import helper as h\n\ndef area(x):\n    return h(x)\n",
}


@pytest.fixture
def toy_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "diffgdn_toy").mkdir()
    for name, text in INLINED.items():
        (tmp_path / "diffgdn_toy" / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(inline, "PACKAGE", "diffgdn_toy")


@pytest.mark.usefixtures("toy_modules")
def test_what_is_copied_brings_what_it_needs_and_no_more() -> None:
    copied = inline.copied("diffgdn_toy.near", ("area",))
    assert copied.imports == "import math\nfrom typing import Any"
    assert "# What it is.\nUNIT" in copied.text
    names: dict[str, object] = {}
    exec(copied.imports + "\n" + copied.text, names)
    assert {"LIMIT", "helper", "UNIT", "area"} <= set(names)
    assert not {"UNUSED", "other", "np"} & set(names)


@pytest.mark.usefixtures("toy_modules")
@pytest.mark.parametrize(
    ("module", "message"), [("twin", "LIMIT is defined in"), ("renamed", "only `from module import name`")]
)
def test_what_cannot_be_copied_is_refused(module: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        inline.copied(f"diffgdn_toy.{module}", ("area",))
