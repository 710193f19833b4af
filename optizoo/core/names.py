"""Names that were mistyped, or stand for an option in another library; and those that are somebody else's."""

from collections.abc import Collection
from functools import lru_cache

# What other libraries call our options.
ALIASES = {
    "learning_rate": "lr",
    "wd": "weight_decay",
    "decay": "weight_decay",
    "rho": "alpha",
    "beta": "betas",
    "beta1": "betas",
    "beta2": "betas",
    "epsilon": "eps",
    "mu": "momentum",
}
# Those of them that programs also keep in param groups for themselves: SAM's rho, Muon's mu, a factor on the rate.
_OFTEN_FOREIGN = {"rho", "mu", "decay"}


def did_you_mean(name: object, known: Collection[str]) -> str:
    """Return the remedy for an unknown name: a suggestion where one is near, and the known names.

    >>> did_you_mean("learning_rate", ["lr", "eps"])
    "did you mean 'lr'? Known: eps, lr"
    """
    from difflib import get_close_matches

    meant = near_miss(str(name), tuple(known)) or ALIASES.get(str(name))
    near = [meant] if meant in known else get_close_matches(str(name), known, n=1)
    suggestion = f"did you mean {near[0]!r}? " if near else ""
    return f"{suggestion}Known: {', '.join(sorted(known))}"


@lru_cache(1024)
def near_miss(name: str, known: tuple[str, ...]) -> str | None:
    """Return the option that a name in a param group surely means, or ``None``: then it is somebody else's key.

    A name means an option if it is its name in another library, or its name with other capitals or separators, or with
    a slip of the keyboard in it: one letter more, less, other, or two swapped; two slips in a long name, none but a
    swap or a doubled letter in one of two or three letters. People hit the first letter, and digits tell names apart.

    >>> near_miss("weigth_decay", ("lr", "weight_decay")), near_miss("lr_scale", ("lr", "weight_decay"))
    ('weight_decay', None)
    """
    bare = _bare(name)
    for alias, option in ALIASES.items():
        meant = _is_slip(bare, _bare(alias)) if len(alias) >= 7 else bare == _bare(alias)
        if meant and option in known and alias not in _OFTEN_FOREIGN:
            return option
    return next((option for option in known if _is_slip(bare, _bare(option))), None)


def _bare(name: str) -> str:
    return name.casefold().replace("_", "").replace("-", "").replace(" ", "")


def _is_slip(typed: str, meant: str) -> bool:
    if typed == meant:
        return True
    if len(meant) <= 3:
        doubled = len(typed) == len(meant) + 1 and any(
            typed[place] == typed[place + 1] and typed[:place] + typed[place + 1 :] == meant
            for place in range(len(meant))
        )
        return doubled or (len(typed) == len(meant) and _slips(typed, meant) == 1 and sorted(typed) == sorted(meant))
    first = typed[:1] == meant[:1] or typed[:2] == meant[1::-1]
    if not first or [*filter(str.isdigit, typed)] != [*filter(str.isdigit, meant)]:
        return False
    allowed = 2 if len(meant) >= 10 else 1
    return abs(len(typed) - len(meant)) <= allowed and _slips(typed, meant) <= allowed


def _slips(typed: str, meant: str) -> int:
    """Return the number of letters to insert, leave out, replace, or swap with their neighbour."""
    before: list[int] = []
    row = [*range(len(meant) + 1)]
    for i, letter in enumerate(typed, start=1):
        older, before, row = before, row, [i]
        for j, other in enumerate(meant, start=1):
            best = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == meant[j - 2] and typed[i - 2] == other:
                best = min(best, older[j - 2] + 1)
            row.append(best)
    return row[-1]
