"""A specimen for each page of the zoo: all that is known of an optimizer beside its page.

Modules are found by walking ``__path__``, and in each every :class:`~optizoo.testing.specimen.Specimen`: a new one
needs no entry anywhere.
"""

import importlib
import pkgutil

from optizoo.testing.specimen import Specimen
from optizoo.zoo import list_optimizers


def specimens() -> dict[str, Specimen]:
    """Return the specimens by name, in the order of ``optizoo.list_optimizers()``.

    Raises:
        ValueError: Two specimens have one name.

    >>> from optizoo import list_optimizers
    >>> list(specimens()) == list_optimizers()
    True
    """
    found: dict[str, Specimen] = {}
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, Specimen) and found.setdefault(value.name, value) is not value:
                raise ValueError(f"{module.name} has a second specimen of {value.name!r}; leave one")
    return {name: found[name] for name in list_optimizers() if name in found}
