"""Bugs of memory: what is never written, read past its end, written over something else, or out of reach."""

from __future__ import annotations

from diffgdn.mutants.mutant import Edit, Mutant

_NEXT_BOUNDARY = """    if WRITE_POOL:
        if (slot >= 0) &"""

BUGS = (
    Mutant(
        "kkt-left-empty",
        "FLA, commit 0f0f0c97",
        "the half of kda's in-chunk matrix above the diagonal is not written",
        (
            Edit(
                "chunk/wy_kda.py",
                "tl.store(p_A + o_A, b_A.to(dtype), mask=m_t[:, None])",
                "tl.store(p_A + o_A, b_A.to(dtype), mask=m_t[:, None] & (o_t[:, None] >= o_t[None, :]))",
            ),
        ),
        "kda.extend",
    ),
    Mutant(
        "subst-past-end",
        "FLA, commit 370fe304",
        "kda's diagonal blocks read the rows past a sequence's end",
        (
            Edit(
                "chunk/wy_kda.py",
                "m_c = m_r3 & (o_c + i_k < K)",
                "m_c = (o_r3 >= 0) & (o_c + i_k < K)",
            ),
        ),
        "kda.extend",
    ),
    Mutant(
        "wy-row-unwritten",
        "vllm-ascend #17003",
        "a row in sixteen of u is never stored",
        (
            Edit(
                "chunk/wy_gdn.py",
                "tl.store(p_u + (o_u + i_v), dot(b_X, b_v.to(dtype)).to(dtype), mask=m_v)",
                "tl.store(p_u + (o_u + i_v), dot(b_X, b_v.to(dtype)).to(dtype), "
                "mask=m_v & (o_t % 16 != 15)[:, None])",
            ),
        ),
        "gdn.extend",
    ),
    Mutant(
        "pad-slot-unguarded-extend",
        "SGLang #33431, #33810",
        "prefill has no guards against slot -1",
        (
            Edit("chunk/state.py", "starts = slot >= 0\n", "starts = slot >= -1\n"),
            Edit("chunk/state.py", "if (slot >= 0) & (length > 0):", "if (slot >= -1) & (length > 0):"),
        ),
        "*.extend",
    ),
    Mutant(
        "token-offset-int32",
        "vLLM #57831",
        "offsets of tokens of k and v are taken in 32 bits",
        (
            Edit(
                "chunk/wy_gdn.py",
                "p_k += (i_b * k_b + (i_t + o_t) * k_t + i_hv // G * k_h)[:, None] * UNIT + o_k[None, :]",
                "p_k += ((i_b * k_b + (i_t + o_t) * k_t + i_hv // G * k_h)[:, None] * UNIT).to(tl.int32)"
                " + o_k[None, :]",
            ),
            Edit(
                "chunk/wy_gdn.py",
                "p_v += (i_b * v_b + (i_t + o_t) * v_t + i_hv * v_h)[:, None] * UNIT + o_v[None, :]",
                "p_v += ((i_b * v_b + (i_t + o_t) * v_t + i_hv * v_h)[:, None] * UNIT).to(tl.int32)"
                " + o_v[None, :]",
            ),
        ),
        "gdn.extend",
    ),
    Mutant(
        "scratch-by-tokens",
        "vllm-ascend #16180",
        "room for the states of chunks is counted by tokens: no chunk that begins at a sequence's start",
        (
            Edit(
                "chunk/pipeline.py",
                "            chunks = table.shape[0]  # at least as many as there are\n",
                "            chunks = triton.cdiv(tokens, chunk_size)\n",
            ),
        ),
        "*.extend",
    ),
    Mutant(
        "tail-rows-over-next",
        "sparkinfer #608",
        "a chunk's tail is written over the next sequence's first rows, whose program mostly comes later",
        (
            Edit(
                "chunk/output.py",
                "tl.store(p_o, b_o.to(p_o.dtype.element_ty), mask=m_tv)",
                "tl.store(p_o, b_o.to(p_o.dtype.element_ty), mask=(i_t + o_t < T)[:, None] & m_v[None, :])",
            ),
        ),
        "*.extend",
    ),
    Mutant(
        "program-order-race",
        "SGLang #39219",
        "a sequence's last state goes where the next one's first belongs, whose program mostly comes later",
        (
            Edit(
                "chunk/state.py",
                _NEXT_BOUNDARY,
                "    if i_nh + HV < tl.num_programs(0) // NV:\n"
                "        tl.store(p_h + chunks * heads * (K * V) + o_h, b_s.to(dtype), mask=m_kv)\n"
                + _NEXT_BOUNDARY,
            ),
        ),
        "*.extend",
    ),
    Mutant(
        "snapshot-precision",
        "SGLang #34820",
        "the tracked state is rounded to the dtype of the products",
        (
            Edit(
                "chunk/state.py",
                "tl.store(p_track + i_n * t_n + i_hv * t_h + o_track, b_s, mask=m_kv)",
                "tl.store(p_track + i_n * t_n + i_hv * t_h + o_track, b_h.to(tl.float32), mask=m_kv)",
            ),
        ),
        "kda.extend",
    ),
    Mutant(
        "snapshot-wrong-chunk",
        "SGLang #31474",
        "the tracked state is that of the chunk before, save for the first",
        (Edit("chunk/state.py", "if i_c == i_track:", "if i_c == tl.maximum(i_track - 1, 0):"),),
        "kda.extend",
    ),
    Mutant(
        "snapshot-never-written",
        "SGLang #24221",
        "the tracked state is not written where the last chunk is the one",
        (Edit("chunk/state.py", "if i_c == i_track:", "if (i_c == i_track) & (i_c < chunks - 1):"),),
        "kda.extend",
    ),
)
