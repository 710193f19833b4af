"""Rprop."""

from optizoo.testing.mutants import Mutant
from optizoo.testing.specimen import Specimen
from optizoo.testing.textbook import sign, where


def rprop(theta, g, prev, step_size, *, etas, step_sizes):
    """Riedmiller & Braun (1993) with the bookkeeping of Igel & Hüsken (2000): iRprop⁻."""
    turned, stayed = g * prev < 0, g * prev > 0
    size = where(turned, step_size * etas[0], where(stayed, step_size * etas[1], step_size))
    size = where(size < step_sizes[0], 0 * size + step_sizes[0], size)
    size = where(size > step_sizes[1], 0 * size + step_sizes[1], size)
    g = where(turned, 0 * g, g)
    return theta - sign(g) * size, g, size


RPROP = Specimen(
    name="rprop",
    textbook=(rprop,),
    twin="Rprop",
    more_tables=({"etas": ((0.3, 1.5),), "step_sizes": ((1e-4, 0.1),)},),
    mutants=(
        Mutant("rprop-moves-where-it-turns", "rprop", "grad = grad * (1 - turns)", "grad = grad * 1.0"),
        Mutant("rprop-unbounded", "rprop", ".clamp_max(largest)", "", {"step_sizes": (1e-6, 0.011)}),
        Mutant("rprop-no-smallest", "rprop", ".clamp_min(smallest)", "", {"step_sizes": (1e-3, 50)}),
        Mutant("rprop-etas-swapped", "rprop", "(shrink, grow), (smallest", "(grow, shrink), (smallest"),
        Mutant("rprop-gradient-not-sign", "rprop", "param.addcmul(grad.sign(), step_size",
               "param.addcmul(grad, step_size"),
    ),
)  # fmt: skip
