"""The noise of a case: first order against brute force, tiny results, empty batches."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from diffgdn.cases.case import Case, Edit, Gates, Pool, Values
from diffgdn.reference import noise, oracle, reference_kernel
from diffgdn.reference.noise import (
    bound,
    chunk_noise,
    denormals,
    draws,
    groups,
    perturbed,
    step_noise,
    sums,
    variances,
)
from diffgdn.reference.noise.operands import InputErrors
from diffgdn.reference.oracle import Exact, Expected, lanes
from diffgdn.reference.oracle import chunked as chunked_form
from diffgdn.reference.oracle import recurrence as form_by_step
from diffgdn.targets.base import default_contract
from diffgdn.tensors import inputs

TWO = Pool(slots=2, indices=(0, 1))
DENSE = Pool(indices=())
DRAFT = Pool(slots=2, indices=(0, 1), steps=6, buffer=2, rows=(0, 1))
TREES = ((-1, 0, 0, 1, 2, 0), (-1, 0, 1, 0, 3, 4))
ORDINARY: dict[str, Any] = dict(
    lens=(21, 34), H=1, HV=2, K=24, V=12, gates=Gates(law="uniform", beta="uniform"), values=Values("normal")
)
CASES = {
    "gdn.extend in bf16": Case(
        "gdn.extend", **ORDINARY, pool=TWO, dtype="bfloat16", l2norm=True, boundary=True, chunk_size=16
    ),
    "gdn.extend in fp32": Case("gdn.extend", **ORDINARY, pool=TWO, l2norm=True, chunk_size=16),
    "kda.extend in fp16": Case("kda.extend", **ORDINARY, pool=TWO, dtype="float16", l2norm=True),
    "gdn.recurrent": Case("gdn.recurrent", **ORDINARY, pool=DENSE, l2norm=True, dtype="bfloat16"),
    "kda.update": Case("kda.update", **ORDINARY, pool=TWO, l2norm=True),
    "gdn.verify of trees": Case(
        "gdn.verify", **(ORDINARY | dict(lens=(6, 6))), pool=DRAFT, l2norm=True, parents=TREES
    ),
    "kda.verify of chains": Case("kda.verify", **(ORDINARY | dict(lens=(6, 4))), pool=DRAFT, l2norm=True),
}


def measured(case: Case) -> dict[str, torch.Tensor]:
    data = inputs.draw(case)
    return noise.measure(case, data, default_contract(case.op))


@pytest.mark.parametrize("name", CASES)
def test_first_order_agrees_with_runs_under_perturbation(name: str) -> None:
    """Row by row: eight samples say too little about one element."""
    case = CASES[name]
    data = inputs.draw(case)
    truth, contract = oracle.expected(case, data), default_contract(case.op)
    squares = perturbed.mean_squares(case, data, truth, contract)
    for result, noises in measured(case).items():
        rounded = squares[result].mean(-1) > 0  # the state before the first chunk is as it was given
        ratio = (noises.square().mean(-1)[rounded] / squares[result].mean(-1)[rounded]).sqrt()
        assert 0.8 < float(ratio.median()) < 1.7, result
        assert float(ratio.min()) > 0.45, result


def test_states_of_trees_may_have_the_buffers_dtype_where_a_contract_says_so() -> None:
    """Not those of chains, with another contract, or an fp32 buffer; and that is the noise it adds."""
    reread = noise.Contract(reread_trees=True)
    tree = replace(CASES["gdn.verify of trees"], pool=replace(DRAFT, dtype="bfloat16"))
    chain = replace(CASES["kda.verify of chains"], pool=replace(DRAFT, dtype="bfloat16"))
    assert reread.dtype(tree, "state") is torch.bfloat16
    others = (
        reread.dtype(chain, "state"),
        reread.dtype(CASES["gdn.verify of trees"], "state"),
        default_contract(tree.op).dtype(tree, "state"),
        reread.dtype(tree, "accumulator"),
    )
    assert {*others} == {torch.float32}
    assert reread.sizes(chain)["state"].unit < 2.0**-20 < 2.0**-10 < reread.sizes(tree)["state"].unit
    data = inputs.draw(tree)
    rounded = reference_kernel.computed(tree, data, reread)["o"].double()
    error = (rounded - oracle.expected(tree, data).o).abs()
    wide, narrow = (noise.measure(tree, data, one)["o"] for one in (reread, default_contract(tree.op)))
    assert bool((error <= noise.MAX_SIGMAS * wide).all())
    assert float((error > noise.MAX_SIGMAS * narrow).double().mean()) > 0.5


@pytest.mark.parametrize("op", ["gdn.extend", "kda.extend", "gdn.update", "kda.update"])
def test_what_little_is_left_of_a_state_keeps_its_noise(op: str) -> None:
    """A gate of -64 in fp32 rounds by 64 half units of 1 at least, which is an error of that size relative to
    the state, however small the state is by then."""
    case = Case(op, gates=Gates(beta="zero"), edits=(Edit("g", 0, -64.0),), values=Values("normal"))
    state = oracle.expected(case, inputs.draw(case)).state
    noises = measured(case)["state"]
    decayed = state.abs() < 1e-25  # kda: one channel of the head
    assert decayed.any()
    assert float((noises / state.abs())[decayed].min()) > 20 * 2.0**-24


@pytest.mark.parametrize("op", ["gdn.extend", "kda.extend"])
def test_tokens_that_are_summed_onto_a_state_round_at_its_size(op: str) -> None:
    """A product may be added to the accumulator term by term; every token counts, however little it adds."""
    sizes = []
    for tokens in (1, 32):
        case = Case(op, lens=(tokens,), chunk_size=32, gates=Gates(beta="zero"), values=Values("normal"))
        state = oracle.expected(case, inputs.draw(case)).state.abs()
        sizes.append(float((measured(case)["state"] / state).median()))
    assert sizes[1] > 2.0 * sizes[0]


@pytest.mark.parametrize("op", ["gdn.extend", "kda.extend", "gdn.update", "kda.update"])
def test_a_decay_below_the_normal_numbers_may_be_taken_for_zero(op: str) -> None:
    """Large states show it: what is left of them is well above the least that is compared."""
    values = Values("normal", v_exponent=17)
    case = Case(op, gates=Gates(beta="zero"), edits=(Edit("g", 0, -88.0),), values=values)
    state = oracle.expected(case, inputs.draw(case)).state.abs()
    decayed = (state > noise.TINY) & (state < 1e-30)
    assert decayed.any()
    assert bool((noise.MAX_SIGMAS * measured(case)["state"] > state)[decayed].all())


@pytest.mark.parametrize(
    "case",
    [
        Case("gdn.verify", lens=(0,), pool=Pool(steps=1, buffer=1, rows=(0,))),
        Case("gdn.extend", lens=(0, 0), pool=TWO, boundary=True),
        Case("kda.recurrent", lens=(0,), pool=DENSE),
    ],
    ids=lambda case: case.op,
)
def test_a_batch_without_tokens_has_the_noise_of_nothing(case: Case) -> None:
    data = inputs.draw(case)
    reference = noise.reference(case, data, default_contract(case.op), reference_kernel.truth_dtypes(case))
    shapes = {name: truth.shape for name, truth in reference.truth.items().items()}
    assert {name: tensor.shape for name, tensor in reference.noise.items()} == shapes
    assert not reference.noise["o"].numel()


def test_sums_are_measured_where_squares_leave_the_range_of_float32() -> None:
    x = torch.tensor([[3e-25, 4e-25]])
    assert sums.lengths(x).item() == pytest.approx(5e-25, rel=1e-6)
    assert sums.evenness(x).item() == pytest.approx(49 / 50, rel=1e-6)
    assert sums.mean_square(x, 1).item() == pytest.approx(12.5e-50, rel=1e-6)


@pytest.mark.parametrize("power", [-124, -110, -60, 0, 20, 100])
def test_squares_of_one_slice_after_another_keep_their_range(power: int) -> None:
    """Down to a sixteenth of the least error that a bound lets pass."""
    x = torch.linspace(-1.5, 1.5, 2 * sums.FEW).view(8, 4, -1) * 2.0**power
    assert not sums.at_once(x)
    torch.testing.assert_close(sums.mean_square(x, 1), x.double().square().mean(1), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("before", [False, True])
def test_denormals_are_flushed_for_a_while(before: bool) -> None:
    def flushes() -> bool:
        return bool(torch.tensor(denormals.DENORMAL) * 1.0 == 0.0)

    if not torch.set_flush_denormal(before):
        pytest.skip("this processor cannot")
    try:
        with denormals.flushed():
            assert flushes()
        assert flushes() == before
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_zero_has_the_spacing_of_the_smallest_numbers(dtype: torch.dtype) -> None:
    """A result that is zero, and without noise, may be off by nothing that its format can show above that."""
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps  # the subnormals are its multiples
    x = torch.tensor([0.0, smallest, 1.0], dtype=torch.float64)
    assert noise.half_ulp(x, dtype).tolist() == [smallest / 2, smallest / 2, torch.finfo(dtype).eps / 2]


def narrow(seed: int) -> Case:
    gates, values = Gates(beta="uniform"), Values("uniform", seed)
    return Case("kda.recurrent", lens=(3,), H=2, HV=6, K=1, V=64, pool=DENSE, gates=gates, values=values)


def decayed_pairs(op: str, seed: int) -> Case:
    """Outputs that are what strong gates leave of a few pairs of tokens."""
    gates = Gates(law="underflow", strength=2.0**-7, beta="uniform")
    values = Values("normal", seed, v_exponent=6, state="zero")
    K = 16 if op == "gdn.extend" else 2
    return Case(op, lens=(24,), HV=4, K=K, V=16, chunk_size=32, gates=gates, values=values)


@pytest.mark.parametrize(
    ("name", "make", "result", "least"),
    [
        ("one channel", narrow, "state", 0.5),
        ("gdn.extend", lambda seed: decayed_pairs("gdn.extend", seed), "o", 0.48),
        ("kda.extend", lambda seed: decayed_pairs("kda.extend", seed), "o", 0.55),
    ],
)
def test_few_samples_never_say_far_less_than_many(
    monkeypatch: pytest.MonkeyPatch, name: str, make: Callable[[int], Case], result: str, least: float
) -> None:
    """Two errors that happen to cancel in all samples are a false alarm."""
    for seed in range(60):
        case = make(seed)
        few = measured(case)[result]
        with monkeypatch.context() as patch:
            patch.setattr(bound, "samples", lambda case, contract: 128)
            many = measured(case)[result]
        assert float((few / many).min()) > least, seed


def test_decays_that_are_near_each_other_err_alike_in_part() -> None:
    """The bias of an exponential over a stretch of its argument adds up over tokens: 64 decays are off by
    more than 8 times what one is."""
    sizes = []
    contract = noise.Contract(points=dict.fromkeys(set(noise.POINTS) - {"decay"}))
    for tokens in (1, 64):
        edits = tuple(Edit("g", t, -0.125 - t * 2.0**-20) for t in range(tokens))
        gates = Gates(beta="zero")
        case = Case("gdn.update", lens=(tokens,), K=4, V=4, gates=gates, edits=edits, values=Values("normal"))
        data = inputs.draw(case)
        truth = oracle.expected(case, data)
        noises = noise.measure(case, data, contract)["state"]
        sizes.append(float((noises / truth.state.abs()).mean()))
    assert sizes[1] > 12.0 * sizes[0]


def test_sums_in_the_form_of_a_tree_have_the_noise_of_one_at_least() -> None:
    """Cumulative gates in fp32, a strong one before weak ones, as a parallel scan adds them up: the decay
    between neighbours is off by the roundings of both, where a sum one after another has one in between."""
    generator = torch.Generator().manual_seed(1)
    g = -0.05 * torch.rand(400, 64, 1, generator=generator)
    g[:, 0] = -20.0 - torch.rand(400, 1, generator=generator)
    scanned, reach = g, 1
    while reach < g.shape[1]:
        scanned = scanned + torch.nn.functional.pad(scanned[:, :-reach], (0, 0, reach, 0))
        reach *= 2
    exact = g.double().cumsum(-2)
    contract, case = default_contract("gdn.extend"), Case("gdn.extend")
    decays = variances.Decays(exact, None, contract, contract.sizes(case))
    error = (scanned.double() - exact).diff(dim=1)
    ratio = error.square() / (decays.upper[:, 1:] - decays.lower[:, :-1])
    assert 0.8 < float(ratio.mean()) ** 0.5 < 1.3


@pytest.mark.parametrize("name", CASES)
def test_lanes_and_steps_a_few_at_a_time_change_nothing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Small cases are one group and one block otherwise. The truth is the same bit for bit, the noise but for
    other draws."""
    case = CASES[name]
    data, contract = inputs.draw(case), default_contract(case.op)
    whole = noise.reference(case, data, contract, [])
    monkeypatch.setattr(groups, "CACHED", 1)
    monkeypatch.setattr(step_noise, "BLOCK_STEPS", 3)
    parts = noise.reference(case, data, contract, [])
    for result, truth in whole.truth.items().items():
        assert torch.equal(parts.truth.items()[result], truth), result
        moved = whole.noise[result] > 0
        ratio = (parts.noise[result] / whole.noise[result])[moved]
        assert 0.9 < float(ratio.median()) < 1.1, result
        assert 0.2 < float(ratio.min()) < float(ratio.max()) < 5.0, result


def test_larger_blocks_along_the_diagonal_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU takes blocks of 32 tokens where a CPU takes 8. Of cumulative gates alone the errors are drawn by
    value, so that the noise is the same."""
    case = CASES["kda.extend in fp16"]
    contract = noise.Contract(chunked=True, points=dict.fromkeys(set(noise.POINTS) - {"cumulative"}))
    data = inputs.draw(case)
    truth = oracle.chunked_form(case, data)
    noises = noise.measure(case, data, contract)
    monkeypatch.setattr(chunked_form, "BLOCK", chunked_form.GPU_BLOCK)
    for result, again in oracle.chunked_form(case, data).items().items():
        torch.testing.assert_close(again, truth.items()[result], rtol=1e-12, atol=1e-14)
    for result, again in noise.measure(case, data, contract).items():
        torch.testing.assert_close(again, noises[result], rtol=1e-3, atol=0.0)


def test_draws_beyond_the_pool_differ_from_token_to_token() -> None:
    """A lane's tokens lie a power of two apart, and so do the pool's ends."""
    tokens = draws.Draws(8, 1, "cpu").fresh(3, draws.POOL_NUMBERS // 8)
    assert not torch.equal(tokens[:, 0], tokens[:, 1])
    assert not torch.equal(tokens[:, 1], tokens[:, 2])


def input_errors(batch: lanes.Lanes) -> InputErrors:
    generator = torch.Generator().manual_seed(1)
    beta = batch.beta.unsqueeze(-1)
    return InputErrors(
        *(
            1e-7 * torch.randn(8, *x.shape, generator=generator, dtype=torch.float64)
            for x in (batch.q, batch.k, batch.g, beta)
        )
    )


def by_differences(
    batch: lanes.Lanes, errors: InputErrors, run: Callable[[lanes.Lanes], tuple[torch.Tensor, ...]]
) -> list[torch.Tensor]:
    """Root mean squares over the samples of how far results move."""
    truth = run(batch)
    assert errors.q is not None
    assert errors.k is not None
    assert errors.g is not None
    assert errors.beta is not None
    squares = [torch.zeros_like(result) for result in truth]
    for q, k, g, beta in zip(errors.q, errors.k, errors.g, errors.beta, strict=True):
        moved = replace(
            batch,
            q=batch.q * (1.0 + q),
            k=batch.k * (1.0 + k),
            g=batch.g + g,
            beta=batch.beta * (1.0 + beta.squeeze(-1)),
        )
        for total, result, exact in zip(squares, run(moved), truth, strict=True):
            total += (result - exact).square() / 8
    return [total.sqrt() for total in squares]


@pytest.mark.parametrize("op", ["gdn.extend", "kda.extend"])
def test_errors_of_inputs_go_through_chunks_as_differences_do(
    op: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No rounding but those that come in: then each sample is a derivative, and a small difference in float64
    says what it has to be. Three chunks, of two blocks along the diagonal each."""
    case = Case(op, lens=(40,), H=1, HV=2, K=12, V=8, chunk_size=16, gates=ORDINARY["gates"])
    batch = lanes.make(case, inputs.draw(case), Exact())
    contract = noise.Contract(chunked=True, points=dict.fromkeys(noise.POINTS))
    errors, fresh = input_errors(batch), draws.Draws(8, 1, "cpu", torch.float64)
    monkeypatch.setattr(variances.Variances, "chunk", lambda *_: torch.zeros(()))
    follower = chunk_noise.Follower(case, batch, errors, contract, fresh, keep=True)
    o, _, _ = chunked_form.run(batch, Exact(), 16, follower.chunk)
    wanted = by_differences(batch, errors, lambda moved: chunked_form.run(moved, Exact(), 16))
    for square, root in zip(follower.finish(o), wanted, strict=True):
        torch.testing.assert_close(square.sqrt(), root, rtol=1e-4, atol=1e-13)


@pytest.mark.parametrize("op", ["gdn.verify", "kda.verify"])
@pytest.mark.parametrize("parents", [None, [[-1], [0], [0], [1], [2], [0], [3]]], ids=["chain", "tree"])
def test_errors_of_inputs_go_through_steps_as_differences_do(
    op: str, parents: form_by_step.Parents | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same of a recurrence, over three blocks of steps."""
    monkeypatch.setattr(step_noise, "BLOCK_STEPS", 3)
    case = Case(
        op,
        lens=(7,),
        H=1,
        HV=2,
        K=12,
        V=8,
        gates=ORDINARY["gates"],
        pool=Pool(slots=1, indices=(0,), steps=7, buffer=1, rows=(0,)),
    )
    batch = lanes.make(case, inputs.draw(case), Exact())
    contract = noise.Contract(points=dict.fromkeys(noise.POINTS))
    errors, fresh = input_errors(batch), draws.Draws(8, 1, "cpu", torch.float64)

    def run(moved: lanes.Lanes, follow: form_by_step.Follow | None = None) -> tuple[torch.Tensor, ...]:
        o, state, steps, _ = form_by_step.run(moved, Exact(), parents, keep=True, follow=follow)
        assert steps is not None
        return o, state, steps

    follower = step_noise.Follower(case, batch, errors, contract, fresh, parents, keep=True)
    run(batch, follower.step)
    for square, root in zip(follower.finish()[:3], by_differences(batch, errors, run), strict=True):
        assert square is not None
        torch.testing.assert_close(square.sqrt(), root, rtol=1e-4, atol=1e-13)


def pooled_state(square: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
    case, o = Case("gdn.decode"), torch.zeros(1, 1, 6, dtype=torch.float64)
    squares = Expected(o, square)
    return bound._pooled(case, Expected(o, state), squares, default_contract(case.op))["state"]


def test_an_element_whose_samples_cancel_has_the_noise_of_its_row_and_column() -> None:
    row, column = torch.linspace(1, 6, 6, dtype=torch.float64), torch.linspace(1, 5, 5, dtype=torch.float64)
    square = (row[:, None] * column).view(1, 1, 6, 5)
    wanted = square.sqrt()
    square = square.clone()
    square[0, 0, 2, 3] = 0.0
    ratio = pooled_state(square, torch.zeros_like(square)) / wanted
    assert 0.6 < float(ratio.min()) < float(ratio.max()) < 1.4


def test_an_element_that_stands_out_has_the_noise_of_its_row() -> None:
    """Where no other row has any: its column says nothing of it then."""
    square, state = torch.zeros(2, 1, 1, 6, 5, dtype=torch.float64)
    square[0, 0, 2], state[0, 0, 2] = 1.0, 0.1
    square[0, 0, 2, 3], state[0, 0, 2, 3] = 0.0, 1.0
    assert float(pooled_state(square, state)[0, 0, 2, 3]) == pytest.approx(0.8**0.5, rel=1e-6)


def test_a_case_is_exact_for_every_dtype_that_a_state_is_stored_in() -> None:
    """A state may be written in the pool's dtype and returned in another: one holds what the other rounds."""
    case = Case(
        op="gdn.recurrent",
        pool=Pool(indices=()),
        values=Values(law="exact"),
        edits=(Edit("state", 0, 257.0),),
    )
    data, contract = inputs.draw(case), default_contract(case.op)
    truth = oracle.expected(case, data)
    wide, narrow = ("state", torch.float32), ("state", torch.bfloat16)
    assert noise.is_exact(case, data, truth, contract, [wide])
    assert not noise.is_exact(case, data, truth, contract, [narrow, wide])
    assert not noise.is_exact(case, data, truth, contract, [wide, narrow])
