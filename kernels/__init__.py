"""Gated delta-rule attention in Triton, states laid out [V, K]. Needs torch and triton alone.

Tensors may lie anywhere: offsets are formed in 64 bits whatever a view's strides, and kernels run on the
device of the tensors, whichever is current.
"""

from .chunk.gdn import chunk_gated_delta_rule
from .chunk.kda import chunk_kda
from .draft_calls import (
    commit_accepted_steps,
    fused_sigmoid_gating_delta_rule_verify,
    fused_sigmoid_gating_delta_rule_verify_commit,
)
from .packed_decode import fused_recurrent_gated_delta_rule_packed_decode, fused_recurrent_kda_packed_decode
from .pool_calls import fused_recurrent_gated_delta_rule_update, fused_sigmoid_gating_delta_rule_update
from .sequences import fused_recurrent_gated_delta_rule, fused_recurrent_kda
from .step_changes import change_numbers

__all__ = [
    "change_numbers",
    "chunk_gated_delta_rule",
    "chunk_kda",
    "commit_accepted_steps",
    "fused_recurrent_gated_delta_rule",
    "fused_recurrent_gated_delta_rule_packed_decode",
    "fused_recurrent_gated_delta_rule_update",
    "fused_recurrent_kda",
    "fused_recurrent_kda_packed_decode",
    "fused_sigmoid_gating_delta_rule_update",
    "fused_sigmoid_gating_delta_rule_verify",
    "fused_sigmoid_gating_delta_rule_verify_commit",
]
