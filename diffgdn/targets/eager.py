"""Computes the operations in plain PyTorch, in the input precision: what a reader would write first.

States and steps are rounded to the dtype of q after every operation (fp32 where k or v have another), gates
are computed in fp32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from diffgdn.cases.case import Case
from diffgdn.cases.operand_options import dtype_of
from diffgdn.cases.operations import OPERATIONS
from diffgdn.cases.promises import ZERO, Promises
from diffgdn.reference.noise import Contract
from diffgdn.tensors.arena import Arguments
from diffgdn.tensors.inputs import DTYPE
from diffgdn.tensors.results import results_of

L2NORM_EPS = 1e-6


class Eager:
    """A target over all operations and both backends."""

    name = "eager"
    layout = "vk"
    operations = tuple(OPERATIONS)
    heads_compiled = False  # nothing is compiled
    # It reads indices on the CPU: no graph holds it.
    promises = Promises(tail_output=ZERO, execution=("eager", "stream", "device"))
    batch_invariant = False  # torch's softplus and sigmoid on a CPU round otherwise at a tensor's end

    def contract(self, op: str) -> Contract:
        return Contract(operand="input", accumulator="input", state="input")

    def configurations(self, op: str) -> int:
        return 1

    def refuses(self, case: Case, backend: str) -> str | None:
        return None

    def run(self, case: Case, arguments: Arguments) -> dict[str, Tensor]:
        q, k, v = _rows(case, arguments)
        g, beta = _gates(case, arguments)
        out = torch.zeros(case.tokens, case.HV, case.V, dtype=DTYPE[case.dtype], device=v.device)
        finals, boundaries = [], []
        slots, places, flags = _slots(case, arguments), _places(case, arguments), arguments.get("has_initial")
        for n, length in enumerate(case.lens):
            start = case.starts[n]
            part = slice(start, start + length)
            states, before, o = _sequence(
                case,
                n,
                _initial(case, arguments, -1 if flags is not None and not flags[n] else slots[n]),
                q[part],
                k[part],
                v[part],
                g[part],
                beta[part],
            )
            out[part] = 0 if case.operation.single_token and slots[n] < 0 else o
            boundaries += before
            finals.append(states[-1])
            if case.operation.commits:
                _commit(case, arguments, n, slots[n], places[n], states)
            else:
                _store(case, arguments, slots[n], places[n], states)
            _track(case, arguments, n, before)
        shape = arguments["out"].shape if case.operation.single_token else arguments["v"].shape
        results = {"o": out.view(shape)} if case.state_options.output else {}
        if case.operation.single_token:
            arguments["out"].copy_(results["o"])
        returned = {"final": finals, "boundary": boundaries}
        for result in results_of(case):
            if result.name in returned and result.sure:
                parts = returned[result.name]
                whole = torch.stack(parts) if parts else v.new_empty(result.shape)
                results[result.name] = whole.to(DTYPE[result.dtype])
        return results


def _dtype(case: Case) -> torch.dtype:
    """Choose the dtype that all is computed in: that of q, or fp32, which holds what any of them has."""
    mixed = any(dtype_of(case, name) != case.dtype for name in "kv")
    return torch.float32 if mixed else DTYPE[case.dtype]


def _rows(case: Case, arguments: Arguments) -> tuple[Tensor, Tensor, Tensor]:
    """Take q, k [tokens, HV, K] and v [tokens, HV, V] from the arguments, normalised and repeated over the
    groups, in the working dtype."""
    if case.operation.single_token:
        wide = case.H * case.K
        q, k, v = torch.split(arguments["mixed_qkv"], [wide, wide, case.HV * case.V], dim=-1)
    else:
        q, k, v = arguments["q"], arguments["k"], arguments["v"]
    q, k, v = (x.to(_dtype(case)) for x in (q, k, v))
    q, k = q.reshape(case.tokens, case.H, case.K), k.reshape(case.tokens, case.H, case.K)
    if case.l2norm:
        q, k = (
            x * torch.rsqrt((x.float() ** 2).sum(-1, keepdim=True) + L2NORM_EPS).to(x.dtype) for x in (q, k)
        )
    group = case.HV // case.H
    return (
        q.repeat_interleave(group, 1),
        k.repeat_interleave(group, 1),
        v.reshape(case.tokens, case.HV, case.V),
    )


def _gates(case: Case, arguments: Arguments) -> tuple[Tensor, Tensor]:
    """Compute the decay exp(g) [tokens, HV, 1 or K] and beta [tokens, HV], in the working dtype; g is a
    natural log, computed in fp32."""
    dtype, (decay, *given) = _dtype(case), case.decay_and_beta
    g = arguments[decay].float().reshape(case.tokens, case.HV, case.K if case.operation.is_kda else 1)
    if case.raw_gates:
        g = _log_decay(case, arguments, g)
    beta = torch.ones(case.tokens, case.HV, dtype=dtype, device=g.device)
    if given:
        beta = arguments[given[0]].reshape(case.tokens, case.HV)
    if case.raw_beta:
        beta = torch.sigmoid(beta.float()) * (2.0 if case.operands.neg_eigval else 1.0)
    return torch.exp(g).to(dtype), beta.to(dtype)


def _log_decay(case: Case, arguments: Arguments, x: Tensor) -> Tensor:
    """Compute the natural log decay of raw gates x [tokens, HV, 1 or K], in fp32."""
    rate = torch.exp(arguments["A_log"].float()).view(case.HV, 1)
    bias = arguments.get("dt_bias")
    if bias is not None:
        x = x + bias.float().view(case.HV, -1)
    if case.gates.lower_bound is not None:
        return case.gates.lower_bound * torch.sigmoid(rate * x)
    return -rate * F.softplus(x, case.operands.softplus_beta, case.operands.softplus_threshold)


def _read_indices(case: Case, arguments: Arguments, name: str) -> list[Any]:
    """Read the caller's slots or rows of each sequence; its own number if no tensor is given."""
    tensor = arguments.get(name)
    return list(range(len(case.lens))) if tensor is None else tensor.tolist()


def _slots(case: Case, arguments: Arguments) -> list[int]:
    """Read the slot that each sequence starts from."""
    slots, accepted = _read_indices(case, arguments, "indices"), arguments.get("accepted")
    if accepted is None or case.operation.commits:
        return slots
    return [row[count - 1] for row, count in zip(slots, accepted.tolist(), strict=True)]


def _places(case: Case, arguments: Arguments) -> list[Any]:
    """Read the slots of each sequence's tokens, or its row in the buffer, which may be that of its slot."""
    by_slot = case.state_options.slots or case.state_options.step_rows == "slots"
    return _read_indices(case, arguments, "indices" if by_slot else "rows")


def _initial(case: Case, arguments: Arguments, slot: int) -> Tensor:
    """Copy the state [HV, V, K] of a slot to the working dtype; zero for slot -1 or if there is no state."""
    dtype, shape = _dtype(case), (case.HV, case.V, case.K)
    state = arguments.get("state")
    if state is None or slot < 0:
        return torch.zeros(shape, dtype=dtype, device=arguments.arena.device)
    return state[slot].to(dtype, copy=True)


def _sequence(
    case: Case, n: int, S: Tensor, q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Compute the recurrence over one sequence.

    S [HV, V, K]; q, k [length, HV, K]; v [length, HV, V]; decay [length, HV, 1 or K]; beta [length, HV].
    Returns states [HV, V, K] (the initial one, then one after each token), states before each chunk, and
    outputs [length, HV, V].
    """
    states, before, outputs = [S], [], []
    parents = case.parents[n] if case.parents else range(-1, len(q) - 1)
    for t, parent in enumerate(parents):
        if t % case.chunk_size == 0:
            before.append(states[-1])
        S = states[parent + 1] * decay[t].unsqueeze(-2)
        d = beta[t].unsqueeze(-1) * (v[t] - (S * k[t].unsqueeze(-2)).sum(-1))
        S = S + d.unsqueeze(-1) * k[t].unsqueeze(-2)
        states.append(S)
        outputs.append(case.effective_scale * (S * q[t].unsqueeze(-2)).sum(-1))
    return states, before, torch.stack(outputs) if outputs else v


def _store(case: Case, arguments: Arguments, slot: int, place: Any, states: list[Tensor]) -> None:
    """Write a sequence's states to the pool and the buffer, in place, as far as the case asks for it."""
    if len(states) == 1:
        return
    if case.has_buffer and place >= 0:
        arguments["buffer"][place, : len(states) - 1] = torch.stack(states[1:])
    elif case.keeps_steps and not case.has_buffer and slot >= 0:
        for own, S in zip(place, states[1:], strict=False):
            if own >= 0:
                arguments["state"][own] = S.to(arguments["state"].dtype)
    if case.writes_state and slot >= 0:
        arguments["state"][slot] = states[-1].to(arguments["state"].dtype)


def _commit(case: Case, arguments: Arguments, n: int, slot: int, row: int, states: list[Tensor]) -> None:
    """Write the state after a sequence's last accepted step to its slot, unless its row is negative."""
    count, path = int(arguments["accepted"][n]), arguments.get("path")
    if count and slot >= 0 and row >= 0:
        last = count - 1 if path is None else int(path[n, count - 1])
        arguments["state"][slot] = states[last + 1].to(arguments["state"].dtype)


def _track(case: Case, arguments: Arguments, n: int, before: list[Tensor]) -> None:
    """Copy out the state before the chunk of a sequence that the caller names."""
    chunks = arguments.get("track_chunk")
    if chunks is not None and 0 <= int(chunks[n]) < len(before):
        arguments["track"][n] = before[int(chunks[n])].float()
