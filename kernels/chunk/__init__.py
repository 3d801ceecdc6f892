"""Chunk prefill: sequences cut into chunks, each chunk's delta rule solved as one small triangular system.

The stages, in the order they run, each a kernel of its own:

    tile_table which token each chunk starts at, and how many it has
    normalise  l2norm of q and k, where asked
    gates      kda only: gate activation and its cumulative sum within each chunk
    wy_gdn     the triangular system of a chunk, its inverse, and from it w and u
    wy_kda     the same with a gate per channel; also kg, qg and A_qk
    state      the running state over the chunks of a sequence: h before each chunk, v_new, the final state
    output     o from h, v_new and the attention within the chunk

gdn in bf16, with chunks of 64 and heads of 64 or 128, takes three others behind tile_table, by which w, u, h
and v_new never reach memory:

    chunk_matrices  the inverse, the attention within the chunk, and l2norm as factors of rows
    segment_starts  the states from which segments of a long sequence start, where it is cut into them
    walk            state and o together, chunk after chunk

This is the chunkwise form of the delta rule by Yang, Wang, Zhang, Shen and Kim (2024, "Parallelizing Linear
Transformers with the Delta Rule over Sequence Length", section 3). It rests on the WY representation of
products of Householder matrices (Bischof and Van Loan 1987, "The WY Representation for Products of
Householder Matrices"). A decay per head is added by Yang, Kautz and Hatamizadeh (2024, "Gated Delta
Networks", section 3), one per channel by the Kimi Team (2025, "Kimi Linear", section 3).
"""
