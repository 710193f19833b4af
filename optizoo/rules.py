"""The update rules, each written once, on the pages of :mod:`optizoo.zoo`; every execution of optizoo reads that text.

A rule is a free function ``(param, grad, *state, **options) -> (param, *state)``:

* Positional arguments after ``param, grad`` are the state, under the names that ``torch.optim`` gives it. A state with
  the default ``None`` may be absent: it is either switched on by an option or made by the rule at the first update.
* Keyword-only arguments are the hyper-parameters. ``step`` is the number of this update, counted from 1. A rule may
  name further numbers that are kept beside ``step``, such as ``mu_product`` of :func:`nadam`, and gets their new value.
* A rule is a pure function: it never writes in place, and nothing but its arguments decides what it does. It returns
  the new parameter and the new states, in the order of the arguments.
* Its words are ``+ - * /``, unary minus, ``add(x, alpha=)``, ``lerp``, ``addcmul``, ``addcdiv``, ``sqrt``, ``abs``,
  ``sign``, ``maximum``, ``clamp_min`` and ``clamp_max``, which tensors and traced expressions both know. ``if`` may
  look at hyper-parameters and at the absence of a state, never at tensors.

The fused words stand where ``torch.optim`` has them and in its order, which makes the rules bit-for-bit equal to it;
the symbols of the papers stand to the right: θ parameter, g gradient, α learning rate, λ weight decay.
"""

from typing import Any

from optizoo import zoo as _zoo
from optizoo.core.decay import regularized as regularized
from optizoo.zoo.adabelief import adabelief as adabelief
from optizoo.zoo.adadelta import adadelta as adadelta
from optizoo.zoo.adafactor import adafactor as adafactor
from optizoo.zoo.adagrad import adagrad as adagrad
from optizoo.zoo.adam import adam as adam
from optizoo.zoo.adam import adamw as adamw
from optizoo.zoo.adamax import adamax as adamax
from optizoo.zoo.adan import adan as adan
from optizoo.zoo.ademamix import ademamix as ademamix
from optizoo.zoo.adopt import adopt as adopt
from optizoo.zoo.asgd import asgd as asgd
from optizoo.zoo.cautious import cautiousadamw as cautiousadamw
from optizoo.zoo.lamb import lamb as lamb
from optizoo.zoo.lars import lars as lars
from optizoo.zoo.lion import lion as lion
from optizoo.zoo.muon import muon as muon
from optizoo.zoo.muon import muon_ratio as muon_ratio
from optizoo.zoo.muon import newton_schulz as newton_schulz
from optizoo.zoo.muon import normuon as normuon
from optizoo.zoo.nadam import nadam as nadam
from optizoo.zoo.nadam import nadam_momentum as nadam_momentum
from optizoo.zoo.prodigy import prodigy as prodigy
from optizoo.zoo.qhadam import qhadam as qhadam
from optizoo.zoo.radam import radam as radam
from optizoo.zoo.rmsprop import rmsprop as rmsprop
from optizoo.zoo.rprop import rprop as rprop
from optizoo.zoo.schedulefree import schedulefree_adamw as schedulefree_adamw
from optizoo.zoo.schedulefree import schedulefree_adamw_evaluated as schedulefree_adamw_evaluated
from optizoo.zoo.schedulefree import schedulefree_evaluated as schedulefree_evaluated
from optizoo.zoo.schedulefree import schedulefree_sgd as schedulefree_sgd
from optizoo.zoo.sgd import momentum as momentum
from optizoo.zoo.sgd import momentum_lr_in_velocity as momentum_lr_in_velocity
from optizoo.zoo.sgd import sgd as sgd
from optizoo.zoo.signum import signum as signum
from optizoo.zoo.stableadamw import stableadamw as stableadamw
from optizoo.zoo.yogi import yogi as yogi


def __getattr__(name: str) -> Any:  # the rules of pages that are not named above
    if name.startswith("_") or name not in (rules := _zoo.rules()):
        raise AttributeError(f"module {__name__!r} has no rule {name!r}")
    return rules[name]


def __dir__() -> list[str]:
    return sorted({"regularized", *_zoo.rules()})
