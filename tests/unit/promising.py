"""Targets with narrow promises, for tests: one that is right, one wrong from three tokens on."""

from toys import Toy, nothing, off

from diffgdn.cases.promises import Promises
from diffgdn.cases.spans import Span

NARROW = Promises(
    dtype=("bfloat16",),
    K=(8, 32),
    V=(8, 32),
    ratio=(2,),
    view=("packed",),
    l2norm=(True,),
    length=Span(1, 6),
    empty=False,
    padding=False,
    scale=("default",),
)


class Promising(Toy):
    promises = NARROW


right, wrong = Promising("right", nothing), Promising("wrong", off)
