"""Errors of correct kernels on an H100, each once a false alarm: the bound allows them now."""

import pytest

from diffgdn.cases.case import Case, Gates, Pool, Values
from diffgdn.cases.sparsity import Only
from diffgdn.reference import noise
from diffgdn.targets.base import default_contract
from diffgdn.tensors import inputs

SEEN = [
    (
        Case(
            op="gdn.recurrent",
            lens=(100, 100),
            H=3,
            HV=6,
            K=48,
            V=17,
            pool=Pool(indices=()),
            gates=Gates(law="uniform", strength=0.0078125, beta="uniform"),
            values=Values(law="normal", seed=1),
            packed=False,
            view="gapped",
            only=(
                Only(tensor="q", tokens=((0, 29), (36, 125), (132, 191), (193, 199))),
                Only(tensor="k", tokens=((0, 29), (36, 125), (132, 191), (193, 199))),
                Only(tensor="v", tokens=((0, 29), (36, 125), (132, 191), (193, 199)), V=((0, 2), (4, 16))),
                Only(tensor="state", V=((0, 2), (4, 16))),
            ),
        ),
        "o",
        (168, 4, 6),
        3.34e-07,
    ),
    (
        Case(
            op="kda.recurrent",
            lens=(98,),
            H=6,
            HV=6,
            K=128,
            V=128,
            dtype="bfloat16",
            pool=Pool(indices=()),
            gates=Gates(law="uniform", strength=0.0078125),
            values=Values(law="parallel"),
            l2norm=True,
            only=(
                Only(tensor="q", tokens=(79, 82, 84), heads=(1, 4)),
                Only(tensor="k", tokens=(79, 82, 84), heads=(1, 4)),
                Only(
                    tensor="v",
                    tokens=(79, 82, 84),
                    heads=(1, 4),
                    V=((2, 3), (8, 19), (24, 27), (30, 31), (48, 63), (96, 103), (108, 111)),
                ),
                Only(
                    tensor="state",
                    heads=(1, 4),
                    V=((2, 3), (8, 19), (24, 27), (30, 31), (48, 63), (96, 103), (108, 111)),
                ),
            ),
        ),
        "state",
        (0, 4, 51, 54),
        3.17e-06,
    ),
    (
        Case(
            op="kda.verify",
            K=64,
            V=33,
            dtype="bfloat16",
            pool=Pool(pitch=1, steps=1, buffer=1, rows=(0,)),
            gates=Gates(law="huge"),
            values=Values(law="zero_rows", v_exponent=17),
            view="packed",
            only=(
                Only(tensor="q", tokens=()),
                Only(tensor="k", tokens=()),
                Only(tensor="v", tokens=()),
                Only(tensor="g", K=(20,)),
                Only(tensor="state", V=(29,), K=(20,)),
            ),
        ),
        "steps",
        (0, 0, 29, 20),
        1.31e-36,
    ),
    (
        Case(
            op="kda.extend",
            lens=(245, 1),
            K=48,
            V=48,
            pool=Pool(slots=2, indices=(0, 1)),
            values=Values(law="parallel", seed=1),
            cu_dtype="int64",
            index_dtype="int64",
            view="gapped",
            chunk_size=32,
            boundary=True,
            only=(
                Only(tensor="q", tokens=()),
                Only(tensor="k", tokens=((0, 6), (14, 29), (60, 72))),
                Only(tensor="v", tokens=()),
                Only(tensor="state", V=(19,)),
            ),
        ),
        "boundary",
        (6, 0, 19, 34),
        1.46e-06,
    ),
    (
        Case(
            op="kda.extend",
            lens=(63,),
            H=3,
            HV=3,
            K=255,
            V=255,
            dtype="bfloat16",
            gates=Gates(law="uniform", strength=0.125, beta="zero"),
            values=Values(law="normal", seed=214),
            cu_dtype="int64",
            index_dtype="int64",
            inplace=False,
            only=(
                Only(tensor="q", tokens=()),
                Only(tensor="k", tokens=()),
                Only(tensor="v", tokens=()),
                Only(
                    tensor="state",
                    heads=(1,),
                    V=((63, 65), 68, (72, 77), (81, 83), (91, 92), 108, 112, (120, 124)),
                    K=((15, 56), (95, 104), (120, 141), (149, 204), (212, 254)),
                ),
            ),
        ),
        "state",
        (0, 1, 83, 21),
        2.18e-08,
    ),
    (
        # One channel: nothing to pool with, and two roundings had cancelled in all eight samples.
        Case(
            op="kda.recurrent",
            lens=(2,),
            H=6,
            HV=18,
            K=1,
            V=64,
            dtype="bfloat16",
            pool=Pool(indices=()),
            gates=Gates(beta="uniform", dtype="bfloat16"),
            values=Values(law="uniform", seed=30),
            packed=False,
            scale=0.5,
        ),
        "state",
        (0, 4, 48, 0),
        6.84e-08,
    ),
    (
        # Cumulative gates of a scan in the form of a tree, each with roundings of its own.
        Case(
            op="gdn.extend",
            lens=(0, 84),
            H=2,
            HV=6,
            K=256,
            V=256,
            pool=Pool(slots=9, indices=(0, 8), pitch=64, dtype="bfloat16"),
            gates=Gates(law="underflow", strength=0.0078125, beta="uniform"),
            values=Values(law="normal", seed=1, v_exponent=6, state="zero"),
            tail=129,
            scale=1.0,
            batch_invariant=True,
        ),
        "o",
        (55, 3, 249),
        1.65e-05,
    ),
    (
        # In fp16, v_new exp(G_last - G) is among the smallest numbers where k exp(G_last - G) is not.
        Case(
            op="gdn.extend",
            lens=(2, 2),
            H=4,
            HV=8,
            K=100,
            V=100,
            dtype="float16",
            pool=Pool(slots=2, indices=(0, 1), dtype="bfloat16"),
            gates=Gates(law="model", strength=4.0),
            values=Values(law="zero_rows", seed=119, state="zero"),
            packed=False,
            view="packed",
            l2norm=True,
            only=(
                Only(tensor="q", tokens=()),
                Only(tensor="k", tokens=(2,), heads=(3,), K=(96,), value=1.0),
                Only(tensor="v", tokens=(2,), heads=(7,), V=(60,)),
                Only(tensor="g", tokens=(3,), heads=(7,)),
            ),
        ),
        "state",
        (1, 7, 60, 96),
        1.5e-08,  # and the rounding to bf16
    ),
]


@pytest.mark.parametrize(
    ("case", "result", "index", "error"), SEEN, ids=lambda value: getattr(value, "op", "")
)
def test_an_error_that_was_seen_is_within_limit_noises(
    case: Case, result: str, index: tuple[int, ...], error: float
) -> None:
    data = inputs.draw(case)
    noises = noise.measure(case, data, default_contract(case.op))[result]
    assert error < noise.MAX_SIGMAS * float(noises[index]) + noise.TINY
