"""Calls vLLM's functions for a case, as its GDN and KDA layers call them.

Its slot 0 is the null block: an index of 0 or below is padding, whose states are left alone. Slots are moved
up by one (`null_slot`). Of a row of padding its kernels write no output, or the first token's: nobody reads
it there. Here it is the output of a zero state, so those rows come from a second call, over zero states of
their own. That padding leaves every state alone is seen in the first.

A table of slots [N, steps] has the slot of the state after each token. Where a sequence has several tokens
and one slot, each of them names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffgdn.cases.case import Case
from diffgdn.targets import calls
from diffgdn.targets.released.case_target import Call
from diffgdn.targets.released.dense_states import Batch
from diffgdn.targets.released.null_slot import Moved, moved_indices
from diffgdn.targets.released.package import Function, declared
from diffgdn.tensors.arena import Arguments

Given = dict[str, Any]


@dataclass(frozen=True)
class Rows:
    """The tokens of a batch as a function takes them.

    tokens: by name, [B, T, ...]. cu_seqlens [N + 1] or None. shape: of the caller's tokens, (B, T).
    """

    tokens: Mapping[str, Tensor]
    cu_seqlens: Tensor | None
    shape: tuple[int, int]

    @classmethod
    def of(cls, case: Case, arguments: Arguments, packs: bool) -> Rows:
        """Take the tokens of a case; packs: the function takes [1, tokens, ...] with cu_seqlens alone."""
        names = ("q", "k", "v", *case.decay_and_beta)
        tokens = {name: arguments[name] for name in names}
        decay = case.decay_and_beta[0]
        if case.operation.is_kda and tokens[decay].ndim == 3:
            tokens[decay] = tokens[decay].unflatten(-1, (case.HV, case.K))
        rows, length = tokens["q"].shape[:2]
        bounds = arguments.get("cu_seqlens")
        if bounds is None and packs:
            bounds = torch.arange(rows + 1, dtype=torch.int32, device=tokens["q"].device) * length
        if bounds is not None and rows != 1:
            tokens = {name: one.reshape(1, rows * length, *one.shape[2:]) for name, one in tokens.items()}
        return cls(tokens, bounds, (rows, length))

    def owners(self) -> Tensor:
        """Number the sequence of each token, [B * T]; N for a token behind the last one."""
        rows, length = self.shape
        device = self.tokens["q"].device
        places = torch.arange(rows * length, device=device)
        if self.cu_seqlens is None:
            return places // length
        return torch.bucketize(places, self.cu_seqlens[1:].contiguous(), right=True)


@dataclass(frozen=True)
class Slots:
    """Where states come from and go to: indices [N] or a table [N, steps], 0 or below for none.

    accepted [N]: a sequence starts from slot accepted - 1 of its row; None for the first.
    """

    indices: Tensor
    accepted: Tensor | None

    @classmethod
    def of(cls, case: Case, arguments: Arguments, alone: bool) -> Slots:
        """Take the slots of a case, moved up by one. alone: one index a sequence will do, as each has one
        token."""
        moved = moved_indices(arguments["indices"])
        if moved.ndim == 1 and not alone:
            moved = moved[:, None].repeat(1, max(1, *case.lens))
        return cls(moved, arguments.get("accepted"))

    def padded(self) -> Tensor:
        """Tell which sequences are padding, bool [N]."""
        return (self.indices <= 0).reshape(len(self.indices), -1).all(1)

    def of_padding(self) -> Slots:
        """Give padding slots of its own, sequence n slot n + 1, and the others none."""
        own = torch.arange(1, len(self.indices) + 1, device=self.indices.device) * self.padded()
        own = own.reshape(-1, *[1] * (self.indices.ndim - 1)).expand(self.indices.shape)
        return Slots(own.to(self.indices.dtype).contiguous(), None)


def steps(launch: Callable[[Case, Given, Rows, Slots, Tensor], Tensor], packs: bool) -> Call:
    """Make the call of a function that steps through sequences over a pool.

    launch: calls it with a batch, slots and a pool, and returns its output. packs: see `Rows.of`; such a
    function also takes one index a sequence only where each has exactly one token.
    """

    def call(case: Case, arguments: Arguments) -> dict[str, Tensor]:
        if case.has_buffer or not (case.inplace or case.keeps_steps):
            raise TypeError("adapter: states go to slots of the pool alone")
        given = calls.keywords(case, arguments)
        rows = Rows.of(case, arguments, packs)
        alone = max(case.lens) <= 1 and (not packs or rows.tokens["q"].shape[1] == len(case.lens))
        slots, moved = Slots.of(case, arguments, alone), Moved.of(arguments["state"])
        o = launch(case, given, rows, slots, moved.pool)
        moved.put_back()
        o = o.reshape(-1, case.HV, case.V)
        if any(slot < 0 for slot in case.pool.indices):
            zeros = moved.own.new_zeros(len(case.lens) + 1, *moved.own.shape[1:])
            other = launch(case, given, rows, slots.of_padding(), zeros).reshape(o.shape)
            padded = torch.cat([slots.padded(), slots.padded().new_zeros(1)])[rows.owners()]
            o = torch.where(padded[:, None, None], other, o)
        return {"o": o.reshape(*rows.shape, case.HV, case.V)}

    return call


def update(function: Function) -> Call:
    """Make the call of `fused_recurrent_gated_delta_rule`: gates and beta are given."""

    def launch(case: Case, given: Given, rows: Rows, slots: Slots, pool: Tensor) -> Tensor:
        decay, *beta = case.decay_and_beta
        out: Tensor = function(
            **{name: rows.tokens[name] for name in "qkv"},
            g=rows.tokens[decay],
            beta=rows.tokens[beta[0]] if beta else None,
            **_over(given, rows, slots, pool),
        )[0]
        return out

    return steps(launch, packs=False)


def sigmoid(function: Function) -> Call:
    """Make the call of `fused_sigmoid_gating_delta_rule_update`: gates and beta are raw."""

    def launch(case: Case, given: Given, rows: Rows, slots: Slots, pool: Tensor) -> Tensor:
        out: Tensor = function(
            **{name: rows.tokens[name] for name in ("q", "k", "v", "a", "b")},
            A_log=given["A_log"],
            dt_bias=given["dt_bias"],
            beta=given["softplus_beta"],
            threshold=given["softplus_threshold"],
            is_kda=case.operation.is_kda,
            **_over(given, rows, slots, pool),
        )[0]
        return out

    return steps(launch, packs=False)


def _over(given: Given, rows: Rows, slots: Slots, pool: Tensor) -> Given:
    """Collect what both functions of GDN are given beside tokens and gates."""
    return {
        "scale": given["scale"],
        "initial_state": pool,
        "inplace_final_state": True,
        "cu_seqlens": rows.cu_seqlens,
        "ssm_state_indices": slots.indices,
        "num_accepted_tokens": slots.accepted,
        "use_qk_l2norm_in_kernel": given["use_qk_l2norm_in_kernel"],
    }


def kda_update(function: Function) -> Call:
    """Make the call of Kimi's `fused_recurrent_kda_fwd` with given gates and beta."""

    def launch(case: Case, given: Given, rows: Rows, slots: Slots, pool: Tensor) -> Tensor:
        tokens = {name: rows.tokens[name] for name in ("q", "k", "v", "g", "beta")}
        out: Tensor = function(**tokens, **_over(given, rows, slots, pool))[0]
        return out

    return steps(launch, packs=True)


def kda_steps(function: Function) -> Call:
    """Make the call of Kimi's `fused_recurrent_kda`, which decodes and verifies from raw gates and beta."""

    def launch(case: Case, given: Given, rows: Rows, slots: Slots, pool: Tensor) -> Tensor:
        _check_fixed(case)
        out: Tensor = function(
            **{name: rows.tokens[name] for name in "qkv"},
            raw_g=rows.tokens["a"],
            raw_beta=rows.tokens["b"],
            **_raw(given),
            initial_state=pool,
            cu_seqlens=rows.cu_seqlens,
            ssm_state_indices=slots.indices,
            num_accepted_tokens=slots.accepted,
        )[0]
        return out

    return steps(launch, packs=True)


def _check_fixed(case: Case) -> None:
    """Raise TypeError for what Kimi's functions on raw gates have no keyword for."""
    softplus = (case.operands.softplus_beta, case.operands.softplus_threshold)
    scaled = case.scale is not None and not case.operation.single_token
    if not case.l2norm or scaled or softplus != (1.0, 20.0):
        raise TypeError("adapter: it normalises, scales by K^-0.5 and knows one softplus")


def _raw(given: Given, bias: str = "dt_bias") -> Given:
    """Collect what raw gates of KDA need."""
    flat = None if given["dt_bias"] is None else given["dt_bias"].reshape(-1)
    return {"A_log": given["A_log"], bias: flat, "lower_bound": given["lower_bound"]}


def packed_decode(function: Function) -> Call:
    """Make the call of `fused_recurrent_gated_delta_rule_packed_decode`; it writes zeros for padding."""

    def call(case: Case, arguments: Arguments) -> dict[str, Tensor]:
        given = calls.keywords(case, arguments)
        moved = Moved.of(given.pop("initial_state"))
        given["ssm_state_indices"] = moved_indices(given["ssm_state_indices"])
        names = declared(function)
        function(**{name: one for name, one in given.items() if name in names}, initial_state=moved.pool)
        moved.put_back()
        return {"o": arguments["out"]}

    return call


def kda_packed_decode(function: Function) -> Call:
    """Make the call of Kimi's `fused_recurrent_kda_packed_decode`; it writes zeros for padding."""

    def call(case: Case, arguments: Arguments) -> dict[str, Tensor]:
        _check_fixed(case)
        given = calls.keywords(case, arguments)
        moved = Moved.of(given["initial_state"])
        function(
            mixed_qkv=given["mixed_qkv"],
            raw_g=given["a"].unflatten(-1, (case.HV, case.K))[None],
            raw_beta=given["b"][None],
            **_raw(given),
            initial_state=moved.pool,
            state_indices=moved_indices(given["ssm_state_indices"]),
            scale=given["scale"],
            out=given["out"].transpose(0, 1),
        )
        moved.put_back()
        return {"o": arguments["out"]}

    return call


def extend(function: Function) -> Call:
    """Make the call of a chunked function, `chunk_gated_delta_rule` or Kimi's `chunk_kda_with_fused_gate`.

    States are dense: they are gathered before and put back behind, as its layers do.
    """
    names = declared(function)

    def call(case: Case, arguments: Arguments) -> dict[str, Tensor]:
        given = calls.keywords(case, arguments)
        # A copy: they keep the last few that they saw, and this one is a view of all arguments.
        bounds = None if given["cu_seqlens"] is None else given["cu_seqlens"].clone()
        v = given["v"]
        batch = Batch.of(
            given["q"], given["initial_state"], given["initial_state_indices"],
            given.get("has_initial_state"), bounds,
        )  # fmt: skip
        writes = case.writes_state
        real = {name: batch.real(given[name]) for name in ("q", "k", "v", "g", "beta")}
        if "raw_g" in names:
            real |= {"raw_g": real.pop("g"), **_raw(given, "g_bias")}
        if "raw_beta" in names:  # before 0.3x it took the sigmoid
            real["raw_beta"] = real.pop("beta")
        if "out" in names:  # without one they write their output into v
            real["out"] = torch.empty_like(real["v"])
        o, final = function(
            **real,
            scale=given["scale"],
            initial_state=batch.gathered(),
            output_final_state=case.final or writes,
            use_qk_l2norm_in_kernel=given["use_qk_l2norm_in_kernel"],
            cu_seqlens=bounds,
        )
        if writes:
            batch.scatter(final)
        out = {"o": batch.with_tail(o, v.shape[1])}
        return {**out, "final": final} if case.final else out

    return call
