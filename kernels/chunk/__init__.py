"""Chunk prefill: sequences cut into chunks, each chunk's delta rule solved as one small triangular system.

The stages, in the order they run, each a kernel of its own:

    tile_table which token each chunk starts at, and how many it has
    normalise  l2norm of q and k, where asked
    gates      kda only: gate activation and its cumulative sum within each chunk
    wy_gdn     the triangular system of a chunk, its inverse, and from it w and u
    wy_kda     the same with a gate per channel; also kg, qg and A_qk
    state      the running state over the chunks of a sequence: h before each chunk, v_new, the final state
    output     o from h, v_new and the attention within the chunk
"""
