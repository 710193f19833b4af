"""The equivalence kit: prove that your optimizer computes what it should.

>>> import torch
>>> from optizoo.testing import assert_equivalent
>>> assert_equivalent(lambda params: torch.optim.SGD(params, foreach=True), torch.optim.SGD)
"""

from typing import TYPE_CHECKING, Any

from optizoo.testing import mutants
from optizoo.testing.equivalence import DEFAULT_TIERS as DEFAULT_TIERS
from optizoo.testing.equivalence import Run as Run
from optizoo.testing.equivalence import assert_equivalent as assert_equivalent
from optizoo.testing.gradients import GradientCheck as GradientCheck
from optizoo.testing.gradients import ParameterCheck as ParameterCheck
from optizoo.testing.gradients import check_gradients as check_gradients
from optizoo.testing.mutants import Mutant as Mutant
from optizoo.testing.streams import gradients as gradients
from optizoo.testing.streams import make_params as make_params
from optizoo.testing.twins import has_torch_twin as has_torch_twin
from optizoo.testing.twins import torch_twin as torch_twin
from optizoo.testing.twins import with_rules as with_rules
from optizoo.testing.ulp import ulp_distance as ulp_distance

if TYPE_CHECKING:
    from optizoo.testing.mutants import MUTANTS as MUTANTS


def __getattr__(name: str) -> Any:
    if name == "MUTANTS":  # found anew, so that new specimens are there at once
        return mutants.MUTANTS
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
