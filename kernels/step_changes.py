"""The change of a draft step, kept in place of the state after it: its numbers, and where they lie.

A step changes the state by S <- exp(g) S + d k^T, with d = beta (v - exp(g) S k). Side by side lie d [HV, V],
k [H, K] as it was used (of unit length, if asked), and the natural log decay g, [HV] or for KDA [HV, K]. All
are fp32: the state that is made of them is the one that was in registers, and is rounded once. At HV = 32,
H = 16 and K = V = 128 they take 24 KiB a step, for KDA 40 KiB, where an fp32 state takes 2 MiB.
"""


def change_numbers(H, HV, K, V, is_kda=False):
    """Return how many fp32 numbers the change of a step has: HV V + H K + HV, for is_kda HV K for HV."""
    return HV * V + H * K + (HV * K if is_kda else HV)


def parts(changes, H, HV, K, V, is_kda=False):
    """Return views d [.., HV, V], k [.., H, K], g [.., HV] (is_kda: [.., HV, K]) of changes [.., numbers]."""
    d, k, g = changes.split([HV * V, H * K, HV * K if is_kda else HV], -1)
    return d.unflatten(-1, (HV, V)), k.unflatten(-1, (H, K)), g.unflatten(-1, (HV, K)) if is_kda else g


def rows_of(changes, H, HV, K, V, is_kda):
    """Return those views of `parts` whose last dimension kernels read and write as a row."""
    d, k, g = parts(changes, H, HV, K, V, is_kda)
    return [d, k, g] if is_kda else [d, k]
