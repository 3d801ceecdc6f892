"""Generated mutants that nothing finds where the interpreter runs them, with the reason.

Hunted with `diffgdn mutants --operators --equivalent`, none may be found.
"""

from __future__ import annotations

# By reason: mutants, as `operator@file.function.number`, numbers one after the other as `.1 .2`.
_BY_REASON = {
    "the program has no token: all its loads and stores are masked, and the guard only ends it sooner": """
        guard-never@gates.kda_gate_kernel.1 off-by-one@gates.kda_gate_kernel.1
        guard-never@wy_gdn.wy_gdn_kernel.1 off-by-one@wy_gdn.wy_gdn_kernel.1
        guard-never@wy_kda.wy_kda_kernel.1 off-by-one@wy_kda.wy_kda_kernel.1
    """,
    "a chunk without rows has been left before, so that 0 does not come here": """
        off-by-one@output.output_kernel.2
    """,
    "both sides of the comparison give the same number where it is equal": """
        off-by-one@gates.log2_cumsum.1 off-by-one@device.sigmoid.1
    """,
    "of rows past a chunk's end and columns past K, which no store takes; a running sum only goes down": """
        drop-mask@gates.kda_gate_kernel.2 drop-where@gates.kda_gate_kernel.1
        wrong-initial@gates.kda_gate_kernel.1 .2 .3
        wrong-initial@wy_gdn.wy_gdn_kernel.1 .2 drop-where@wy_gdn.wy_gdn_kernel.1
    """,
    "of rows past a chunk's end or columns past K or V, which no store takes": """
        drop-mask@output.output_kernel.5 .6 drop-condition@output.output_kernel.9
        wrong-initial@output.output_kernel.7 .8
        drop-mask@wy_kda.wy_kda_kernel.13 drop-where@wy_kda.wy_kda_kernel.13
        wrong-initial@wy_kda.wy_kda_kernel.19 .22 .23
    """,
    "of elements past an end, whose other factor in each product is 0": """
        wrong-initial@output.output_kernel.4 .5 .6 .11
        drop-where@state.state_kernel.1 drop-mask@state.state_kernel.7
        wrong-initial@state.state_kernel.2 .3 .4 .5 .7 .8
        drop-where@wy_gdn.wy_gdn_kernel.2 wrong-initial@wy_gdn.wy_gdn_kernel.3 .4 .9 .10
        wrong-initial@wy_kda.wy_kda_kernel.3 .5 .6 .11 .13 .16 .17 .20 .21 .24
        drop-where@wy_kda.wy_kda_kernel.11
        wrong-initial@recurrent_steps.read_state.2
    """,
    "a choice further on leaves out just these elements": """
        wrong-initial@output.output_kernel.10 wrong-initial@wy_gdn.wy_gdn_kernel.7
        drop-where@output.output_kernel.2 drop-where@wy_gdn.wy_gdn_kernel.3
        drop-mask@state.state_kernel.8 wrong-initial@state.state_kernel.6
        wrong-initial@wy_kda.wy_kda_kernel.14 drop-condition@wy_kda.wy_kda_kernel.6
        drop-where@device.softplus.3 drop-clamp@device.softplus.3
    """,
    "of a matrix's diagonal and what is above it, at which `invert` does not look": """
        off-by-one@wy_gdn.wy_gdn_kernel.4 drop-where@wy_gdn.wy_gdn_kernel.4
        wrong-initial@wy_gdn.wy_gdn_kernel.8 off-by-one@wy_kda.wy_kda_kernel.9
        drop-where@wy_kda.wy_kda_kernel.12 wrong-initial@wy_kda.wy_kda_kernel.18
    """,
    "the matrix that is inverted is 0 on its diagonal and above it": """
        drop-condition@inverse.invert.1 off-by-one@inverse.invert.1
    """,
    "a token's difference to itself is 0, which is what the choice puts in its place": """
        off-by-one@wy_kda.wy_kda_kernel.6
    """,
    "the round too many lies past the end: all that it reads is masked, and it adds or stores nothing": """
        one-round-more@inverse.invert.1 one-round-more@output.output_kernel.1
        one-round-more@wy_gdn.wy_gdn_kernel.1 .2 .3 one-round-more@wy_kda.wy_kda_kernel.1 .2 .3 .4 .5
        one-round-more@tile_table.chunk_table_kernel.1 wrong-initial@tile_table.chunk_table_kernel.4
        one-round-more@recurrent_steps.replay.1
    """,
    "in kda q and k come here with a head for each value head, so that G is 1": """
        h-for-hv@output.output_kernel.6 h-for-hv@state.state_kernel.8
    """,
    "words of an error that no case raises": """
        h-for-hv@packed_decode._packed_decode.2 h-for-hv@draft_calls._heads.2
    """,
    "no case is without a sequence": "ignore-option@fold.launch_fold.2",
    "a tensor apart takes final states where there are no indices: the slot is the sequence's number": """
        wrong-slot@recurrent.recurrent_kernel.6
    """,
    "there are trees in a pool alone, from which the state is read in the next line": """
        wrong-initial@recurrent_steps.walk.1
    """,
    "softplus above 40 is log(exp(x)) then: x, to a rounding, up to 80, where thresholds end": """
        drop-clamp@device.softplus.1
    """,
    "padding has no slot for any token, and no sequence more tokens than slots: cases keep to that": """
        drop-where@recurrent.recurrent_kernel.2 wrong-initial@recurrent.recurrent_kernel.4
        guard-always@recurrent_steps.walk.3 off-by-one@recurrent_steps.walk.4
    """,
    "the loop that it guards has no round then": "off-by-one@wy_kda.wy_kda_kernel.3",
    "the branch for the simple case does what the general one does": """
        ignore-option@inverse.diagonal_blocks.1 ignore-option@inverse.merge.1 ignore-option@inverse.invert.1
        ignore-option@wy_kda.wy_kda_kernel.2 ignore-option@recurrent.recurrent_kernel.3
        ignore-option@recurrent_steps.state_offsets.1
        drop-condition@recurrent_launch.launch.10 ignore-option@recurrent_launch.launch.2
    """,
    "a mask that is all true is used in place of none": """
        ignore-option@recurrent_steps.read.1 ignore-option@recurrent_steps.write.1
        ignore-option@recurrent_steps.read_state.1 ignore-option@recurrent_steps.write_state.1
    """,
    "what the compiler is told of alignment, which the interpreter does not read": """
        drop-condition@recurrent.recurrent_kernel.1 .2 drop-condition@recurrent_steps.replay.1 .2
        drop-condition@recurrent_steps.walk.3 .4 .5 .6 ignore-option@recurrent_steps.row.1
        ignore-option@recurrent_launch.launch.3
        drop-condition@recurrent_launch.is_aligned.1 .2 off-by-one@recurrent_launch.is_aligned.1
        off-by-one@strides.in_units.1
        drop-condition@recurrent_launch.launch.11 ignore-option@step_changes.rows_of.1
    """,
    "it picks a tile or tells the compiler of alignment, of which the interpreter does neither": """
        drop-option@packed_decode._packed_decode.10 drop-option@pool_calls.check_pool.11
        drop-option@sequences.fused_recurrent_gated_delta_rule.9 drop-option@sequences.fused_recurrent_kda.10
        ignore-option@state.state_pass.2
    """,
    "a choice of block size, of which any one is right": """
        ignore-option@normalise.normalise.2 ignore-option@tile_table.chunk_table.1
    """,
    "programs store the same numbers to the same places, whichever does": """
        guard-always@tile_table.chunk_table_kernel.1 guard-always@recurrent_steps.write_change.1 .2
        drop-condition@recurrent_steps.change_places.1 .2
    """,
    "a block has no more rows than the limit, which its own size holds": """
        drop-clamp@tile_table.chunk_table_kernel.5
    """,
    "the other factor is of 64 bits already": """
        drop-int64@state.state_kernel.2 .3 .4 .5 .6 drop-int64@strides.chunk_and_head.1 .2
        drop-int64@tile_table.chunk_table_kernel.1
        drop-int64@recurrent.recurrent_kernel.1 .2 .4 .5 .6 .7 .8
        drop-int64@recurrent_steps.state_offsets.1 .2 drop-int64@recurrent_steps.walk.1 .2
        drop-int64@recurrent_steps.ancestors.1 drop-int64@fold.fold_kernel.1 .2 .3 .4 .5
    """,
    "a small count, whose stride is of 64 bits already": "drop-int64@recurrent.recurrent_kernel.3",
    "it shows past 2^31 elements of the stages' own tensors alone: more memory than a case may have": """
        drop-int64@gates.kda_gate_kernel.1 drop-int64@normalise.l2norm_kernel.1
        drop-int64@output.output_kernel.1 .2 drop-int64@state.state_kernel.1 .7 .8 .9
        drop-int64@wy_gdn.wy_gdn_kernel.1 drop-int64@wy_kda.wy_kda_kernel.1
    """,
    "it shows from some 2^25 empty sequences on": "drop-int64@tile_table.chunk_table_kernel.2",
    "the other operand is in fp32, and with it what is computed": """
        narrow-operand@gates.kda_gate_kernel.5 narrow-operand@state.state_kernel.1 .3
        narrow-operand@wy_gdn.wy_gdn_kernel.3 .9 .11
        narrow-operand@wy_kda.wy_kda_kernel.1 .3 .5 .7 .11 .13 .15
        narrow-operand@recurrent_steps.read_state.1 narrow-operand@recurrent_steps.gate_weights.3
    """,
    "products of bf16 and fp16 in fp32: nearer to the truth than is asked for": """
        ignore-option@pipeline.run.2
    """,
    "more room for states than there are chunks, of which nothing is returned": """
        drop-condition@pipeline.run.2
    """,
    "without a pool the flags of its slots are not looked at": "drop-condition@state.state_pass.1",
    "the state of an empty sequence is read, and goes nowhere; its slot exists, as is checked": """
        off-by-one@state.state_kernel.4 drop-condition@state.state_kernel.5
    """,
    "the state of an empty sequence is read and written back, to the same bits": """
        off-by-one@recurrent.recurrent_kernel.3 guard-never@recurrent.recurrent_kernel.2
        drop-condition@recurrent_launch.launch.1 ignore-option@recurrent.recurrent_kernel.2
        ignore-option@recurrent_launch.launch.1 off-by-one@fold.fold_kernel.1
    """,
    "without the new axis the interpreter spreads the vector along the same one": """
        ignore-option@recurrent_steps.decayed.1
    """,
    "gates of gdn have two dimensions here, as was checked": """
        drop-condition@packed_decode._packed_decode.2
    """,
    "no state is to be written, and an empty sequence has nothing to walk": """
        drop-condition@recurrent_launch.launch.2
    """,
    "it keeps tables that were not validated from leading outside; in the domain they do not": """
        drop-clamp@recurrent.recurrent_kernel.1 .3 drop-clamp@recurrent_steps.ancestors.3 .5
        drop-clamp@recurrent_steps.walk.1 .3 drop-clamp@fold.fold_kernel.1 .3 .5
    """,
    "the clamp of the next line makes of it what the mask does": """
        drop-mask@recurrent_steps.walk.1 drop-condition@recurrent_steps.walk.1 .2
        off-by-one@recurrent_steps.walk.1 .2
    """,
    "the start has no ancestors, and no step whose bit is looked at": """
        drop-clamp@recurrent_steps.ancestors.1
    """,
    "a token of a chain is computed from the start again, to the same bits": """
        guard-always@recurrent_steps.walk.1 swap-parents@recurrent_steps.walk.3
    """,
    "steps after the parent have no bit set": "swap-parents@recurrent_steps.walk.8",
}


def _named(text: str) -> list[str]:
    """Read mutants' names, the further numbers of one among them."""
    names: list[str] = []
    for word in text.split():
        names.append(names[-1].rpartition(".")[0] + word if word.startswith(".") else word)
    return names


def _by_name(reasons: dict[str, str]) -> dict[str, str]:
    """Turn mutants by reason into reasons by mutant."""
    return {name: reason for reason, text in reasons.items() for name in _named(text)}


EQUIVALENT = _by_name(_BY_REASON)

# Mutants that do change something, which no check looks at: they are hunted, and the reason stands by them.
NOT_LOOKED_AT = _by_name(
    {
        "softplus below 6e-8, which shows where exp(A_log) is past 1e5: no model has it, and no case": """
            drop-where@device.softplus.2
        """,
        "it reads past an end what it throws away: no trace, unless the read ends the process": """
            drop-mask@gates.kda_gate_kernel.1 drop-mask@wy_kda.wy_kda_kernel.10
            drop-condition@output.output_kernel.4 .5 drop-condition@recurrent_steps.read_state.2
            drop-clamp@wy_kda.wy_kda_kernel.1
        """,
    }
)
