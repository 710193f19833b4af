"""The range test finds the known limit of a quadratic, says when it knows nothing, and leaves everything alone."""

import threading
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import optizoo
from optizoo.lab import find_lr

CURVATURE = 4.0  # L: gradient descent diverges above 2 / L


def quadratic(start: float = 1.0) -> nn.Module:
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(model.weight, start)
    return model


def bowl(model: nn.Module, batch: object) -> Tensor:
    return CURVATURE / 2 * model.weight.square().sum()  # type: ignore[operator,union-attr]


def classifier() -> tuple[nn.Module, TensorDataset]:
    torch.manual_seed(0)
    x = torch.randn(64, 5)
    return nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.Linear(8, 3)), TensorDataset(x, x[:, :3].argmax(1))


# What is suggested ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("curvature", [0.5, 4.0, 100.0])
def test_the_minimum_is_at_two_over_l(curvature: float):
    """On a quadratic the loss falls in every step below 2/L and rises above: the minimum is the first rate above it."""
    model = quadratic()
    sgd = optizoo.SGD(model.parameters(), lr=1.0)
    loss = lambda model, batch: curvature / 2 * model.weight.square().sum()  # noqa: E731
    found = find_lr(model, sgd, loss, [None], low=1e-4, high=100.0, steps=200, smoothing=0.0)
    limit, factor = 2 / curvature, found.lrs[1] / found.lrs[0]
    assert found.tenth is not None
    assert limit <= 10 * found.tenth <= limit * factor
    assert found.diverged
    assert found.steepest is not None
    assert found.steepest < limit
    assert found.suggestion == min(found.steepest, found.tenth)


def test_the_losses_are_those_of_the_sweep():
    """Every step takes its rate: losses are L/2 times the squared product of 1 - lr L so far, to the last bits."""
    model = quadratic()
    found = find_lr(model, optizoo.SGD(model.parameters(), lr=1.0), bowl, [None], low=1e-3, high=0.1, steps=30)
    weight = 1.0
    assert found.lrs[0] == 1e-3
    assert found.lrs[-1] == pytest.approx(0.1)
    for lr, loss in zip(found.lrs, found.losses, strict=True):
        assert loss == pytest.approx(CURVATURE / 2 * weight**2, rel=1e-12)
        weight *= 1 - lr * CURVATURE


def test_smoothing_is_the_exponential_mean():
    """The smoothed loss is the weighted mean of the losses so far, with weights that fall by ``smoothing``."""
    model = quadratic()
    found = find_lr(model, optizoo.SGD(model.parameters(), lr=1.0), bowl, [None], smoothing=0.7)
    for end in (1, 7, 20):
        weights = [0.7 ** (end - 1 - index) for index in range(end)]
        mean = sum(w * loss for w, loss in zip(weights, found.losses, strict=False)) / sum(weights)
        assert found.smoothed[end - 1] == pytest.approx(mean)


def test_nothing_is_suggested_from_a_flat_curve():
    """Rates too small to move the loss, a loss that is constant, and one of nothing but noise give no suggestion."""
    model = quadratic()
    sgd = optizoo.SGD(model.parameters(), lr=1.0)
    noise = torch.Generator().manual_seed(0)
    for loss in (
        bowl,
        lambda model, batch: 0 * model.weight.sum() + 1,
        lambda model, batch: 0 * model.weight.sum() + torch.randn((), generator=noise) + 10,
    ):
        found = find_lr(model, sgd, loss, [None], low=1e-9, high=1e-7)
        assert found.suggestion is None
        assert "flat" in found.remark
        assert "raise high" in str(found)


def test_nothing_is_suggested_from_a_run_that_diverges_at_once():
    """A sweep that begins above the limit says so, and what to do."""
    model = quadratic()
    found = find_lr(model, optizoo.SGD(model.parameters(), lr=1.0), bowl, [None], low=3.0, high=100.0)
    assert found.diverged
    assert found.suggestion is None
    assert "diverged at once" in str(found)
    assert "begin lower" in str(found)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_loss_that_is_not_finite_at_the_start_is_said_to_be_that(value: float):
    """No rate has anything to do with it, so none is advised."""
    model = quadratic()
    loss = lambda model, batch: bowl(model, batch) + value  # noqa: E731
    found = find_lr(model, optizoo.SGD(model.parameters(), lr=1.0), loss, [None])
    assert (len(found.losses), found.diverged, found.suggestion) == (1, True, None)
    assert str(found) == f"no suggestion: the loss is not finite at the start: {value}; check model, loss and batches"


def entropy(shift: float = 0.0, scale: float = 1.0):
    """Return the cross-entropy of a classifier, shifted and scaled."""
    return lambda model, batch: scale * nn.functional.cross_entropy(model(batch[0]), batch[1]) + shift


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("shift", [-1000.0, -1.0986, 1000.0])
def test_a_constant_added_to_the_loss_changes_nothing(name: str, shift: float):
    """Gradients are the same, so the sweep is: its length, its rates, and what is read from them."""
    model, dataset = classifier()
    model.double()
    batches = [(x.double(), y) for x, y in DataLoader(dataset, batch_size=16)]
    optimizer = optizoo.create(name, model, lr=0.01)
    plain, shifted = (find_lr(model, optimizer, entropy(by), batches, high=100.0) for by in (0.0, shift))
    assert len(plain.losses) > 50
    assert (shifted.lrs, shifted.suggestion, shifted.remark) == (plain.lrs, plain.suggestion, plain.remark)
    assert plain.suggestion is not None
    assert shifted.losses == pytest.approx([loss + shift for loss in plain.losses])


@pytest.mark.parametrize("scale", [1e-6, 0.1, 100.0, 1e6])
def test_a_scaled_loss_is_read_alike(scale: float):
    """SGD undoes the factor by its rate: the sweep over rates divided by it is the same curve."""
    model, dataset = classifier()
    model.double()
    batches = [(x.double(), y) for x, y in DataLoader(dataset, batch_size=16)]
    sgd = optizoo.SGD(model.parameters(), lr=0.01)
    plain = find_lr(model, sgd, entropy(), batches, high=100.0)
    scaled = find_lr(model, sgd, entropy(scale=scale), batches, low=1e-6 / scale, high=100.0 / scale)
    assert len(scaled.lrs) == len(plain.lrs)
    assert plain.suggestion is not None
    assert scaled.suggestion is not None
    assert scaled.suggestion * scale == pytest.approx(plain.suggestion)


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize(
    ("dtype", "shift"), [(torch.float32, 0.0), (torch.float32, 1e3), (torch.float64, -2.0), (torch.float64, 1e3)]
)
def test_rates_far_below_all_limits_are_flat(name: str, shift: float, dtype: torch.dtype):
    """A loss that falls in proportion to the rates has shown no curvature, and rounding is no fall."""
    model = quadratic().to(dtype)
    loss = lambda model, batch: bowl(model, batch) + shift  # noqa: E731
    found = find_lr(model, optizoo.create(name, model, lr=1.0), loss, [None], low=1e-9, high=1e-7)
    assert (len(found.losses), found.diverged, found.suggestion) == (100, False, None)
    assert "raise high above 1e-07" in found.remark


def test_a_sweep_that_ends_before_the_limit_says_so():
    """Where the loss still falls at the last rate, the suggestion comes with a remark."""
    model = quadratic()
    found = find_lr(model, optizoo.SGD(model.parameters(), lr=1.0), bowl, [None], low=1e-3, high=0.1)
    assert not found.diverged
    assert found.suggestion is not None
    assert "did not diverge up to lr = 0.1" in str(found)


# What is left alone ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_everything_is_left_as_it_was(name: str):
    """Model, gradients, optimizer with its state, and the random state are those of before the sweep."""
    model, dataset = classifier()
    optimizer = optizoo.create(name, model, lr=0.01)
    nn.CrossEntropyLoss()(model(dataset.tensors[0]), dataset.tensors[1]).backward()
    optimizer.step()
    weights, state = deepcopy(model.state_dict()), deepcopy(optimizer.state_dict())
    grads = [deepcopy(param.grad) for param in model.parameters()]
    random = torch.get_rng_state()
    find_lr(model, optimizer, nn.CrossEntropyLoss(), DataLoader(dataset, batch_size=16, shuffle=True))
    assert torch.equal(torch.get_rng_state(), random)
    torch.testing.assert_close(model.state_dict(), weights, rtol=0, atol=0)
    assert optimizer.state_dict()["param_groups"] == state["param_groups"]
    torch.testing.assert_close(optimizer.state_dict()["state"], state["state"], rtol=0, atol=0)
    torch.testing.assert_close([param.grad for param in model.parameters()], grads, rtol=0, atol=0)


def test_the_same_twice():
    """As random numbers begin where the caller's are, the sweep is the same again."""
    model, dataset = classifier()
    optimizer = optizoo.Adam(model.parameters(), lr=0.01)
    loader = DataLoader(dataset, batch_size=16, shuffle=True)
    one, two = (find_lr(model, optimizer, nn.CrossEntropyLoss(), loader) for _ in range(2))
    assert one == two


@pytest.mark.parametrize("tensor", [False, True])
def test_groups_keep_their_ratios(tensor: bool):
    """The largest rate is swept, and a group with a tenth of it gets a tenth; a rate in a tensor stays the caller's."""
    model = nn.Linear(1, 1).double()
    rates = [torch.tensor(1.0), torch.tensor(0.1)] if tensor else [1.0, 0.1]
    seen = []

    class Spy(torch.optim.SGD):
        def step(self, closure=None):  # type: ignore[override]
            seen.append([float(group["lr"]) for group in self.param_groups])
            return super().step(closure)

    groups = [{"params": [model.weight], "lr": rates[0]}, {"params": [model.bias], "lr": rates[1]}]
    find_lr(model, Spy(groups, foreach=False), lambda m, b: m(torch.ones(1, 1).double()).sum() ** 2, [None], high=0.01)
    assert len(seen) == 100
    for large, small in seen:
        assert small == pytest.approx(large / 10)
    assert [float(rate) for rate in rates] == pytest.approx([1.0, 0.1])


class Guarded(torch.optim.SGD):
    """Has attributes of its own, some of which have no copy."""

    def __init__(self, params, lr: float) -> None:
        super().__init__(params, lr=lr)
        self.lock, self.count, self.taken = threading.Lock(), lambda: 1, [0]

    def step(self, closure=None):  # type: ignore[override]
        with self.lock:
            self.taken[0] += self.count()
            return super().step(closure)


class GuardedZoo(optizoo.SGD):
    """The same on an optimizer of ours."""

    def __init__(self, params, lr: float) -> None:
        super().__init__(params, lr=lr)
        self.lock, self.taken = threading.Lock(), [0]

    def step(self, closure=None):  # type: ignore[override]
        with self.lock:
            self.taken[0] += 1
            return super().step(closure)


class Sharpness(torch.optim.Optimizer):
    """Steps another optimizer that it holds, as SAM and Lookahead do."""

    def __init__(self, params, lr: float) -> None:
        super().__init__(params, {"lr": lr})
        self.inner = torch.optim.Adam(self.param_groups)
        self.param_groups = self.inner.param_groups
        self.taken = [0]

    def step(self, closure=None):  # type: ignore[override]
        self.taken[0] += 1
        return self.inner.step(closure)


@pytest.mark.parametrize("build", [Guarded, GuardedZoo, Sharpness])
@pytest.mark.parametrize("scheduled", [False, True], ids=["alone", "with a scheduler"])
def test_optimizers_with_attributes_of_their_own(build, scheduled: bool):
    """Attributes come along: copied where they can be, shared where not; the original's stay as they are."""
    model, dataset = classifier()
    optimizer = build(model.parameters(), lr=0.01)
    if scheduled:  # it puts a step of its own onto the optimizer
        torch.optim.lr_scheduler.StepLR(optimizer, 3)
    nn.CrossEntropyLoss()(model(dataset.tensors[0]), dataset.tensors[1]).backward()
    optimizer.step()
    weights, attributes = deepcopy(model.state_dict()), dict(vars(optimizer))
    state = deepcopy(optimizer.state_dict())
    found = find_lr(model, optimizer, nn.CrossEntropyLoss(), DataLoader(dataset, batch_size=16))
    assert len(found.losses) > 10
    assert optimizer.taken == [1]
    assert vars(optimizer) == attributes
    assert optimizer.state_dict()["param_groups"] == state["param_groups"]
    torch.testing.assert_close(model.state_dict(), weights, rtol=0, atol=0)
    optimizer.step()
    assert optimizer.taken == [2]


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_old_style_weight_norm():
    """The weight that such a layer makes in every call is made anew in the copy."""
    model = nn.Sequential(nn.utils.weight_norm(nn.Linear(5, 8)), nn.Tanh(), nn.Linear(8, 3))
    _, dataset = classifier()
    weight = model[0].weight
    found = find_lr(model, optizoo.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss(), DataLoader(dataset, 16))
    assert found.suggestion is not None
    assert model[0].weight is weight


def test_a_loss_with_buffers_is_left_as_it_was():
    """A loss that is a module is copied, too."""

    class Running(nn.CrossEntropyLoss):
        def __init__(self) -> None:
            super().__init__()
            self.calls: Tensor
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, input: Tensor, target: Tensor) -> Tensor:  # noqa: A002
            self.calls += 1
            return super().forward(input, target)

    model, dataset = classifier()
    loss = Running()
    find_lr(model, optizoo.SGD(model.parameters(), lr=0.1), loss, DataLoader(dataset, batch_size=16))
    assert loss.calls == 0


# Arguments ------------------------------------------------------------------------------------------------------------


def test_batches_begin_anew_or_are_too_few():
    """A list is begun again; an iterator that ends is an error that says how many it gave."""
    model = quadratic()
    sgd = optizoo.SGD(model.parameters(), lr=1.0)
    assert len(find_lr(model, sgd, bowl, [None] * 3, high=0.1).lrs) == 100
    with pytest.raises(ValueError, match="batches yielded 30 of the 100"):
        find_lr(model, sgd, bowl, iter([None] * 30), high=0.1)
    with pytest.raises(ValueError, match="batches yielded 0 of the 100"):
        find_lr(model, sgd, bowl, [])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low": 0.0}, r"low must be above 0 and below high, got low = 0\.0 and high = 10\.0"),
        ({"low": 1.0, "high": 0.1}, "below high"),
        ({"steps": 19}, "steps must be at least 20, got 19"),
        ({"smoothing": 1.0}, r"smoothing must be at least 0 and below 1, got 1\.0"),
        ({"divergence": 1.0}, r"divergence must be above 1, got 1\.0"),
    ],
)
def test_arguments_out_of_range(options: dict[str, float], message: str):
    """What cannot be is refused, with the value."""
    model = quadratic()
    with pytest.raises(ValueError, match=message):
        find_lr(model, optizoo.SGD(model.parameters(), lr=1.0), bowl, [None], **options)  # type: ignore[arg-type]


def test_the_optimizer_is_the_model_s():
    """An optimizer of another model would leave this one where it is: refused."""
    with pytest.raises(ValueError, match="not the model's"):
        find_lr(quadratic(), optizoo.SGD(quadratic().parameters(), lr=1.0), bowl, [None])
