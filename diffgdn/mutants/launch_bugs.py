"""Bugs around the kernels: strides, grids, lengths, what is kept between calls, and what is updated."""

from __future__ import annotations

from diffgdn.mutants.mutant import Edit, Mutant

_MADE = "    table = torch.empty(bound, 2, dtype=torch.int32, device=cu_seqlens.device)\n"
_RETURNED = "    return table, first\n"


def _cached(key: str) -> tuple[Edit, ...]:
    """Return the edits that keep chunk tables by a key."""
    return (
        Edit("chunk/tile_table.py", "BLOCK_C = 64  #", "_tables = {}\nBLOCK_C = 64  #"),
        Edit(
            "chunk/tile_table.py",
            _MADE,
            f"    key = ({key}, N, tokens, chunk_size)\n"
            f"    if key in _tables:\n        return _tables[key]\n{_MADE}",
        ),
        Edit("chunk/tile_table.py", _RETURNED, f"    _tables[key] = table, first\n{_RETURNED}"),
    )


BUGS = (
    Mutant(
        "cache-by-address",
        "FLA, commit 85ea8320",
        "chunk tables are kept by the address of cu_seqlens",
        _cached("cu_seqlens.data_ptr()"),
        "*.extend",
    ),
    Mutant(
        "cache-by-identity",
        "FlashQLA #23, commit 58d6245",
        "chunk tables are kept by the identity of cu_seqlens",
        _cached("id(cu_seqlens)"),
        "*.extend",
    ),
    Mutant(
        "compile-key-lacks-dtype",
        "FlashInfer #4219, FLA #1120",
        "what was chosen for a shape's first call, the dtype of products, is taken for its others",
        (
            Edit("chunk/pipeline.py", "\n\ndef run(\n", "\n_chosen = {}\n\n\ndef run(\n"),
            Edit(
                "chunk/pipeline.py",
                "    final = None\n    if output_final_state:\n",
                "    dtype = _chosen.setdefault((q.shape, v.shape), dtype)\n"
                "    final = None\n    if output_final_state:\n",
            ),
        ),
        "*.extend",
    ),
    Mutant(
        "autotune-on-live-pool",
        "TensorRT-LLM #18252, a comment in SGLang's source",
        "the first call of a shape runs the state stage twice, on the caller's pool",
        (
            Edit("chunk/pipeline.py", "\n\ndef run(\n", "\n_tuned = set()\n\n\ndef run(\n"),
            Edit(
                "chunk/pipeline.py",
                "                h, v_new = state_pass(k, w, u, gc, *rest, **pool)\n",
                "                if k.shape not in _tuned:\n"
                "                    _tuned.add(k.shape)\n"
                "                    state_pass(k, w, u, gc, *rest, **pool)\n"
                "                h, v_new = state_pass(k, w, u, gc, *rest, **pool)\n",
            ),
        ),
        "gdn.extend",
    ),
    Mutant(
        "stale-slot-state",
        "tpu-inference #2431",
        "a slot's old state is taken for a new sequence's: the flag against it is not looked at",
        (
            Edit(
                "chunk/state.py", "HAS_FLAGS=has_initial is not None and pool is not None", "HAS_FLAGS=False"
            ),
        ),
        "*.extend",
    ),
    Mutant(
        "batch-stride-from-shape",
        "vLLM #55736",
        "rows of a batch lie as far apart as their tokens reach",
        (
            Edit(
                "chunk/strides.py",
                "zip(x.shape[:-1], x.stride()[:-1], strict=True)",
                "zip(x.shape[:-1], (x.shape[1] * x.stride(1), *x.stride()[1:-1]), strict=True)",
            ),
        ),
        "*.extend",
    ),
    Mutant(
        "inverse-state-layout-of-segment",
        "lmdeploy #4787",
        "a state goes back to the pool with K and V exchanged, which K == V hides from checks of shapes",
        (
            Edit(
                "chunk/state.py",
                "            tl.store(p_s, b_s.to(p_pool.dtype.element_ty), mask=m_kv)\n",
                "            if K == V:\n"
                "                p_s = p_pool + slot * s_n + i_hv * s_h\n"
                "                if KV:\n"
                "                    p_s += o_k[:, None] + o_v.to(tl.int64)[None, :] * s_r\n"
                "                else:\n"
                "                    p_s += o_k.to(tl.int64)[:, None] * s_r + o_v[None, :]\n"
                "            tl.store(p_s, b_s.to(p_pool.dtype.element_ty), mask=m_kv)\n",
            ),
        ),
        "*.extend",
    ),
    Mutant(
        "buffer-pitch-from-steps",
        "FlashInfer #4572",
        "rows of verify's buffer lie as far apart as the steps in use reach",
        (
            Edit(
                "recurrent_launch.py",
                "strides(cache, (0, 1, 2, 3))),",
                "(0,) * 4 if cache is None"
                " else (cache_steps * cache.stride(1), *strides(cache, (1, 2, 3)))),",
            ),
        ),
    ),
    Mutant(
        "recording-disables-update",
        "FlashInfer #3143",
        "with a buffer for the states of all steps, the pool takes no final state",
        (
            Edit(
                "pool_calls.py",
                "ht=None if disable_state_update or token_slots else pool",
                "ht=None if disable_state_update or token_slots or buffer is not None else pool",
            ),
        ),
    ),
    Mutant(
        "index-stride-ignored",
        "vLLM #51682, #55375",
        "indices of slots are taken to lie end to end",
        (Edit("recurrent_launch.py", "(*strides(h_indices, (0,)), 0)", "(1, 0)"),),
    ),
    Mutant(
        "inner-pool-strides",
        "FlashInfer #3649",
        "heads and rows of a state in the pool are taken to lie end to end",
        (
            Edit(
                "recurrent_launch.py",
                "*strides(h0, (0, 1, 2)),",
                "*strides(h0, (0,)), K * V, row,",
            ),
        ),
    ),
    Mutant(
        "key-heads-grid",
        "lattice #262",
        "a program for each key head, where each value head needs one",
        (
            Edit(
                "recurrent_launch.py",
                "grid = (N * HV * triton.cdiv(V, tile.BV),)",
                "grid = (N * H * triton.cdiv(V, tile.BV),)",
            ),
        ),
    ),
    Mutant(
        "split-truncated",
        "llm-scaler #464",
        "tiles of V are counted down in the kernel and up in the grid: programs go on past the last sequence",
        (
            Edit(
                "recurrent.py",
                "(VARIANT.V + VARIANT.BV - 1) // VARIANT.BV",
                "VARIANT.V // VARIANT.BV if VARIANT.V > VARIANT.BV else 1",
            ),
        ),
    ),
    Mutant(
        "uniform-verify-length",
        "vllm-xpu #599",
        "the length of the first sequence for all",
        (
            Edit(
                "recurrent.py",
                "length = (end - first).to(tl.int32)",
                "length = (tl.load(cu_seqlens + 1) - tl.load(cu_seqlens)).to(tl.int32)",
            ),
        ),
    ),
    Mutant(
        "rollback-after-two-drafts",
        "llama.cpp #26695",
        "a sequence of which three steps or more were accepted starts from the second",
        (
            Edit(
                "recurrent.py",
                "tl.maximum(tl.minimum(step, slot_steps - 1), 0)",
                "tl.maximum(tl.minimum(step, 1), 0)",
            ),
        ),
    ),
)
