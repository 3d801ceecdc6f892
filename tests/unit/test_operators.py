"""Operators: mistakes that are made at every place of a source."""

from __future__ import annotations

import ast
import re
import zlib
from collections import Counter
from textwrap import dedent, indent

import pytest

from diffgdn import targets
from diffgdn.mutants import kernel_sources
from diffgdn.mutants.catalogue import MUTANTS
from diffgdn.mutants.equivalent import EQUIVALENT, NOT_LOOKED_AT
from diffgdn.mutants.generated import OPERATORS, file_of, generated, operator_of, sample
from diffgdn.mutants.kernel_sources import chosen, served, sources
from diffgdn.mutants.mutant import DeadMutant, Mutant, Spot
from diffgdn.mutants.mutant_targets import name_of
from diffgdn.mutants.operators import functions, mutants_of
from diffgdn.targets import calls

# By function: of what its mutants change that are told of, as they were when they were read.
READ = {
    "device.sigmoid": "4f059e56",
    "device.softplus": "452ee10c",
    "draft_calls._heads": "87f996ff",
    "fold.fold_kernel": "9671a396",
    "fold.launch_fold": "817ab44e",
    "gates.kda_gate_kernel": "0a24f65d",
    "gates.log2_cumsum": "e4708896",
    "inverse.diagonal_blocks": "62fdac04",
    "inverse.invert": "bf395ba1",
    "inverse.merge": "351bdb9b",
    "normalise.l2norm_kernel": "b00b342a",
    "normalise.normalise": "2a61870d",
    "output.output_kernel": "07b7ae0e",
    "packed_decode._packed_decode": "8f2eb140",
    "pipeline.run": "9b0537da",
    "pool_calls.check_pool": "ecba52a7",
    "recurrent.recurrent_kernel": "3101c69c",
    "recurrent_launch.is_aligned": "30d414a1",
    "recurrent_launch.launch": "b78d024e",
    "recurrent_steps.ancestors": "3ad64ff0",
    "recurrent_steps.change_places": "e41838cf",
    "recurrent_steps.decayed": "8a282f37",
    "recurrent_steps.gate_weights": "bfbdd1a5",
    "recurrent_steps.read": "74df33d0",
    "recurrent_steps.read_state": "1a4bd1bb",
    "recurrent_steps.replay": "69ed1897",
    "recurrent_steps.row": "68e3db9f",
    "recurrent_steps.state_offsets": "d1105012",
    "recurrent_steps.walk": "6bd0a70e",
    "recurrent_steps.write": "6891e249",
    "recurrent_steps.write_change": "856a3ee3",
    "recurrent_steps.write_state": "adcf7b1c",
    "sequences.fused_recurrent_gated_delta_rule": "77ad97b2",
    "sequences.fused_recurrent_kda": "caac399b",
    "state.state_kernel": "d2aba265",
    "state.state_pass": "f50a536f",
    "step_changes.rows_of": "91fcadb7",
    "strides.chunk_and_head": "9be5bc09",
    "strides.in_units": "3dae174e",
    "tile_table.chunk_table": "42ed4acf",
    "tile_table.chunk_table_kernel": "9e44640e",
    "wy_gdn.wy_gdn_kernel": "dab0404d",
    "wy_kda.wy_kda_kernel": "e6c04c33",
}

HEAD = "@triton.jit\ndef kernel(p_x, p_s, HV, G, s_t: tl.int64, s_h: tl.int64, K: tl.constexpr):\n"
LAUNCHER = "def launch(x, h, H, HV):\n"

# Of each operator: a line, and the lines that it becomes.
DEVICE = {
    "drop-mask": ("b_x = tl.load(p_x, mask=m, other=0)", ["b_x = tl.load(p_x)"]),
    "negate-mask": ("tl.store(p_x, b_x, mask=a & b)", ["tl.store(p_x, b_x, mask=~(a & b))"]),
    "drop-condition": ("m = a[:, None] & (o < K)", ["m = (a[:, None])", "m = (o < K)"]),
    "off-by-one": ("m = (a < K) | (b >= 1)", ["m = (a <= K) | (b >= 1)", "m = (a < K) | (b > 1)"]),
    "skip-last": ("for i in range(1, n, 4): f(i)", ["for i in range(1, n - (4), 4): f(i)"]),
    "skip-first": ("for i in range(n): f(i)", ["for i in range(0 + (1), n, 1): f(i)"]),
    "one-round-more": ("for i in range(n): f(i)", ["for i in range(0, n + (1), 1): f(i)"]),
    "guard-always": ("if i_n > 0: return", ["if True: return"]),
    "guard-never": ("if i_n > 0: return", ["if False: return"]),
    "ignore-option": ("if KV: b_x = b_y", ["if False: b_x = b_y"]),
    "drop-where": ("b_x = tl.where(m, b_y, 0.0)", ["b_x = (b_y)"]),
    "drop-clamp": ("n = tl.minimum(a, b)", ["n = (a)", "n = (b)"]),
    "swap-strides": ("o = i * s_t + j * s_h", ["o = i * s_h + j * s_t"]),
    "swap-axes": ("b_x = tl.permute(b_x, (0, 2, 1))", ["(2, 0, 1)", "(0, 1, 2)"]),
    "wrong-axis": ("s = tl.sum(b_x, 1)", ["s = tl.sum(b_x, 0)"]),
    "h-for-hv": ("i_h = n // G", ["i_h = (n)"]),
    "wrong-slot": ("i_n = 1; p = p_x + slot * s_t", ["p_x + (slot + 1) * s_t", "p_x + i_n * s_t"]),
    "stale-pointer": ("p_x += i * s_t", ["p_x += 0 * (i * s_t)", "p_x += 2 * (i * s_t)"]),
    "stale-tile": ("for i in r: b = tl.load(p_x + i)", ["for i in r: b = tl.load(p_x + 0)"]),
    "swap-parents": ("b = f(parent)", ["b = f((parent - 1))"]),
    "drop-int64": ("o = tl.load(p_x).to(tl.int64)", ["o = (tl.load(p_x))"]),
    "drop-decay": ("b_s *= tl.exp2(b_g)[:, None]", ["b_s *= 1.0"]),
    "double-decay": ("b_s = b_s * tl.exp(b_g)", ["b_s = b_s * ((tl.exp(b_g)) * (tl.exp(b_g)))"]),
    "drop-scale": ("b_o = b_o * scale", ["b_o = b_o * 1.0"]),
    "double-scale": ("b_o = b_o * scale", ["b_o = b_o * ((scale) * (scale))"]),
    "drop-beta": ("b_d = b_d * b_beta[:, None]", ["b_d = b_d * 1.0"]),
    "double-beta": ("b_d = b_d * b_beta", ["b_d = b_d * ((b_beta) * (b_beta))"]),
    "exp-sign": ("b_e = tl.exp2(a - b)", ["b_e = tl.exp2(-(a - b))"]),
    "exp-base": ("b_e = tl.exp2(a)", ["b_e = tl.exp(a)"]),
    "narrow-operand": ("b = b.to(tl.float32)", ["b = (b)", "b = b.to(tl.bfloat16)"]),
    "narrow-sum": ("b = dot(x, y)", ["b = (dot(x, y)).to(tl.bfloat16).to(tl.float32)"]),
    "wrong-initial": ("b = tl.full([K], 0.0, tl.float32)", ["b = tl.full([K], 1.0, tl.float32)"]),
    "plus-minus": ("b_x = b_y + 1", ["b_x = b_y - 1"]),
    "swap-factors": ("b = dot(x, y)", ["b = dot(y, x)"]),
}
HOST = {
    "floor-for-ceil": ("n = triton.cdiv(T, 16)", ["n = ((T) // (16))"]),
    "narrow-workspace": ("o = new(dtype=torch.float32)", ["o = new(dtype=torch.bfloat16)"]),
    "drop-option": (
        "launch(x, h0=h, scale=s, kv=kv)",
        ["launch(x, scale=s, kv=kv)", "launch(x, h0=h, scale=s)"],
    ),
}


def lines(operator: str, head: str, line: str) -> list[str]:
    """What an operator makes of a function of one line."""
    text = head + indent(dedent(line), "    ") + "\n"
    (code,) = functions("some.py", text)
    made = [mutant for mutant in mutants_of(code, "*") if operator_of(mutant.id) == operator]
    assert [mutant.id for mutant in made] == [
        f"{operator}@some.{code.node.name}.{n + 1}" for n in range(len(made))
    ]
    new = [mutant.apply("some.py", text) for mutant in made]
    assert all(one.startswith(head) for one in new)
    return [one.removeprefix(head).strip() for one in new]


def test_every_operator_has_an_example() -> None:
    assert sorted(OPERATORS) == sorted(DEVICE | HOST)


@pytest.mark.parametrize("name", DEVICE)
def test_what_an_operator_makes_of_a_line_of_a_kernel(name: str) -> None:
    line, expected = DEVICE[name]
    made = lines(name, HEAD, line)
    assert len(made) == len(expected)
    assert all(words in one for words, one in zip(expected, made, strict=True))


@pytest.mark.parametrize("name", HOST)
def test_what_an_operator_makes_of_a_line_of_a_launcher(name: str) -> None:
    line, expected = HOST[name]
    assert lines(name, LAUNCHER, line) == expected


def test_heads_are_taken_for_each_other() -> None:
    assert lines("h-for-hv", HEAD, "o = i * HV") == ["o = i * (HV // G)"]
    assert lines("h-for-hv", HEAD, "i_h = i_hv = 0; f(i_h)")[-1].endswith("f(i_hv)")
    assert lines("h-for-hv", LAUNCHER, "grid = (H, HV)") == ["grid = (HV, HV)", "grid = (H, H)"]


def test_strides_of_a_launcher_are_swapped_tensor_by_tensor() -> None:
    line = "f(*strides(q), *strides(k), *x.stride(), y)"
    assert lines("swap-strides", LAUNCHER, line) == [
        "f(*strides(k), *strides(q), *x.stride(), y)",
        "f(*strides(q), *x.stride(), *strides(k), y)",
    ]


def test_a_pointer_that_a_helper_moves_is_left_or_moved_twice() -> None:
    assert lines("stale-pointer", HEAD, "p_x = row(p_x, s_t, A)") == [
        "p_x = row(p_x, 0 * (s_t), A)",
        "p_x = row(p_x, 2 * (s_t), A)",
    ]
    assert lines("stale-pointer", HEAD, "p_y = row(p_x, s_t, A)") == []


def test_what_does_not_compute_is_left_as_it_is() -> None:
    """Docstrings, annotations, checks of arguments, what raises, and files of such."""
    assert lines("wrong-initial", HEAD, '"""x = 0"""') == []
    for line in ("n = check.size(n < 0)", "if n < 0: raise ValueError", "check_all(n < 0)"):
        assert lines("off-by-one", LAUNCHER, line) == []
    assert functions("arguments.py", LAUNCHER + "    return H < HV\n") == ()
    checker = LAUNCHER.replace("launch", "_check_pool")
    assert lines("off-by-one", checker, "n = H < HV; return H > HV") == ["n = H < HV; return H >= HV"]


def test_what_is_done_for_one_layout_alone_is_run_in_it() -> None:
    body = """
    if KV:
        p_h += a * s_t
    else:
        p_h += b * s_h
    n = V if kv else K
    run(g, kv=kv)
    launch(g, kv=kv)
    """
    (code,) = functions("some.py", HEAD + indent(dedent(body), "    "))
    (launcher,) = functions("some.py", LAUNCHER + indent(dedent(body), "    "))
    layouts = {
        (operator_of(mutant.id), mutant.edits[0].old): mutant.layout
        for mutant in (*mutants_of(code, "*"), *mutants_of(launcher, "*"))
    }
    assert layouts["ignore-option", "KV"] == layouts["ignore-option", "kv"] == "kv"
    assert layouts["stale-pointer", "a * s_t"] == layouts["drop-option", ", kv=kv"] == "kv"
    assert layouts["stale-pointer", "b * s_h"] == "vk"


def test_a_mutant_for_one_layout_is_a_target_of_that_layout() -> None:
    target = targets.get(name_of("ignore-option@state.state_pass.1"))
    assert target.layout == "kv"
    assert set(target.operations) == set(targets.get("kv").operations)
    assert targets.get(name_of("drop-scale@output.output_kernel.1")).layout == "vk"


def test_what_is_within_loops_and_conditions_is_seen() -> None:
    line = """
    while a < 1:
        if b < 2:
            n = c < 3
        else:
            n = d < 4
    """
    assert len(lines("off-by-one", HEAD, line)) == 4


def test_names_outlive_edits_of_other_functions() -> None:
    text = HEAD + "    m = a < K\n    n = b < K\n"
    before = [mutant.id for code in functions("some.py", text) for mutant in mutants_of(code, "*")]
    other = "def other():\n    return 1 < 2\n\n\n"
    codes = [code for code in functions("some.py", other + text) if code.node.name == "kernel"]
    assert [mutant.id for code in codes for mutant in mutants_of(code, "*")] == before
    assert before == ["off-by-one@some.kernel.1", "off-by-one@some.kernel.2"]


def test_a_spot_must_hold_what_it_says() -> None:
    def changed(*spots: Spot) -> str:
        return Mutant("one", "", "", spots).apply("a.py", "x = 1 + 1\n")

    assert changed(Spot("a.py", 8, "1", "22"), Spot("a.py", 4, "1", "333")) == "x = 333 + 22\n"
    with pytest.raises(DeadMutant, match=re.escape("one: a.py does not hold the anchor at 5")):
        changed(Spot("a.py", 5, "1", "2"))
    with pytest.raises(DeadMutant, match="changes nothing"):
        changed(Spot("a.py", 4, "1", "1"))


def test_every_generated_mutant_changes_one_file_and_compiles() -> None:
    plain = sources()
    trees = {file: ast.dump(ast.parse(text)) for file, text in plain.items()}
    for name, mutant in generated().items():
        assert mutant.id == name
        assert re.fullmatch(r"[a-z0-9-]+@\w+\.\w+\.\d+", name)
        assert {edit.file for edit in mutant.edits} == {file_of(mutant)}
        changed = mutant.apply(file_of(mutant), plain[file_of(mutant)])
        tree = ast.parse(changed)
        assert ast.dump(tree) != trees[file_of(mutant)], name
        compile(tree, name, "exec")
        assert chosen(mutant.operations)


def test_there_are_many_of_every_operator_and_kernel() -> None:
    made = generated()
    assert len(made) >= 300
    assert not set(made) & set(MUTANTS)
    assert {operator_of(name) for name in made} == set(OPERATORS)
    kernels = {code.name for file, text in sources().items() for code in functions(file, text) if code.device}
    mutated = {name.partition("@")[2].rpartition(".")[0] for name in made}
    assert kernels - mutated <= {"device.rate_of"} | {one for one in kernels if not _has_a_place(one)}
    assert {one for one in kernels if one.endswith("_kernel")} <= mutated


def _has_a_place(kernel: str) -> bool:
    """Whether any operator finds something in a function: helpers of one plain line have nothing."""
    plain = ("device.dot", "device.dot_add", "device.softplus_gate", "device.bounded_gate")
    handed_on = ("split_inverse.cut_dot", "column_grid.grid_tokens", "column_grid.grid_columns")
    return kernel not in (*plain, *handed_on)


def test_a_mutant_that_is_equivalent_exists_and_says_why() -> None:
    assert {*EQUIVALENT, *NOT_LOOKED_AT} <= set(generated())
    assert not set(EQUIVALENT) & set(NOT_LOOKED_AT)
    assert all(len(reason) > 20 for reason in {*EQUIVALENT.values(), *NOT_LOOKED_AT.values()})


def what_was_read() -> dict[str, str]:
    """By function, a checksum of what its mutants change that are told of as equivalent or not looked at."""
    texts: dict[str, list[str]] = {}
    for name in sorted({*EQUIVALENT, *NOT_LOOKED_AT}):
        function = name.partition("@")[2].rpartition(".")[0]
        about = re.sub(r", line \d+", "", generated()[name].about)
        texts.setdefault(function, []).append(f"{name}: {about}")
    return {one: f"{zlib.crc32(chr(10).join(lines).encode()):08x}" for one, lines in texts.items()}


def test_what_is_told_of_a_mutant_is_told_of_what_it_changes_now() -> None:
    """Numbers count within a function: after an edit of one, a name may be that of another mutant. Read those
    of a function again that is other here, and then write its new checksum down.
    """
    assert what_was_read() == READ


def test_a_sample_is_spread_and_the_same_for_a_seed() -> None:
    made = list(generated().values())
    few = sample(made, 40, 3)
    assert few == sample(made, 40, 3)
    assert few != sample(made, 40, 4)
    assert set(few) < set(sample(made, 80, 3))
    counts = Counter(operator_of(mutant.id) for mutant in few)
    assert len(counts) == len(OPERATORS)
    assert len({file_of(mutant) for mutant in few}) >= 8
    assert sorted(mutant.id for mutant in sample(made, len(made), 3)) == sorted(mutant.id for mutant in made)


@pytest.mark.parametrize(
    ("function", "operations"),
    [
        ("chunk/state.py:state_kernel", "gdn.extend, kda.extend"),
        ("chunk/wy_kda.py:wy_kda_kernel", "kda.extend"),
        ("packed_decode.py:_packed_decode", "gdn.packed_decode, kda.packed_decode"),
        ("device.py:l2norm", "*"),
        ("device.py:bounded_gate", "kda.*"),
    ],
)
def test_a_function_serves_the_operations_whose_entry_reaches_it(function: str, operations: str) -> None:
    file, _, name = function.partition(":")
    texts = sources()
    found = served(file, f"{file.removesuffix('.py').split('/')[-1]}.{name}", texts)
    assert chosen(found) == chosen(operations)


def test_the_entries_are_where_operations_are_called() -> None:
    texts = sources()
    for operation, function in calls.FUNCTIONS.items():
        (file,) = (file for file, patterns in kernel_sources.ENTRIES.items() if operation in chosen(patterns))
        assert f"\ndef {function}(" in texts[file]


def test_what_serves_fewer_operations_exists() -> None:
    texts = sources()
    names = {code.name for file, text in texts.items() for code in functions(file, text)}
    assert set(kernel_sources.NARROWER) <= names | set(texts)
