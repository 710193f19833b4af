"""Deliberate mistakes: every one is the true text of the rules with one place changed.

A test kit that lets one of them pass does not test optimizers. ``build(params)`` makes the mistaken optimizer and
``reference(params)`` the true one from ``torch.optim``, both with the options under which the mistake shows.

    >>> from optizoo.testing import assert_equivalent
    >>> mutant = next(m for m in MUTANTS if m.name == "adam-eps-inside-root")
    >>> try:
    ...     assert_equivalent(mutant.build, mutant.reference)
    ... except AssertionError:
    ...     print("seen")
    seen
"""

import inspect
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch.optim import Optimizer

from optizoo import rules
from optizoo.core.optimizer import RuleOptimizer
from optizoo.testing import textbook
from optizoo.testing.twins import has_torch_twin, torch_twin, with_rules
from optizoo.zoo import optimizer_class


@dataclass(frozen=True)
class Mutant:
    """One mistake.

    Attributes:
        name: Says what is wrong.
        optimizer: Name of the optimizer that makes the mistake.
        true: The text in the rule; empty where the mistake is one of the options.
        mistaken: What stands in its place.
        options: Options of the constructor.
        rule: The rule in which the text stands, if its name is not that of the optimizer.
        mistaken_options: Options that the mistaken optimizer has otherwise, for what stands in no rule.
    """

    name: str
    optimizer: str
    true: str
    mistaken: str
    options: Mapping[str, Any] = field(default_factory=dict)
    rule: str = ""
    mistaken_options: Mapping[str, Any] = field(default_factory=dict)

    def build(self, params: Any) -> RuleOptimizer:
        """Make the optimizer with the mistake."""
        mutated = _mutated(self.rule or self.optimizer, self.true, self.mistaken) if self.true else rules
        return with_rules(optimizer_class(self.optimizer), mutated)(params, **{**self.options, **self.mistaken_options})

    def reference(self, params: Any) -> Optimizer:
        """Make the true optimizer; in textbook form where torch has none."""
        if has_torch_twin(self.optimizer, **self.options):
            return torch_twin(self.optimizer, params, foreach=False, **self.options)
        return with_rules(optimizer_class(self.optimizer), textbook)(params, foreach=False, **self.options)


def _mutated(rule: str, true: str, mistaken: str) -> types.ModuleType:
    """Return a copy of the rules in which ``true`` reads ``mistaken`` in one place of the function ``rule``."""
    function = inspect.getsource(getattr(rules, rule))
    if function.count(true) != 1:
        raise ValueError(f"the text {true!r} stands {function.count(true)} times in rule {rule!r}; it must stand once")
    source = "\n\n\n".join(inspect.getsource(each) for _, each in inspect.getmembers(rules, inspect.isfunction))
    module = types.ModuleType("mutated_rules")
    exec(compile(source.replace(function, function.replace(true, mistaken)), "<mutated rules>", "exec"), vars(module))
    return module


_DECAY = {"weight_decay": 0.1}
_OUTSIDE = {"weight_decay": 0.01, "weight_decay_mode": "independent", "lr": 0.01}
_NET = {"lr": 0.01, "weight_decay": 0.1, "l1": 0.01}
_TINY_LR = {"lr": 1e-5}
_IN_VELOCITY = "momentum_lr_in_velocity"
_VELOCITY = {"lr": 0.01, "lr_in_velocity": True}
_MOMENTUM = {"lr": 0.01, "momentum": 0.9}

MUTANTS: tuple[Mutant, ...] = (
    # SGD
    Mutant("sgd-ascends", "sgd", "alpha=-lr", "alpha=lr"),
    Mutant("sgd-lr-1-percent-off", "sgd", "alpha=-lr", "alpha=-1.01 * lr", _TINY_LR),
    Mutant("sgd-no-decay", "sgd", "alpha=weight_decay", "alpha=0.0", {**_DECAY, **_TINY_LR}),
    Mutant("sgd-decay-times-lr", "sgd", "alpha=weight_decay", "alpha=lr * weight_decay", {**_DECAY, **_TINY_LR}),
    Mutant("sgd-decay-halved", "sgd", "alpha=weight_decay", "alpha=weight_decay / 2", {**_DECAY, **_TINY_LR}),
    # Momentum
    Mutant("momentum-dampened-first-step", "momentum", "buffer = grad", "buffer = grad * (1 - dampening)",
           {**_MOMENTUM, "dampening": 0.5}),
    Mutant("momentum-dampening-ignored", "momentum", "alpha=1 - dampening", "alpha=1",
           {**_MOMENTUM, "dampening": 0.5}),
    Mutant("momentum-averages", "momentum", "alpha=1 - dampening", "alpha=1 - momentum", _MOMENTUM),
    Mutant("momentum-nesterov-ignored", "momentum", "if nesterov", "if False", {**_MOMENTUM, "nesterov": True}),
    Mutant("momentum-nesterov-without-gradient", "momentum", "grad.add(momentum_buffer, alpha=momentum)",
           "momentum_buffer * momentum", {**_MOMENTUM, "nesterov": True}),
    Mutant("momentum-nesterov-looks-ahead-twice", "momentum", "grad.add(momentum_buffer, alpha=momentum)",
           "momentum_buffer.add(momentum_buffer, alpha=momentum)", {**_MOMENTUM, "nesterov": True}),
    Mutant("momentum-decoupled-decay", "momentum", "grad = grad.add(param, alpha=weight_decay)",
           "param = param * (1 - lr * weight_decay)", {**_MOMENTUM, **_DECAY}),
    # Momentum with the learning rate in the velocity
    Mutant("velocity-without-lr", "momentum", "(velocity * momentum).add(grad, alpha=-lr)",
           "(velocity * momentum).add(grad, alpha=-1)", _VELOCITY, _IN_VELOCITY),
    Mutant("velocity-times-lr", "momentum", "param + velocity,", "param.add(velocity, alpha=lr),",
           _VELOCITY, _IN_VELOCITY),
    Mutant("velocity-nesterov-without-gradient", "momentum", "alpha=momentum).add(grad, alpha=-lr)", "alpha=momentum)",
           {**_VELOCITY, "nesterov": True}, _IN_VELOCITY),
    # RMSprop
    Mutant("rmsprop-eps-inside-root", "rmsprop", "variance.sqrt() + eps", "(variance + eps).sqrt()"),
    Mutant("rmsprop-eps-1e-7", "rmsprop", "sqrt() + eps", "sqrt() + 1e-7", _TINY_LR),
    Mutant("rmsprop-no-eps", "rmsprop", "sqrt() + eps", "sqrt() + 1e-30"),
    Mutant("rmsprop-eps-outside-root", "rmsprop", "if eps_inside_sqrt else", "if False else",
           {"eps_inside_sqrt": True}),
    Mutant("rmsprop-starts-at-zero", "rmsprop", "", "",
           {"initial_accumulator": 1.0}, mistaken_options={"initial_accumulator": 0.0}),
    Mutant("rmsprop-alpha-swapped", "rmsprop", "(square_avg * alpha).addcmul(grad, grad, value=1 - alpha)",
           "(square_avg * (1 - alpha)).addcmul(grad, grad, value=alpha)"),
    Mutant("rmsprop-not-centered", "rmsprop", "if centered:", "if False:", {"centered": True, **_TINY_LR}),
    Mutant("rmsprop-centered-without-square", "rmsprop", "addcmul(grad_avg, grad_avg, value=-1)",
           "addcmul(grad_avg, grad, value=-1)", {"centered": True}),
    Mutant("rmsprop-momentum-averages", "rmsprop", "addcdiv(grad, denom)", "addcdiv(grad, denom, value=1 - momentum)",
           {"momentum": 0.9}),
    Mutant("rmsprop-decay-outside-moments", "rmsprop", "grad = grad.add(param, alpha=weight_decay)",
           "param = param * (1 - lr * weight_decay)", {**_DECAY, **_TINY_LR}),
    # Adam
    Mutant("adam-eps-inside-root", "adam", "second_moment.sqrt() / bias_correction2**0.5 + eps",
           "(second_moment / bias_correction2 + eps).sqrt()"),
    Mutant("adam-eps-before-correction", "adam", "second_moment.sqrt() / bias_correction2**0.5 + eps",
           "(second_moment.sqrt() + eps) / bias_correction2**0.5", _TINY_LR),
    Mutant("adam-eps-1e-7", "adam", "+ eps", "+ 1e-7", _TINY_LR),
    Mutant("adam-no-correction-1", "adam", "1 - beta1**step if bias_correction else 1.0", "1.0"),
    Mutant("adam-no-correction-2", "adam", "1 - beta2**step if bias_correction else 1.0", "1.0"),
    Mutant("adam-correction-1-uses-beta2", "adam", "1 - beta1**step", "1 - beta2**step"),
    Mutant("adam-correction-2-uses-beta1", "adam", "1 - beta2**step", "1 - beta1**step"),
    Mutant("adam-correction-2-without-root", "adam", "bias_correction2**0.5", "bias_correction2"),
    Mutant("adam-step-counts-from-2", "adam", "beta1, beta2 = betas", "(beta1, beta2), step = betas, step + 1",
           _TINY_LR),
    Mutant("adam-correction-1-from-2", "adam", "1 - beta1**step", "1 - beta1 ** (step + 1)", _TINY_LR),
    Mutant("adam-betas-swapped", "adam", "beta1, beta2 = betas", "beta2, beta1 = betas"),
    Mutant("adam-no-square", "adam", "addcmul(grad, grad, value", "addcmul(grad, grad.sign(), value"),
    Mutant("adam-amsgrad-ignored", "adam", "max_exp_avg_sq.maximum(exp_avg_sq)", "exp_avg_sq", {"amsgrad": True}),
    Mutant("adam-amsgrad-forgets", "adam", "second_moment = max_exp_avg_sq = max_exp_avg_sq.maximum(exp_avg_sq)",
           "second_moment = max_exp_avg_sq.maximum(exp_avg_sq); max_exp_avg_sq = exp_avg_sq", {"amsgrad": True}),
    Mutant("adam-decays-twice", "adam", "return param, exp_avg",
           "param = param.add(param, alpha=-lr * weight_decay); return param, exp_avg", {**_DECAY, **_TINY_LR}),
    Mutant("adam-decoupled-decay", "adam", "grad = grad.add(param, alpha=weight_decay)",
           "param = param * (1 - lr * weight_decay)", {**_DECAY, **_TINY_LR}),
    Mutant("adam-corrects-what-it-should-not", "adam", "if bias_correction else 1.0  # 1 - β₁ᵗ", "  # 1 - β₁ᵗ",
           {"bias_correction": False}),
    # AdamW
    Mutant("adamw-l2", "adamw", "param = param * (1 - lr * weight_decay)",
           "grad = grad.add(param, alpha=weight_decay)", {**_DECAY, **_TINY_LR}),
    Mutant("adamw-decay-without-lr", "adamw", "1 - lr * weight_decay", "1 - 1e-3 * weight_decay",
           {**_DECAY, **_TINY_LR}),
    Mutant("adamw-no-decay", "adamw", "1 - lr * weight_decay", "1.0", {**_DECAY, **_TINY_LR}),
    Mutant("adamw-decays-twice", "adamw", "weight_decay=0,", "weight_decay=weight_decay,", {**_DECAY, **_TINY_LR}),
    Mutant("adamw-decay-grows", "adamw", "1 - lr * weight_decay", "1 + lr * weight_decay", {**_DECAY, **_TINY_LR}),
    # (1 - αλ)(θ - αu) = (1 - αλ)θ - α(1 - αλ)u
    Mutant("adamw-decay-after-update", "adamw", "param = param * (1 - lr * weight_decay)",
           "param, lr = param * (1 - lr * weight_decay), lr * (1 - lr * weight_decay)", {**_DECAY, **_TINY_LR}),
    # Lion
    Mutant("lion-sign-of-new-momentum", "lion", "direction = exp_avg.lerp(grad, 1 - beta1).sign()",
           "direction = exp_avg.lerp(grad, 1 - beta2).sign()"),
    Mutant("lion-momentum-uses-beta1", "lion", "alpha=-lr), exp_avg.lerp(grad, 1 - beta2)",
           "alpha=-lr), exp_avg.lerp(grad, 1 - beta1)"),
    Mutant("lion-no-sign", "lion", ".lerp(grad, 1 - beta1).sign()", ".lerp(grad, 1 - beta1)"),
    Mutant("lion-l2", "lion", "param = param * (1 - lr * weight_decay)",
           "exp_avg = exp_avg.add(param, alpha=weight_decay)", _DECAY),
    # Rprop
    Mutant("rprop-moves-where-it-turns", "rprop", "grad = grad * (1 - turns)", "grad = grad * 1.0"),
    Mutant("rprop-unbounded", "rprop", ".clamp_max(largest)", "", {"step_sizes": (1e-6, 0.011)}),
    Mutant("rprop-no-smallest", "rprop", ".clamp_min(smallest)", "", {"step_sizes": (1e-3, 50)}),
    Mutant("rprop-etas-swapped", "rprop", "(shrink, grow), (smallest", "(grow, shrink), (smallest"),
    Mutant("rprop-gradient-not-sign", "rprop", "param.addcmul(grad.sign(), step_size", "param.addcmul(grad, step_size"),
    # Adagrad
    Mutant("adagrad-eps-inside-root", "adagrad", "sum.sqrt() + eps", "(sum + eps).sqrt()"),
    Mutant("adagrad-decay-from-step-1", "adagrad", "1 + (step - 1) * lr_decay", "1 + step * lr_decay",
           {"lr_decay": 0.01}),
    Mutant("adagrad-averages", "adagrad", "sum.addcmul(grad, grad)", "(sum * 0.99).addcmul(grad, grad, value=0.01)"),
    Mutant("adagrad-decoupled-decay", "adagrad", "grad = grad.add(param, alpha=weight_decay)",
           "param = param * (1 - lr * weight_decay)", {**_DECAY, **_TINY_LR}),
    # Adadelta
    Mutant("adadelta-eps-outside-root", "adadelta", "(square_avg + eps).sqrt()", "(square_avg.sqrt() + eps)"),
    Mutant("adadelta-new-delta-first", "adadelta", "return param.add(delta, alpha=-lr)",
           "return param.add((acc_delta + eps).sqrt() / (square_avg + eps).sqrt() * grad, alpha=-lr)"),
    Mutant("adadelta-lr-in-the-average", "adadelta", "acc_delta = (acc_delta * rho)",
           "delta = delta * lr; acc_delta = (acc_delta * rho)", {"lr": 0.5}),
    # Adamax
    Mutant("adamax-no-correction", "adamax", "-lr / (1 - beta1**step)", "-lr"),
    Mutant("adamax-eps-after-maximum", "adamax", "(exp_inf * beta2).maximum(grad.abs() + eps)",
           "(exp_inf * beta2).maximum(grad.abs()) + eps"),
    Mutant("adamax-forgets-nothing", "adamax", "(exp_inf * beta2).maximum", "exp_inf.maximum"),
    # NAdam
    Mutant("nadam-momentum-without-decay", "nadam",
           "mu = nadam_momentum(step, betas=betas, momentum_decay=momentum_decay)", "mu = beta1"),
    Mutant("nadam-no-look-ahead", "nadam", "value=-lr * mu_next / (1 - mu_product * mu_next)",
           "value=-lr * mu / (1 - mu_product)"),
    Mutant("nadam-eps-inside-root", "nadam", "(exp_avg_sq / (1 - beta2**step)).sqrt() + eps",
           "(exp_avg_sq / (1 - beta2**step) + eps).sqrt()"),
    Mutant("nadam-decay-coupled", "nadam", "if weight_decay and decoupled_weight_decay:", "if False:",
           {"decoupled_weight_decay": True, **_DECAY, **_TINY_LR}),
    # RAdam
    Mutant("radam-never-rectified", "radam", "if rho > 5.0:", "if False:"),
    Mutant("radam-threshold-of-the-paper", "radam", "if rho > 5.0:", "if rho > 4.0:"),
    Mutant("radam-inverse-rectification", "radam", "* rho)) ** 0.5  # r", "* rho)) ** -0.5  # r"),
    Mutant("radam-eps-inside-root", "radam", "(exp_avg_sq.sqrt() + eps)", "(exp_avg_sq + eps).sqrt()"),
    # The modes of the decay, and the proximal step
    Mutant("independent-decay-times-lr", "adamw", "-lr / max_lr * weight_decay", "-lr * weight_decay",
           _OUTSIDE, "regularized"),
    Mutant("independent-decay-without-schedule", "adamw", "-lr / max_lr * weight_decay", "-weight_decay",
           _OUTSIDE, "regularized"),
    Mutant("decoupled-decay-coupled", "sgd", 'weight_decay_mode == "coupled"', 'weight_decay_mode == "decoupled"',
           {**_MOMENTUM, **_DECAY, "weight_decay_mode": "decoupled"}, "regularized"),
    Mutant("decoupled-decay-without-lr", "rmsprop", "-lr * weight_decay", "-1e-3 * weight_decay",
           {**_DECAY, **_TINY_LR, "weight_decay_mode": "decoupled"}, "regularized"),
    Mutant("coupled-decay-twice", "sgd", "weight_decay=0,", "weight_decay=weight_decay,", _NET, "regularized"),
    Mutant("l1-without-lr", "sgd", "clamp_max(lr * l1)", "clamp_max(l1)", _NET, "regularized"),
    Mutant("l1-one-sided", "sgd", ".clamp_min(-lr * l1)", ".clamp_min(0)", _NET, "regularized"),
    Mutant("l1-subgradient", "sgd", "param - param.clamp_min(-lr * l1).clamp_max(lr * l1)",
           "param.add(param.sign(), alpha=-lr * l1)", _NET, "regularized"),
    Mutant("l1-before-the-update", "sgd", "param, *state = rule(param,",
           "param, *state = rule(param - param.clamp_min(-lr * l1).clamp_max(lr * l1),",
           {**_MOMENTUM, "l1": 0.01}, "regularized"),
    Mutant("l1-in-the-gradient", "adam", "param, *state = rule(param, grad,",
           "param, *state = rule(param, grad.add(param.sign(), alpha=l1),", {"l1": 0.01}, "regularized"),
)  # fmt: skip
"""Every mutant, in the order of the zoo."""
