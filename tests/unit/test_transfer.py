"""Tensors that go to another device all at once."""

from __future__ import annotations

import torch

from diffgdn.tensors.transfer import move

TENSORS = {
    "half": torch.arange(3, dtype=torch.float16),
    "flag": torch.tensor(True),
    "turned": torch.arange(12, dtype=torch.float64).view(3, 4).T,
    "none": torch.empty(0, 7, dtype=torch.int64),
    "index": torch.arange(5, dtype=torch.int32),
}


def test_tensors_that_are_there_stay_as_they_are() -> None:
    assert all(move(TENSORS, "cpu")[name] is tensor for name, tensor in TENSORS.items())


def test_shapes_and_dtypes_arrive() -> None:
    there = move({**TENSORS, "there": torch.empty(2, device="meta")}, "meta")
    assert list(there) == [*TENSORS, "there"]
    for name, tensor in TENSORS.items():
        assert (there[name].shape, there[name].dtype) == (tensor.shape, tensor.dtype)
        assert there[name].device.type == "meta"
