"""Bugs of prefill by chunks."""

from __future__ import annotations

from diffgdn.mutants.mutant import Edit, Mutant

_BOUNDARY = """    if final is not None:
        at, bounds = 0, cu_seqlens.tolist()
        for n, (start, end) in enumerate(zip(bounds, bounds[1:])):
            at += triton.cdiv(end - start, chunk_size)
            if (end - start) % chunk_size:
                h[at - 1] = final[n].to(h.dtype)
    return o, final, h.view("""

BUGS = (
    Mutant(
        "tail-exp-unmasked",
        "FLA #99, commit cb36e67a",
        "sums of gates of a chunk's tail are 0, and the exponential of a difference is not masked",
        (
            Edit(
                "chunk/wy_gdn.py", "b_g = log2_cumsum(b_g)\n", "b_g = tl.where(m_t, log2_cumsum(b_g), 0.0)\n"
            ),
            Edit(
                "chunk/wy_gdn.py",
                "tl.exp2(tl.where(below, b_g[:, None] - b_g[None, :], 0.0))",
                "tl.exp2(b_g[:, None] - b_g[None, :])",
            ),
        ),
        "gdn.extend",
    ),
    Mutant(
        "h-read-as-kv",
        "vLLM #40956, #41292",
        "the output stage of kda reads the states of chunks as [K, V]",
        (
            Edit("chunk/output.py", "    if KV:\n        p_h +=", "    if KV or KDA:\n        p_h +="),
            Edit("chunk/output.py", "(V if KV else 1)", "(V if KV or KDA else 1)"),
        ),
        "kda.extend",
    ),
    Mutant(
        "glast-wrong-row",
        "FlashInfer #3156, #4311",
        "the decay of a chunk's end is read two rows early",
        (
            Edit(
                "chunk/state.py",
                "b_end = tl.load(p_gc + at + end * HV)",
                "b_end = tl.load(p_gc + at + tl.maximum(end - 2, 0) * HV)",
            ),
        ),
        "gdn.extend",
    ),
    Mutant(
        "log-linear-gate-mix",
        "FlashInfer #2490",
        "the state is multiplied by the log decay, without the exponential",
        (Edit("chunk/state.py", "b_s *= tl.exp2(b_end)\n", "b_s *= b_end\n"),),
        "gdn.extend",
    ),
    Mutant(
        "chunk-ids-wrong-source",
        "FLA, commit e2a67879",
        "a chunk's sequence is looked up by token number, as if all began on a chunk boundary",
        (
            Edit(
                "chunk/tile_table.py",
                "end = seen + tl.cumsum(chunks, axis=0)\n        first = end - chunks\n",
                "end = (eos + BT - 1) // BT\n        first = bos // BT\n",
            ),
        ),
        "*.extend",
    ),
    Mutant(
        "cumsum-ignores-chunks",
        "FLA, commit ddee66d9",
        "gates are read at the global number of the chunk times its size",
        (
            Edit(
                "chunk/wy_gdn.py",
                "p_g + i_b * g_b + (i_t + o_t) * g_t",
                "p_g + (i_c * BT + o_t) * g_t",
            ),
        ),
        "gdn.extend",
    ),
    Mutant(
        "gva-gate-not-repeated",
        "FLA #624",
        "the gate of value head i_hv // G in place of i_hv",
        (Edit("chunk/wy_kda.py", "p_gc += row * K\n", "p_gc += (start * HV + i_hv // G) * K\n"),),
        "kda.extend",
    ),
    Mutant(
        "qk-scale-twice",
        "a common slip of refactoring",
        "the scale is applied to A_qk, and again to the output",
        (Edit("chunk/output.py", "tl.where(seen, b_A * tl.exp2(", "tl.where(seen, b_A * scale * tl.exp2("),),
        "gdn.extend",
    ),
    Mutant(
        "boundary-state-final",
        "FlashInfer #4896",
        "a partial last chunk's boundary state is the final state",
        (Edit("chunk/pipeline.py", "    return o, final, h.view(", _BOUNDARY),),
        "*.extend",
    ),
    Mutant(
        "scale-loop-bound",
        "FlashQLA, commit 2ef89a7",
        "the first K columns of the output alone are scaled",
        (
            Edit(
                "chunk/output.py",
                "b_o = dot_add(b_A, b_v, b_o) * scale",
                "b_o = dot_add(b_A, b_v, b_o) * tl.where(o_v < K, scale, 1.0)[None, :]",
            ),
        ),
        "*.extend",
    ),
    Mutant(
        "split-exponent",
        "FlashInfer #3720, executorch #21417",
        "exp(g_i) exp(-g_j) in place of exp(g_i - g_j)",
        (
            Edit(
                "chunk/wy_gdn.py",
                "tl.exp2(tl.where(below, b_g[:, None] - b_g[None, :], 0.0))",
                "tl.exp2(b_g)[:, None] * tl.exp2(-b_g)[None, :]",
            ),
        ),
        "gdn.extend",
    ),
    Mutant(
        "out-left-empty",
        "FLA, commit 80e69a56",
        "output rows behind the last sequence are left as they were allocated",
        (Edit("chunk/output.py", "(o_t < -rows)", "(o_t < (0 if KDA else -rows))"),),
        "kda.extend",
    ),
    Mutant(
        "pad-rows-last-chunk-only",
        "FlashQLA, commit 6e5d2ea",
        "output rows behind the last sequence are zeroed as far as one chunk reaches",
        (
            Edit(
                "chunk/tile_table.py",
                "-tl.minimum(tokens - start, BT)",
                "tl.where(o_c == seen, -tl.minimum(tokens - start, BT), 0)",
            ),
        ),
        "*.extend",
    ),
    Mutant(
        "empty-seq-epilogue",
        "FlashQLA, commit 7fd5525",
        "the final state of a sequence without a chunk is zero",
        (
            Edit(
                "chunk/state.py",
                "    if WRITE_FINAL:\n",
                "    if WRITE_FINAL:\n        b_s = tl.where(chunks > 0, b_s, 0.0)\n",
            ),
        ),
        "*.extend",
    ),
    Mutant(
        "chunk-size-hardcoded",
        "FLA #876",
        "the state stage takes chunks of 64, whatever was asked for",
        (Edit("chunk/pipeline.py", '"chunk_size": chunk_size,\n', '"chunk_size": 64,\n'),),
        "*.extend",
    ),
    Mutant(
        "output-aliases-v",
        "SGLang (o=v)",
        "the output is written over the caller's v",
        (
            Edit(
                "chunk/pipeline.py",
                "    if not boundary_states:\n        return",
                "    o = v.copy_(o)\n    if not boundary_states:\n        return",
            ),
        ),
        "*.extend",
    ),
)
