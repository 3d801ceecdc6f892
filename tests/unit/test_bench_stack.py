"""The stack of layers that the bench times as a whole."""

from __future__ import annotations

from typing import cast

import pytest
import torch

from diffgdn.bench import floors, shapes
from diffgdn.bench.shapes import StackShape
from diffgdn.bench.stack import Stack
from diffgdn.targets import FunctionTarget, get
from diffgdn.tensors import inputs
from diffgdn.tensors.arena import Arguments
from diffgdn.tensors.layout import arrange

TINY = {shape.op: shape for shape in shapes.stacks(tiny=True)}


def arguments_of(shape: StackShape, layout: str) -> Arguments:
    return arrange(shape.case, inputs.draw(shape.case), "cpu", layout)


def stack(shape: StackShape, layout: str = "vk") -> Stack:
    return Stack(cast(FunctionTarget, get(layout)), shape, arguments_of(shape, layout))


def states(one: Stack, name: str) -> list[torch.Tensor]:
    return [layer.given[name] for layer in one._layers]


def test_qwen3_next_s_stack_is_timed_in_decode_and_in_prefill() -> None:
    found = {shape.name: shape for shape in shapes.stacks()}
    assert {"stack.decode 1x1 16/32", "stack.decode 64x1 16/32", "stack.extend 1x8192 16/32"} <= set(found)
    assert {(shape.layers, shape.hidden, shape.case.K) for shape in found.values()} == {(36, 2048, 128)}


@pytest.mark.parametrize("op", TINY)
def test_both_layouts_say_the_same(op: str) -> None:
    """Up to what bf16 leaves of the sums of one layer in the next."""
    first, second = (stack(TINY[op], layout).step().float() for layout in ("vk", "kv"))
    assert first.isfinite().all()
    assert (first - second).abs().max() <= 2**-5 * first.abs().max()
    assert first.std() > 0.5


@pytest.mark.parametrize(
    ("op", "pool"), [("stack.decode", "initial_state_source"), ("stack.extend", "initial_state")]
)
def test_each_layer_has_states_of_its_own(op: str, pool: str) -> None:
    shape = TINY[op]
    arguments = arguments_of(shape, "vk")
    one = Stack(cast(FunctionTarget, get("vk")), shape, arguments)
    before = arguments["state"].clone()
    one.step()
    first, second = states(one, pool)
    assert torch.equal(arguments["state"], before)
    assert not torch.equal(first, before)
    assert not torch.equal(first, second)


def test_a_second_step_goes_on_from_the_states_of_the_first() -> None:
    one = stack(TINY["stack.decode"])
    assert not torch.equal(one.step(), one.step())


@pytest.mark.parametrize("op", TINY)
def test_its_floor_counts_the_weights_that_it_has(op: str) -> None:
    shape = TINY[op]
    layers = stack(shape)._layers
    numbers = sum(one.qkvz.numel() + one.ab.numel() + one.back.numel() for one in layers)
    case = shape.case
    assert shape.moved == 2 * numbers + len(layers) * floors.state_bytes(case)
    assert shape.formed == 2 * numbers * case.total + len(layers) * floors.flops(case)
