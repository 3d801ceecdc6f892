"""Which device kernels are launched on: that of the tensors, whichever is current in the caller's thread."""

from contextlib import nullcontext

import torch


def current(device):
    """Return a context in which `device` is the current one; one that does nothing for the CPU."""
    return nullcontext() if device.type == "cpu" else torch.get_device_module(device).device(device)
