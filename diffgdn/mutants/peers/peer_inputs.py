"""From a peer's test to tensors: drawn by its laws, from a seed, the same on every machine."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from diffgdn.mutants.peers.peer_test import Draw, Gate, PeerTest

SEED = 42


@dataclass(frozen=True)
class Inputs:
    """The tensors of one call. B is 1 where sequences are packed, N is how many there are.

    q, k [B, T, H, K]; v [B, T, HV, V]; g [B, T, HV] or, for Kimi delta attention, [B, T, HV, K], raw with
    A_log; beta [B, T, HV], raw if the test says so; A_log [HV]; dt_bias [HV] or [HV * K]; state [N, HV, V, K]
    or the pool [slots, HV, V, K] that indices [N] names places in; cu_seqlens [N + 1].
    """

    q: Tensor
    k: Tensor
    v: Tensor
    g: Tensor
    beta: Tensor
    state: Tensor
    A_log: Tensor | None = None
    dt_bias: Tensor | None = None
    indices: Tensor | None = None
    cu_seqlens: Tensor | None = None

    @property
    def first(self) -> Tensor:
        """The state that each sequence starts from, [N, HV, V, K]; zeros where it is padding."""
        if self.indices is None:
            return self.state
        named = self.state[self.indices.clamp(min=0).long()]
        return torch.where((self.indices >= 0)[:, None, None, None], named, torch.zeros_like(named))

    def fresh(self, everything: bool) -> Inputs:
        """Return the same with a state of its own, for a call that writes there; or with all copied."""
        if not everything:
            return replace(self, state=self.state.clone())
        return Inputs(*(None if x is None else x.clone() for x in vars(self).values()))  # type: ignore[arg-type]


def draw(test: PeerTest, device: str = "cpu") -> Inputs:
    """Draw the tensors of a test."""
    source = torch.Generator().manual_seed(SEED)

    def make(law: Draw, *shape: int) -> Tensor:
        return _tensor(law, shape, test.dtype, source).to(device)

    N = len(test.lens)
    B, T = (1, sum(test.lens)) if test.packed else (N, test.lens[0])
    kda = test.operation.startswith("kda.")
    inner = (test.HV, test.K) if kda else (test.HV,)
    q, k = (make(law, B, T, test.H, test.K) for law in (test.q, test.k))
    v = make(test.v, B, T, test.HV, test.V)
    dtype = getattr(torch, test.dtype)
    if test.unit:
        k = F.normalize(k, p=2, dim=-1).to(dtype)
        q = F.normalize(q, p=2, dim=-1).to(dtype) if test.unit == "qk" else q
    g = _masked(test.gate, make(test.gate.draw, B, T, *inner), source)
    beta = make(test.beta, B, T, test.HV)
    A_log = None if test.gate.rate is None else make(test.gate.rate, test.HV)
    dt_bias = None if test.gate.bias is None else make(test.gate.bias, test.HV * (test.K if kda else 1))
    if test.gate.outside:
        assert A_log is not None
        g, A_log, dt_bias = log_decay(test.gate, g, A_log, dt_bias, torch.float32).to(dtype), None, None
    g, beta = (
        x if x.dtype in (q.dtype, torch.float32) else x.float() for x in (g, beta)
    )  # as kernels here ask
    if test.split:
        g, beta = _views(g.flatten(2), beta)
        g = g.unflatten(2, inner)
    slots, indices = test.slots, None
    state = make(test.state, N if slots is None else slots.count, test.HV, test.V, test.K)
    if slots is not None:
        indices = _order(slots.order, slots.count, N, source).to(device)
        if slots.others is not None:
            named = torch.zeros(slots.count, dtype=torch.bool, device=device)
            named[indices[indices >= 0].long()] = True
            state[~named] = slots.others
    cu_seqlens = None
    if test.packed:
        ends = torch.tensor([0, *test.lens]).cumsum(0)
        cu_seqlens = ends.to(torch.int32).to(device)
    return Inputs(q, k, v, g, beta, state, A_log, dt_bias, indices, cu_seqlens)


def log_decay(gate: Gate, g: Tensor, A_log: Tensor, dt_bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Activate a raw gate in a dtype: -exp(A_log) softplus(g + dt_bias), or the bounded gate.

    g: [B, T, HV] or [B, T, HV, K].
    """
    heads = (-1, 1) if g.ndim == 4 else (-1,)
    rate = A_log.to(dtype).exp().reshape(heads)
    x = g.to(dtype)
    if dt_bias is not None:
        x = x + dt_bias.to(dtype).reshape(g.shape[2:])
    if gate.lower_bound is not None:
        return gate.lower_bound * torch.sigmoid(rate * x)
    return -rate * F.softplus(x)


def _tensor(law: Draw, shape: tuple[int, ...], dtype: str, source: torch.Generator) -> Tensor:
    """Draw a tensor in fp32, and round it before it is activated, as a test that draws in its dtype does."""
    kind = getattr(torch, law.dtype or dtype)
    if law.law == "zeros":
        return torch.zeros(shape, dtype=kind)
    if law.law == "randn":
        x = torch.randn(shape, generator=source)
    else:
        x = torch.rand(shape, generator=source)
    if law.law == "rate":
        x = torch.log(1 + 15 * x)
    x = x.to(kind) * law.times + law.plus
    if law.then:
        x = torch.sigmoid(x) if law.then == "sigmoid" else F.logsigmoid(x)
    return x / law.over


def _masked(gate: Gate, g: Tensor, source: torch.Generator) -> Tensor:
    """Set shares of the entries to 0 and to -1000, and clamp."""

    def chosen(share: float) -> Tensor:
        return (torch.rand(g.shape, generator=source) <= share).to(g.device)

    if gate.zeros:
        g = torch.where(chosen(gate.zeros), torch.zeros_like(g), g)
    if gate.deep:
        g = torch.where(chosen(gate.deep), torch.full_like(g, -1000.0), g)
    return g.clamp(-5, 0) if gate.clamp else g


def _views(g: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """Lay a and b [B, T, n] side by side in memory, as the two halves of a projection."""
    apart = [torch.cat((x, torch.zeros_like(x)), dim=-1)[..., : x.shape[-1]] for x in (g, beta)]
    return apart[0], apart[1]


def _order(order: str | tuple[int, ...], count: int, N: int, source: torch.Generator) -> Tensor:
    """Return the slot of each sequence, int32."""
    if order == "shuffled":
        return torch.randperm(count, generator=source)[:N].to(torch.int32)
    if order == "ascending":
        return torch.arange(N, dtype=torch.int32)
    return torch.tensor(order, dtype=torch.int32)
