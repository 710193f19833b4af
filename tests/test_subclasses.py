"""Tensor subclasses as parameters: the words of torch's own loop are enough, and its bits come out."""

import copy
import warnings
from typing import ClassVar

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.parameter import UninitializedParameter

import optizoo
from optizoo.testing import has_torch_twin, torch_twin
from optizoo.zoo import optimizer_class
from tests.zoo import FEW, parameters

TWINNED = [case for case in FEW if has_torch_twin(case.values[0], **case.values[1])]  # pyright: ignore


class Stored(Tensor):
    """A tensor whose values live elsewhere, in another form, as those of quantized weights do; it knows few words."""

    allowed: ClassVar[set[str] | None] = None
    seen: ClassVar[set[str]] = set()

    @staticmethod
    def __new__(cls, halves):
        """Make a tensor of twice the values."""
        return torch.Tensor._make_wrapper_subclass(cls, halves.shape, dtype=halves.dtype, device=halves.device)

    def __init__(self, halves):
        self.halves = halves

    def values(self):
        """Return the values as a plain tensor."""
        return self.halves * 2

    def __tensor_flatten__(self):
        """Name the inner tensor."""
        return ["halves"], None

    @classmethod
    def __tensor_unflatten__(cls, inner, meta, size, stride):
        """Make a tensor of an inner one."""
        return cls(inner["halves"])

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        """Run an operation on the values; results are plain, but for copies and what is written in place."""
        name = func.overloadpacket.__name__
        Stored.seen.add(name)
        if Stored.allowed is not None and name not in Stored.allowed:
            raise NotImplementedError(f"Stored does not know {name}")
        plain = [arg.values() if isinstance(arg, Stored) else arg for arg in args]
        result = func(*plain, **(kwargs or {}))
        if name.endswith("_") and isinstance(args[0], Stored):
            args[0].halves.copy_(plain[0] / 2)
            return args[0]
        return cls(result / 2) if name in ("detach", "clone", "alias") else result


def made(make, name, options, **how):
    """Return a parameter that is stored elsewhere, and its optimizer."""
    param = Parameter(Stored(parameters(of=name)[0].detach() / 2))
    return param, make(name, [param], **options, **how)


def driven(param, optimizer, steps):
    """Step with gradients that are plain tensors, as those of quantized weights are."""
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        param.grad = Stored(torch.randn(param.shape, generator=generator) / 2)
        optimizer.step()
    return param.detach().values()


@pytest.mark.parametrize("how", [{}, {"foreach": False}], ids=["default", "loop"])
@pytest.mark.parametrize(("name", "options"), TWINNED)
def test_no_more_words_than_torchs_loop(name, options, how):
    """A subclass that knows what torch's loop asks for steps here too, and ends at the same bits."""
    Stored.allowed, Stored.seen = None, set()
    theirs = driven(*made(torch_twin, name, options, foreach=False), range(4))
    Stored.allowed = set(Stored.seen)
    try:
        ours = driven(*made(optizoo.create, name, options, **how), range(4))
    finally:
        Stored.allowed = None
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("name", "options"), FEW)
def test_subclasses_beside_plain_tensors(name, options):
    """A group may hold both; a copy, a checkpoint and a duplicate of the subclass go on as plain ones do."""
    plain = parameters(of=name)
    stored = [Parameter(Stored(plain[0].detach() / 2)), Parameter(plain[1].detach().clone())]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "optimizer contains a parameter group with duplicate parameters")
        runs = [(params, optizoo.create(name, [*params, params[0]], **options)) for params in (plain, stored)]
    for step in range(4):
        for params, optimizer in runs:
            for param in params:
                generator = torch.Generator().manual_seed(step)
                grad = torch.randn(param.shape, generator=generator)
                param.grad = Stored(grad / 2) if isinstance(param, Stored) else grad
            optimizer.step()
    torch.testing.assert_close(stored[0].detach().values(), plain[0].detach())
    torch.testing.assert_close(stored[1], plain[1])
    assert "Stored" in optizoo.explain(runs[1][1]) or "loop" in optizoo.explain(runs[1][1])
    runs[1][1].load_state_dict(copy.deepcopy(runs[0][1].state_dict()))
    runs[1][1].step()


def test_parameters_that_are_not_there_yet():
    """A lazy module's parameters may be given before they have a shape, as to torch."""
    ends = []
    for library in (optizoo, torch.optim):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.LazyLinear(3), torch.nn.Linear(3, 2))
        assert isinstance(model[0].weight, UninitializedParameter)
        optimizer = library.Adam(model.parameters(), lr=0.1)
        optimizer.state_dict()
        for _ in range(5):
            optimizer.zero_grad()
            model(torch.ones(4, 5)).square().sum().backward()
            optimizer.step()
        ends.append([param.detach() for param in model.parameters()])
    for ours, theirs in zip(*ends, strict=True):
        torch.testing.assert_close(ours, theirs)


class Named(Tensor):
    """A subclass that only has a name, and keeps it through torch's functions."""


@pytest.mark.parametrize(("name", "options"), TWINNED)
def test_a_subclass_that_is_a_plain_tensor_otherwise(name, options):
    """Subclasses without words of their own come out with torch's bits."""
    ends = []
    for make in (optizoo.create, torch_twin):
        params = [Parameter(param.detach().as_subclass(Named)) for param in parameters(of=name)]
        assert isinstance(params[0], Named)
        optimizer = make(name, params, **options, **({"foreach": False} if make is torch_twin else {}))
        for step in range(5):
            for param in params:
                param.grad = torch.randn(param.shape, generator=torch.Generator().manual_seed(step))
            optimizer.step()
        ends.append([param.detach().as_subclass(Tensor) for param in params])
    for ours, theirs in zip(*ends, strict=True):
        assert torch.equal(ours, theirs)


VIEWS = {  # what makes a parameter of values, and reads them back
    "negated": (lambda values: torch.complex(torch.zeros_like(values), -values).conj().imag, lambda tensor: tensor),
    "conjugate": (lambda values: torch.complex(values, -values).conj(), lambda tensor: tensor.real),
    "complex": (lambda values: torch.complex(values, values), lambda tensor: tensor.real),
    "real part": (lambda values: torch.complex(values, values).real, lambda tensor: tensor),
    "transposed": (lambda values: values.t().contiguous().t(), lambda tensor: tensor),
}


@pytest.mark.thin
@pytest.mark.parametrize("foreach", [None, False, True], ids=["default", "loop", "foreach"])
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(("name", "options"), TWINNED)
def test_views_whose_memory_holds_something_else(name, options, view, foreach):
    """Parameters and gradients that are negated, conjugate or strided views end at the values of plain ones."""
    make_view, read = VIEWS[view]
    if view in ("conjugate", "complex") and not optimizer_class(name).supports_complex:
        pytest.skip(f"{name} has no meaning for complex parameters, and says so")
    plain = parameters(of=name)[:1]
    seen = [make_view(plain[0].detach().clone()).requires_grad_()]
    assert torch.equal(read(seen[0]), plain[0])
    expected = optizoo.create(name, plain, foreach=False, **options)
    optimizer = optizoo.create(name, seen, foreach=foreach, **options)
    for step in range(5):
        values = torch.randn(plain[0].shape, generator=torch.Generator().manual_seed(step))
        plain[0].grad, seen[0].grad = values, make_view(values)
        for each in (expected, optimizer):
            each.step()
    torch.testing.assert_close(read(seen[0]).detach().clone(), plain[0].detach())
