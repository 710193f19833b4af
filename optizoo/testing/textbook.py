"""The second oracle: the update rules as the papers print them, in plain operators.

These functions have the form of :mod:`optizoo.rules` and work on Python floats, without torch's help, as well as on
tensors, where they are the "textbook rewrite" of the optimizers: correct, but rounded in other places. They exist to
be compared with and are deliberately naive. Each stands in the specimen of its optimizer, in
:mod:`optizoo.testing.specimens`, and is an attribute of this module too.

>>> from optizoo.testing import textbook
>>> textbook.sgd(1.0, 0.5, lr=0.1, weight_decay=0)
(0.95,)
"""

from typing import Any

import torch

from optizoo.testing.specimens import specimens


def __getattr__(name: str) -> Any:
    if not name.startswith("_"):
        for specimen in specimens().values():
            for rule in specimen.textbook:
                if rule.__name__ == name:
                    return rule
    raise AttributeError(f"no specimen has the textbook form of a rule {name!r}")


def largest(a: Any, b: Any) -> Any:
    """Return the larger of two numbers, or of each pair of elements."""
    if not isinstance(a, torch.Tensor):
        return max(a, b)
    return torch.maximum(a, b) if isinstance(b, torch.Tensor) else a.clamp(min=b)


def sign(a: Any) -> Any:
    """Return 1, 0 or -1."""
    return torch.sign(a) if isinstance(a, torch.Tensor) else (a > 0) - (a < 0)


def where(condition: Any, yes: Any, no: Any) -> Any:
    """Return ``yes`` where the condition holds, else ``no``."""
    return torch.where(condition, yes, no) if isinstance(condition, torch.Tensor) else (yes if condition else no)


def summed(a: Any) -> Any:
    """Return the sum of all elements; a number is its own."""
    return a.sum() if isinstance(a, torch.Tensor) else a


def norm(a: Any) -> Any:
    """Return the root of the sum of squares; of a number, which is a tensor with one weight, its magnitude."""
    return (a * a).sum() ** 0.5 if isinstance(a, torch.Tensor) else abs(a)


def mean(a: Any) -> Any:
    """Return the sum over the number of elements; of a number, the number."""
    return a.sum() / a.numel() if isinstance(a, torch.Tensor) else a


def regularized(rule, theta, g, *state, lr, weight_decay, weight_decay_mode, max_lr, l1, **options):
    """Decay, the other rule, then the proximal operator of α l1 |θ|, by its three cases (Parikh & Boyd 2014).

    The decays are those of the other rule, of L2, of AdamW in PyTorch, of Loshchilov & Hutter (2019) with
    η = α / α_max, and of Chen et al. (2025), whose αu is what the rule takes away.
    """
    shrunk = {
        None: lambda: theta,
        "coupled": lambda: theta,
        "decoupled": lambda: theta - lr * weight_decay * theta,
        "independent": lambda: theta - weight_decay * lr / max_lr * theta,
        "cautious": lambda: theta,
    }[weight_decay_mode]()
    g = g + weight_decay * theta if weight_decay_mode == "coupled" else g
    before, inside = theta, weight_decay if weight_decay_mode is None else 0
    theta, *state = rule(shrunk, g, *state, lr=lr, weight_decay=inside, **options)
    if weight_decay_mode == "cautious":
        against = ((before - theta > 0) & (before < 0)) | ((before - theta < 0) & (before > 0))
        theta = theta - where(against, 0 * before, lr * weight_decay * before)
    above, below = (
        where(theta > lr * l1, theta - lr * l1, 0 * theta),
        where(theta < -lr * l1, theta + lr * l1, 0 * theta),
    )
    return above + below, *state
