"""An optimizer zoo for PyTorch: one update rule each, drop-in for ``torch.optim`` and proven equal to it.

Names are found when they are asked for, and torch is imported with them: the command line names things without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors; at run time names are found where they stand, new pages of the zoo too
    from torch.optim import LBFGS as LBFGS
    from torch.optim import Optimizer as Optimizer
    from torch.optim import SparseAdam as SparseAdam
    from torch.optim import swa_utils as swa_utils

    from optizoo import lr_scheduler as lr_scheduler
    from optizoo import rules as rules
    from optizoo import schedulers as schedulers
    from optizoo import schedules as schedules
    from optizoo import zoo as zoo
    from optizoo.core.explain import explain as explain
    from optizoo.core.optimizer import RuleOptimizer as RuleOptimizer
    from optizoo.custom import from_rule as from_rule
    from optizoo.groups import check_bound as check_bound
    from optizoo.groups import param_groups as param_groups
    from optizoo.schedulers import ScheduleLR as ScheduleLR
    from optizoo.zoo import create as create
    from optizoo.zoo import list_optimizers as list_optimizers
    from optizoo.zoo.adabelief import AdaBelief as AdaBelief
    from optizoo.zoo.adadelta import Adadelta as Adadelta
    from optizoo.zoo.adafactor import Adafactor as Adafactor
    from optizoo.zoo.adagrad import Adagrad as Adagrad
    from optizoo.zoo.adam import Adam as Adam
    from optizoo.zoo.adam import AdamW as AdamW
    from optizoo.zoo.adamax import Adamax as Adamax
    from optizoo.zoo.adan import Adan as Adan
    from optizoo.zoo.ademamix import AdEMAMix as AdEMAMix
    from optizoo.zoo.adopt import ADOPT as ADOPT
    from optizoo.zoo.asgd import ASGD as ASGD
    from optizoo.zoo.cautious import CautiousAdamW as CautiousAdamW
    from optizoo.zoo.lamb import LAMB as LAMB
    from optizoo.zoo.lars import LARS as LARS
    from optizoo.zoo.lion import Lion as Lion
    from optizoo.zoo.muon import Muon as Muon
    from optizoo.zoo.muon import NorMuon as NorMuon
    from optizoo.zoo.nadam import NAdam as NAdam
    from optizoo.zoo.prodigy import Prodigy as Prodigy
    from optizoo.zoo.qhadam import QHAdam as QHAdam
    from optizoo.zoo.radam import RAdam as RAdam
    from optizoo.zoo.rmsprop import RMSprop as RMSprop
    from optizoo.zoo.rprop import Rprop as Rprop
    from optizoo.zoo.schedulefree import ScheduleFreeAdamW as ScheduleFreeAdamW
    from optizoo.zoo.schedulefree import ScheduleFreeSGD as ScheduleFreeSGD
    from optizoo.zoo.sgd import SGD as SGD
    from optizoo.zoo.sgd import Momentum as Momentum
    from optizoo.zoo.signum import Signum as Signum
    from optizoo.zoo.stableadamw import StableAdamW as StableAdamW
    from optizoo.zoo.yogi import Yogi as Yogi

__version__ = "0.1.0"

# Where our names stand that are no optimizers of the zoo.
_HOMES = {
    "RuleOptimizer": "core.optimizer",
    "ScheduleLR": "schedulers",
    "check_bound": "groups",
    "create": "zoo",
    "explain": "core.explain",
    "from_rule": "custom",
    "list_optimizers": "zoo",
    "param_groups": "groups",
}
_MODULES = [
    "backends",
    "combinators",
    "core",
    "custom",
    "groups",
    "lr_scheduler",
    "rules",
    "schedulers",
    "schedules",
    "zoo",
]
_IMPORTED = ("cli", "lab", "streams", "testing")  # on purpose only: `from optizoo import cli` asks for a name first


def _names() -> list[str]:
    import torch

    return sorted({*_HOMES, *_MODULES, *import_module(f"{__name__}.zoo").classes(), *torch.optim.__all__})


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return _names()
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    if not name.startswith("_") and name not in _IMPORTED:
        import torch

        if name in (classes := import_module(f"{__name__}.zoo").classes()):
            return classes[name]
        if name in torch.optim.__all__:  # no rule of ours serves
            return getattr(torch.optim, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_names()})
