"""Bugs of the recurrent kernel: whole sequences, decode, verify, and the pool that they work on."""

from __future__ import annotations

from diffgdn.mutants.mutant import Edit, Mutant

BUGS = (
    Mutant(
        "safe-gate-as-clamp",
        "tokenspeed #847",
        "the bounded gate of kda clamps the softplus gate",
        (
            Edit(
                "device.py",
                "return lower_bound * sigmoid(rate_of(A_log) * x)",
                "return tl.maximum(softplus_gate(x, A_log, 1.0, 20.0), lower_bound)",
            ),
        ),
        "kda.*",
    ),
    Mutant(
        "pad-slot-off-by-one",
        "vLLM #39064",
        "slot 0 counts as padding",
        (
            Edit("recurrent_steps.py", "    if i_slot >= 0:\n", "    if i_slot > 0:\n", 2),
            Edit("recurrent.py", "        if i_slot >= 0:\n", "        if i_slot > 0:\n"),
            Edit("recurrent.py", "            if i_slot < 0:\n", "            if i_slot <= 0:\n"),
        ),
    ),
    Mutant(
        "pad-slot-clamped",
        "FlashInfer #2810",
        "slot -1 becomes slot 0, read and written",
        (
            Edit(
                "recurrent.py",
                "i_slot = tl.load(p_slots).to(tl.int64)",
                "i_slot = tl.maximum(tl.load(p_slots).to(tl.int64), 0)",
            ),
        ),
    ),
    Mutant(
        "pad-slot-unguarded-decode",
        "vLLM #33326",
        "the guards against slot -1 are gone",
        (
            Edit("recurrent_steps.py", "    if i_slot >= 0:\n", "    if i_slot >= -1:\n", 2),
            Edit("recurrent.py", "        if i_slot >= 0:\n", "        if i_slot >= -1:\n"),
        ),
    ),
    Mutant(
        "pool-copied",
        "FlashInfer #3490",
        "a pool whose slots do not lie end to end is copied, and the copy updated",
        (
            Edit(
                "pool_calls.py",
                "    return dict(\n        h0=pool,",
                "    pool = None if pool is None else pool.contiguous()\n    return dict(\n        h0=pool,",
            ),
        ),
    ),
    Mutant(
        "ab-token-stride",
        "SGLang #22312",
        "strides of gates and beta are those of compact tensors",
        (
            Edit(
                "recurrent_launch.py",
                "*strides(g, sequence), *strides(beta, sequence)",
                "*strides(g.new_empty(g.shape), sequence), "
                "*strides(None if beta is None else beta.new_empty(beta.shape), sequence)",
            ),
        ),
    ),
    Mutant(
        "qkv-assumed-compact",
        "FlashInfer #3693",
        "strides of q, k and v are those of compact tensors",
        (
            Edit(
                "recurrent_launch.py",
                "*strides(q, sequence), *strides(k, sequence), *strides(v, sequence)",
                "*[n for x in (q, k, v) for n in strides(x.new_empty(x.shape), sequence)]",
            ),
        ),
    ),
    Mutant(
        "index-int32",
        "FlashInfer #3230, SGLang #31934",
        "slot times stride is taken in 32 bits",
        (
            Edit(
                "recurrent.py",
                "p_h0 = row(h0, i_slot * stride_h0_slot + i_hv",
                "p_h0 = row(h0, (i_slot * stride_h0_slot).to(tl.int32) + i_hv",
            ),
        ),
    ),
    Mutant(
        "state-in-input-dtype",
        "ollama #15865",
        "the state is rounded to the dtype of the input after each token",
        (
            Edit(
                "recurrent_steps.py",
                "return written(b_h, b_d, b_k), ",
                "return written(b_h, b_d, b_k).to(p_k.dtype.element_ty).to(tl.float32), ",
            ),
        ),
    ),
    Mutant(
        "k-mask-missing",
        "FLA #1165",
        "the gate of kda is loaded without the mask of K",
        (
            Edit(
                "recurrent_steps.py",
                "b_g = read(p_g, columns, VARIANT.WHOLE_COLUMNS)",
                "b_g = read(p_g, columns, True)",
            ),
        ),
        "kda.*",
    ),
    Mutant(
        "verify-state-advanced",
        "vLLM #51508",
        "verify writes the state of the drafts into the pool",
        (Edit("pool_calls.py", "ht=None if disable_state_update or token_slots else pool", "ht=pool"),),
    ),
    Mutant(
        "tree-parent-chain",
        "the shape of SGLang's tree code",
        "a token continues from the token before it, whatever its parent",
        (
            Edit(
                "recurrent_steps.py", "            if parent != i_t - 1:\n", "            if parent > i_t:\n"
            ),
        ),
    ),
    Mutant(
        "kda-gate-per-head",
        "the shape of FLA #624",
        "the gate of channel 0 for all channels",
        (
            Edit(
                "recurrent_steps.py",
                "b_g = read(p_g, columns, VARIANT.WHOLE_COLUMNS)",
                "b_g = read(p_g, (columns[0] * 0, columns[1]), VARIANT.WHOLE_COLUMNS)",
            ),
        ),
        "kda.*",
    ),
    Mutant(
        "verify-index-minus-one",
        "vLLM #48475, #50021",
        "row -1 of the buffer is written",
        (
            Edit(
                "recurrent.py",
                "tl.where(i_cache >= 0, cache_steps, 0)",
                "tl.where(i_cache >= -1, cache_steps, 0)",
            ),
        ),
    ),
    Mutant(
        "ab-not-gathered",
        "vLLM #51812",
        "gates are read at the number of the sequence, not at its first token",
        (
            Edit("recurrent.py", "row(g, first * stride_g_seq", "row(g, i_n * stride_g_seq"),
            Edit("recurrent.py", "beta + first * stride_beta_seq", "beta + i_n * stride_beta_seq"),
        ),
    ),
    Mutant(
        "delta-inside-branch",
        "FLA #623",
        "the state takes no update where the gate is bounded",
        (
            Edit(
                "recurrent_steps.py",
                "    return written(b_h, b_d, b_k), ",
                "    if VARIANT.GATE == BOUNDED:\n        b_d = b_d * 0.0\n"
                "    return written(b_h, b_d, b_k), ",
            ),
        ),
        "kda.*",
    ),
    Mutant(
        "default-buffer-aliased",
        "FlashInfer #4214",
        "the output tensor is kept, and returned again by the next call",
        (
            Edit("pool_calls.py", "MAX_TREE_STEPS = 64\n", "MAX_TREE_STEPS = 64\n_kept = {}\n"),
            Edit(
                "pool_calls.py",
                "    o = q.new_empty(v.shape)\n",
                "    o = _kept.setdefault((v.shape, q.dtype, q.device), q.new_empty(v.shape))\n",
            ),
        ),
    ),
    Mutant(
        "commit-one-too-many",
        "a slip that a commit invites",
        "a step more than are accepted reaches the pool",
        (Edit("fold.py", "for i in range(count):", "for i in range(tl.minimum(count + 1, steps)):"),),
        "*.verify_commit",
    ),
    Mutant(
        "commit-path-as-chain",
        "a slip that a commit invites",
        "the first steps of a tree are committed, as many as the accepted path has",
        (
            Edit(
                "fold.py",
                "step = tl.maximum(tl.minimum(step, steps - 1), 0)",
                "step = tl.maximum(tl.minimum(step * 0 + i, steps - 1), 0)",
            ),
        ),
        "*.verify_commit",
    ),
    Mutant(
        "commit-without-decay",
        "a slip that a commit invites",
        "what a step writes is committed, and not how it decays the state",
        (Edit("fold.py", "written(decayed(b_h, b_g, VARIANT), b_d, b_k)", "written(b_h, b_d, b_k)"),),
        "*.verify_commit",
    ),
)
