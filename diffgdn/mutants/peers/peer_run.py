"""Runs a peer's test on kernels and says whether it fails, by its own criterion."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from diffgdn.backend import interpreter
from diffgdn.mutants.peers import peer_calls, peer_inputs
from diffgdn.mutants.peers.peer_test import Below, Close, Criterion, Finite, PeerTest, Ratio

# Rows of a state at a time in the interpreter, which would take 128: some states are cut, all are on a GPU.
TILE = 64


def failure(kernels: ModuleType, test: PeerTest, device: str = "cpu") -> str | None:
    """Say what a test finds wrong with kernels, in a few words; None if it passes.

    What kernels raise is a failure of the test.
    """
    x = peer_inputs.draw(test, device)
    try:
        with _cut(kernels) if device == "cpu" else nullcontext():
            wanted = peer_calls.expected(kernels, test, x)
            got = peer_calls.call(kernels, test, x)
    except Exception as error:
        return f"raised {type(error).__name__}"
    for name, criterion in test.criteria.items():
        wrong = broken(criterion, got[name], wanted.get(name))
        if wrong is not None:
            return f"{name}: {wrong}"
    return None


@contextmanager
def _cut(kernels: ModuleType) -> Iterator[None]:
    """Have the interpreter repaired, and states cut into tiles."""
    interpreter.repair()
    tiles: Any = import_module(f"{kernels.__name__}.tiles")
    before = tiles.override
    tiles.override = tiles.INTERPRETER._replace(BV=TILE)
    try:
        yield
    finally:
        tiles.override = before


def broken(criterion: Criterion, got: Tensor, wanted: Tensor | None) -> str | None:
    """Say how a result breaks a criterion; None if it does not. wanted: None if that is not compared."""
    got = got.double()
    if isinstance(criterion, Finite):
        return None if bool(torch.isfinite(got).all()) else "not finite"
    assert wanted is not None
    wanted = wanted.double().reshape(got.shape)
    apart = (wanted - got).abs()
    if isinstance(criterion, Close):
        return (
            None
            if torch.allclose(got, wanted, criterion.rtol, criterion.atol)
            else f"off by {_most(apart):.2g}"
        )
    if isinstance(criterion, Below):
        near = _most(apart) < criterion.largest and float(apart.mean()) < criterion.mean
        return None if near and bool(torch.isfinite(got).all()) else f"off by {_most(apart):.2g}"
    return _ratio(criterion, apart, wanted)


def _ratio(criterion: Ratio, apart: Tensor, wanted: Tensor) -> str | None:
    if _most(apart) <= criterion.least:
        return None
    ratio = float(apart.square().mean().sqrt() / (wanted.square().mean().sqrt() + 1e-8))
    return None if ratio < criterion.most else f"ratio {ratio:.2g}"


def _most(apart: Tensor) -> float:
    """The largest difference: NaN if any is, 0 of none."""
    return float(apart.max()) if apart.numel() else 0.0
