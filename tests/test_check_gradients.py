"""The gradient check: right models are happy, mistakes get their verdict, kinks are not called mistakes."""

import itertools
import threading
from collections import namedtuple
from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, multi_margin_loss

from optizoo.testing import check_gradients

Pair = namedtuple("Pair", ["x", "y"])


def data(n: int = 6, inputs: int = 5, classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(n, inputs, generator=generator), torch.arange(n) % classes


def smooth() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))


class Planted(torch.autograd.Function):
    """Squares; its backward makes the mistake that it is given."""

    @staticmethod
    def forward(ctx, values: Tensor, mistake: str) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(values)
        ctx.mistake = mistake
        return values.square() + 0.5 * values

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        (values,) = ctx.saved_tensors
        right = 2 * values + 0.5
        return grad * {
            "none": right,
            "sign": -right,
            "factor 2": 2 * right,
            "missing term": 2 * values,
            "one in a thousand": right * (1 + 1e-3),
            "one in a million": right * (1 + 1e-6),
            "not a number": right * torch.nan,
        }[ctx.mistake], None


class Mistaken(nn.Module):
    """A layer with a planted mistake, and with a ReLU behind it where there are to be kinks."""

    def __init__(self, mistake: str, *, relu: bool = False) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layer, self.output, self.mistake = nn.Linear(5, 4), nn.Linear(4, 3), mistake
        self.relu = nn.ReLU() if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = Planted.apply(self.layer(x), self.mistake)  # type: ignore[assignment]
        return self.output(self.relu(hidden))


def verdicts(model: nn.Module, **options) -> dict[str, str]:
    return {param.name: param.verdict for param in check_gradients(model, cross_entropy_loss, data(), **options).params}


def cross_entropy_loss(model: nn.Module, batch) -> Tensor:
    return cross_entropy(model(batch[0]), batch[1])


# Verdicts -------------------------------------------------------------------------------------------------------------


def test_a_right_model_is_happy():
    """Backward of torch agrees with differences to the rounding of float64, in every element."""
    found = check_gradients(smooth(), nn.CrossEntropyLoss(), data(), elements=None)
    assert {param.verdict for param in found.params} == {"happy"}
    assert [len(param.index) for param in found.params] == [20, 4, 12, 3]
    assert found.ok
    assert found.error < 1e-7
    found.assert_ok()


@pytest.mark.parametrize(
    ("mistake", "verdict"),
    [
        ("none", "happy"),
        ("sign", "wrong"),
        ("factor 2", "wrong"),
        ("missing term", "wrong"),
        ("one in a thousand", "uneasy"),
        ("one in a million", "uneasy"),
        ("not a number", "wrong"),
    ],
)
def test_a_planted_mistake_gets_its_verdict(mistake: str, verdict: str):
    """The parameters before the mistake get the verdict of its size; those behind it, which it does not reach, none."""
    found = verdicts(Mistaken(mistake), elements=None)
    assert found == {
        "layer.weight": verdict, "layer.bias": verdict, "output.weight": "happy", "output.bias": "happy"
    }  # fmt: skip
    check = check_gradients(Mistaken(mistake), cross_entropy_loss, data())
    assert check.ok == (verdict == "happy")


def test_the_error_is_the_relative_error():
    """Twice the derivative is a relative error of 1/2, its negative one of 2, and 1 in 1000 more one of 1/1001."""
    for mistake, error in (("factor 2", 0.5), ("sign", 2.0), ("one in a thousand", 1 / 1001)):
        assert check_gradients(Mistaken(mistake), cross_entropy_loss, data()).error == pytest.approx(error, rel=1e-3)


def test_the_message_shows_the_worst_element():
    """assert_ok raises with the table and both derivatives of the worst element of each parameter that is not right."""
    with pytest.raises(AssertionError, match=r"(?s)layer.weight +4x5 +20.*wrong.*layer.bias.flatten\(\)\[\d\]: back"):
        check_gradients(Mistaken("sign"), cross_entropy_loss, data()).assert_ok()


# Kinks ----------------------------------------------------------------------------------------------------------------


def test_relu_at_zero_is_a_kink():
    """At exactly 0 backward gives one slope of ReLU, and the difference the mean of both: no mistake, but a kink."""
    layer = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(layer.weight)
    found = check_gradients(layer, lambda model, x: (model(x).relu() + 1).sum(), torch.ones(1, 1))
    assert found.params[0].verdict == "kinks only"
    assert (found.params[0].analytic.item(), found.params[0].numerical.item()) == (0.0, pytest.approx(0.5))
    assert found.ok


def test_l1_at_zero_is_a_kink():
    """|w| at 0 is a kink, though backward and difference are both 0; beside it weights are judged."""
    layer = nn.Linear(4, 1, bias=False)
    layer.weight.data = torch.tensor([[0.0, 0.5, -0.5, 0.0]])
    (found,) = check_gradients(
        layer, lambda model, x: model(x).sum() + model.weight.abs().sum(), torch.ones(1, 4)
    ).params
    assert (found.kinks, found.verdict) == (2, "happy")


@pytest.mark.parametrize("distance", [1e-6, 3e-6, 1e-5 / 3, 6e-6, 9e-6])
def test_a_kink_within_the_step_is_found(distance: float):
    """A kink that the difference crosses, wherever within the step, is met and no mistake."""
    layer = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(layer.weight, -distance)
    found = check_gradients(layer, lambda model, x: (model(x).relu() + model(x) + 1).sum(), torch.ones(1, 1))
    assert found.params[0].kinks == 1
    assert found.ok


def test_a_kink_excuses_no_more_than_its_own_size():
    """A sign mistake beside a kink a thousandth of its size stays wrong."""
    layer = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(layer.weight)

    def loss(model: nn.Module, x: Tensor) -> Tensor:
        y: Tensor = Planted.apply(model(x), "sign")  # type: ignore[assignment]
        return (y + 1e-3 * model(x).relu()).sum()

    (found,) = check_gradients(layer, loss, torch.ones(1, 1)).params
    assert (found.kinks, found.verdict) == (1, "wrong")


def test_between_the_thresholds_kinks_decide():
    """One in a million is uneasy where all is smooth, and fine where a kink was met, as the notes of CS231n have it."""

    def loss(model: nn.Module, batch) -> Tensor:
        return cross_entropy_loss(model, batch) + model.output.bias.abs().sum()  # type: ignore[union-attr]

    model = Mistaken("one in a million")
    assert check_gradients(model, loss, data()).params[0].verdict == "uneasy"
    nn.init.zeros_(model.output.bias)
    assert check_gradients(model, loss, data()).params[0].verdict == "fine"


def test_curvature_is_no_kink():
    """A slope that changes fast but smoothly is none."""
    layer = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(layer.weight)
    (found,) = check_gradients(
        layer, lambda model, x: (1e4 * model(x).square() + model(x)).sum(), torch.ones(1, 1)
    ).params
    assert (found.kinks, found.verdict) == (0, "happy")


def test_what_rounding_hides_is_not_called_right():
    """A derivative that is lost in the rounding of the loss is too small to be judged; one that is 0 is right."""
    layer = nn.Linear(1, 1)
    loss = lambda model, x: (1e-9 * model.weight + 1).sum() + 0 * model.bias.sum()  # noqa: E731
    weight, bias = check_gradients(layer, loss, torch.ones(1, 1)).params
    assert (weight.verdict, bias.verdict) == ("too small", "happy")


# Many kinks -----------------------------------------------------------------------------------------------------------


class OwnRelu(torch.autograd.Function):
    """A ReLU with a backward of somebody's own, and no forward mode."""

    @staticmethod
    def forward(ctx, x: Tensor, backward: Callable[[Tensor, Tensor], Tensor]) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x)
        ctx.own = backward
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        return ctx.own(grad, *ctx.saved_tensors), None


class OwnReluForward(OwnRelu):
    """The same, whose forward mode is right, or makes another mistake."""

    forward_mode = 1.0

    @staticmethod
    def forward(ctx, x: Tensor, backward: Callable[[Tensor, Tensor], Tensor]) -> Tensor:  # type: ignore[override]
        ctx.save_for_forward(x)
        return OwnRelu.forward(ctx, x, backward)

    @staticmethod
    def jvp(ctx, tangent: Tensor, _: Any) -> Tensor:  # type: ignore[override]
        return OwnReluForward.forward_mode * tangent * (ctx.saved_tensors[0] > 0)


class Own(nn.Module):
    def __init__(self, backward: Callable[[Tensor, Tensor], Tensor], function: type = OwnRelu) -> None:
        super().__init__()
        self.backward, self.function = backward, function

    def forward(self, x: Tensor) -> Tensor:
        return self.function.apply(x, self.backward)


def right(grad: Tensor, x: Tensor) -> Tensor:
    return grad * (x > 0)


def network(
    widths: list[int], kind: Callable[[], nn.Module], seed: int, *, deviation: float = 0.05, images: int = 2
) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """Return layers with small random weights and zero biases, as CS231n initialises them, and a few images."""
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for size, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        layer = nn.Linear(inputs, outputs)
        layer.weight.data = deviation * torch.randn(outputs, inputs, generator=generator)
        nn.init.zeros_(layer.bias)
        layers += [layer, kind()] if size < len(widths) - 2 else [layer]
    x = torch.randn(images, widths[0], generator=generator)
    return nn.Sequential(*layers), (x, torch.arange(images) % widths[-1])


DEEP = [15, 20, 10, 10, 10, 10, 10, 30, 10]
DEEPER = [15, 20, *[10] * 8, 30, 10]


@pytest.mark.thin
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("deviation", [0.05, 0.5, 1e-5], ids=lambda value: f"sd {value:g}")
@pytest.mark.parametrize(
    ("widths", "kind"),
    [
        pytest.param(DEEP, nn.ReLU, id="relu"),
        pytest.param(DEEPER, nn.ReLU, id="deeper"),
        pytest.param(DEEP, lambda: nn.LeakyReLU(0.01), id="leaky"),
        pytest.param(DEEP, nn.PReLU, id="prelu"),
        pytest.param(DEEP, nn.ReLU6, id="relu6"),
        pytest.param(DEEP, nn.Hardswish, id="hardswish"),
        pytest.param(DEEP, nn.Hardtanh, id="hardtanh"),
        pytest.param(DEEP, lambda: Own(right), id="a function of one's own"),
    ],
)
def test_several_kinks_within_a_step_are_no_mistake(widths: list[int], kind, deviation: float, seed: int):
    """The small weights of deep layers leave activations far below the step: a bias moves over many kinks at once."""
    model, batch = network(widths, kind, seed, deviation=deviation)
    check_gradients(model, nn.CrossEntropyLoss(), batch, elements=4).assert_ok()


@pytest.mark.thin
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("kind", "zero"),
    [
        pytest.param(nn.ReLU, "inputs", id="relu, zero inputs"),
        pytest.param(lambda: nn.LeakyReLU(0.01), "inputs", id="leaky, zero inputs"),
        pytest.param(nn.PReLU, "inputs", id="prelu, zero inputs"),
        pytest.param(lambda: Own(lambda g, x: g * (x >= 0)), "inputs", id="derivative 1 at 0, zero inputs"),
        pytest.param(lambda: Own(lambda g, x: 0.5 * g * ((x >= 0) + (x > 0).double())), "inputs", id="1/2 at 0"),
        pytest.param(nn.ReLU, "first layer", id="relu, zero layer"),
        pytest.param(lambda: nn.LeakyReLU(0.01), "first layer", id="leaky, zero layer"),
        pytest.param(lambda: Own(right), "first layer", id="a function of one's own, zero layer"),
        pytest.param(lambda: nn.Hardtanh(0.0, 1.0), "first layer", id="hardtanh at its end, zero layer"),
    ],
)
def test_whole_layers_at_a_kink_are_no_mistake(kind, zero: str, seed: int):
    """Where many units are at 0 at once, backward takes a side for each, and the step moves them together."""
    model, (x, y) = network([5, 8, 6, 3], kind, seed, deviation=0.5, images=5)
    if zero == "inputs":
        x = torch.zeros_like(x)
    else:
        nn.init.zeros_(model[0].weight)  # type: ignore[index,arg-type]
    check_gradients(model, nn.CrossEntropyLoss(), (x, y), elements=None).assert_ok()


def test_a_zero_layer_without_bias_is_no_mistake():
    """No move of the weights leaves all units dead, but torch's own ReLU takes them for dead, as is its right."""
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 3))
    nn.init.zeros_(model[0].weight)  # type: ignore[arg-type]
    x, y = data(n=20, inputs=3)
    check_gradients(model, nn.CrossEntropyLoss(), (x, y), elements=None).assert_ok()


@pytest.mark.thin
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "loss",
    [
        pytest.param(lambda model, b: model(b[0]).abs().sum(), id="abs"),
        pytest.param(lambda model, b: model(b[0]).clamp(-1e-6, 1e-6).sum() + model(b[0]).sum(), id="clamp"),
        pytest.param(lambda model, b: multi_margin_loss(model(b[0]), b[1]), id="hinge"),
        pytest.param(lambda model, b: model(b[0]).amax(1).sum(), id="amax"),
        pytest.param(lambda model, b: nn.functional.max_pool1d(model(b[0])[:, None], 2).sum(), id="max-pool"),
        pytest.param(lambda model, b: model(b[0]).sort(1).values[:, :2].sum(), id="sort"),
    ],
)
@pytest.mark.parametrize("scale", [1.0, 1e-5, 0.0], ids=lambda value: f"scale {value:g}")
def test_losses_with_kinks_are_no_mistake(loss, scale: float, seed: int):
    """Right losses pass beside their kinks, close to them and, with weights of 0, exactly on them."""
    model, batch = network([5, 8, 4], nn.Tanh, seed, images=6)
    with torch.no_grad():
        for param in model.parameters():
            param.mul_(scale)
    check_gradients(model, loss, (batch[0], batch[1] % 4), elements=10).assert_ok()


@pytest.mark.thin
@pytest.mark.parametrize("function", [OwnRelu, OwnReluForward], ids=["no forward mode", "right forward mode"])
@pytest.mark.parametrize("case", ["one unit", "one layer", "two layers"])
@pytest.mark.parametrize("slope", [1.49, -0.3, 2.0, 1.02, -0.01])
def test_a_derivative_at_a_kink_is_between_the_slopes(slope: float, case: str, function: type):
    """At 0, a ReLU's derivative may be any number from 0 to 1, and no other."""

    def backward(grad: Tensor, x: Tensor) -> Tensor:
        return grad * ((x > 0).to(x.dtype) + slope * (x == 0))

    if case == "one unit":
        layer = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(layer.weight)
        found = check_gradients(layer, lambda m, x: function.apply(m(x), backward).sum() + 1, torch.ones(1, 1))  # type: ignore[attr-defined]
    else:
        widths = [5, 8, 3] if case == "one layer" else [5, 8, 8, 3]
        model, (x, y) = network(widths, lambda: Own(backward, function), 0, deviation=0.5, images=4)
        found = check_gradients(model, nn.CrossEntropyLoss(), (torch.zeros_like(x), y), elements=None)
    assert "wrong" in {param.verdict for param in found.params}
    assert not found.ok


def test_a_native_mistake_at_a_kink_is_wrong():
    """Operations of torch can be put together to a wrong derivative at one point."""
    layer = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(layer.weight)

    def loss(model: nn.Module, x: Tensor) -> Tensor:
        y = model(x)
        return torch.where(y == 0, 1.49 * y, y.relu()).sum() + 1

    assert check_gradients(layer, loss, torch.ones(1, 1)).params[0].verdict == "wrong"


@pytest.mark.parametrize(
    ("mistake", "verdict"),
    [
        pytest.param(lambda g, x: -right(g, x), "wrong", id="sign"),
        pytest.param(lambda g, x: 2 * right(g, x), "wrong", id="factor 2", marks=pytest.mark.slow),
        pytest.param(lambda g, x: right(g, x) / len(x), "wrong", id="mean twice", marks=pytest.mark.slow),
        pytest.param(lambda g, x: right(g, x).roll(1, -1), "wrong", id="off by one"),
        pytest.param(lambda g, x: right(g, x).flip(0), "wrong", id="images exchanged", marks=pytest.mark.slow),
        pytest.param(lambda g, x: g, "wrong", id="mask forgotten", marks=pytest.mark.slow),
        pytest.param(
            lambda g, x: torch.cat([1.5 * right(g, x)[:, :1], right(g, x)[:, 1:]], dim=1), "wrong", id="one unit"
        ),
        pytest.param(lambda g, x: right(g, x) * (1 + 1e-3), "uneasy", id="1e-3"),
    ],
)
def test_mistakes_among_many_kinks_are_found(mistake, verdict: str):
    """In the network whose kinks are no mistake, a mistake is one."""
    model, batch = network(DEEP, lambda: Own(mistake), 0)
    found = check_gradients(model, nn.CrossEntropyLoss(), batch, elements=4)
    assert verdict in {param.verdict for param in found.params}


@pytest.mark.parametrize("factor", [1.0, -1.0], ids=["right forward mode", "as wrong"])
def test_forward_mode_does_not_excuse(factor: float, monkeypatch):
    """It is backward that is judged, whatever forward mode gives."""
    monkeypatch.setattr(OwnReluForward, "forward_mode", factor)
    model, batch = network(DEEP, lambda: Own(lambda g, x: -right(g, x), OwnReluForward), 0)
    found = check_gradients(model, nn.CrossEntropyLoss(), batch, elements=4)
    assert "wrong" in {param.verdict for param in found.params}


@pytest.mark.parametrize("factor", [0.0, 2.0])
def test_a_wrong_forward_mode_does_not_matter(factor: float, monkeypatch):
    """A right backward is right, whatever its forward mode gives."""
    monkeypatch.setattr(OwnReluForward, "forward_mode", factor)
    model, batch = network(DEEP, lambda: Own(right, OwnReluForward), 0)
    check_gradients(model, nn.CrossEntropyLoss(), batch, elements=4).assert_ok()


def test_a_part_that_is_not_derived_is_found():
    """What a ``detach`` leaves out is missing, among kinks too, where forward mode would leave it out as well."""
    model, batch = network(DEEP, nn.ReLU, 0)

    def loss(model: nn.Module, batch) -> Tensor:
        y = model(batch[0])
        return cross_entropy(y, batch[1]) + y.detach()[:, 0].sum()

    assert not check_gradients(model, loss, batch, elements=10).ok


def test_what_cannot_be_told_is_said():
    """A loss of nothing but kinks, at every step and beside, is not passed in silence."""

    class Saw(torch.autograd.Function):
        @staticmethod
        def forward(ctx, w: Tensor) -> Tensor:  # type: ignore[override]
            return sum((w * 10.0**k).sin().abs() * 10.0**-k for k in range(1, 14)) + w  # type: ignore[return-value]

        @staticmethod
        def backward(ctx, grad: Tensor) -> Tensor:  # type: ignore[override]
            return 3 * grad

    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 0.37)
    found = check_gradients(layer, lambda model, x: Saw.apply(model.weight).sum(), torch.ones(1, 1))  # type: ignore[attr-defined]
    assert not found.ok
    with pytest.raises(AssertionError):
        found.assert_ok()


@pytest.mark.parametrize("scale", [1e2, 1e4])
@pytest.mark.parametrize("seed", range(3))
def test_huge_weights_are_no_mistake(scale: float, seed: int):
    """Logits of millions leave few digits to the loss: its rounding is measured, not guessed from its size."""
    model, batch = network([5, 8, 3], nn.ReLU, seed, deviation=scale)
    check_gradients(model, nn.CrossEntropyLoss(), batch).assert_ok()


@pytest.mark.parametrize("seed", range(3))
def test_raw_pixels_are_no_mistake(seed: int):
    """Inputs of hundreds bend the loss much within a step; smaller steps see it straight."""
    model, (x, y) = network([5, 8, 3], nn.Tanh, seed)
    check_gradients(model, nn.CrossEntropyLoss(), (255 * x.abs(), y)).assert_ok()


# What is left alone ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_everything_is_left_as_it_was(training: bool):
    """Parameters, gradients, buffers, mode, dtype, batch and random state are yours."""
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3)).train(training)
    batch = data()
    cross_entropy(model(batch[0]), batch[1]).backward()
    before, state = deepcopy(model), torch.get_rng_state()
    grads = [deepcopy(param.grad) for param in model.parameters()]
    check_gradients(model, nn.CrossEntropyLoss(), batch)
    assert torch.equal(torch.get_rng_state(), state)
    for module, old in zip(model.modules(), before.modules(), strict=True):
        assert module.training == old.training
    assert model.state_dict().keys() == before.state_dict().keys()
    for value, old in zip(model.state_dict().values(), before.state_dict().values(), strict=True):
        assert value.dtype == old.dtype
        assert torch.equal(value, old)
    for param, grad in zip(model.parameters(), grads, strict=True):
        assert grad is not None
        assert param.grad is not None
        assert torch.equal(param.grad, grad)
    assert torch.equal(batch[0], data()[0])


def test_dropout_while_training_drops_the_same_units():
    """With dropout and batch normalisation active, the gradient is right: every evaluation draws the same mask."""
    model = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 3))
    found = check_gradients(model.train(), nn.CrossEntropyLoss(), data())
    found.assert_ok()
    dropped = next(param for param in found.params if param.name == "0.weight").analytic
    assert (dropped != 0).any()


def test_buffers_start_anew():
    """A module that changes its own buffers in every call is a fixed function here."""

    class Moving(nn.Linear):
        def __init__(self) -> None:
            super().__init__(5, 3)
            self.scale: Tensor
            self.register_buffer("scale", torch.ones(()))

        def forward(self, input: Tensor) -> Tensor:  # noqa: A002
            self.scale = self.scale * 1.5
            return super().forward(input) * self.scale

    model = Moving()
    check_gradients(model, nn.CrossEntropyLoss(), data()).assert_ok()
    assert model.scale.item() == 1.0


class Holder(nn.Linear):
    """Has attributes that have no copy, and draws from a generator of its own."""

    def __init__(self) -> None:
        super().__init__(5, 3)
        self.lock, self.stream = threading.Lock(), (index for index in range(3))
        self.name_of = lambda: "holder"
        self.generator = torch.Generator().manual_seed(1)
        self.seen = self.weight.sum()  # a tensor that was computed
        self.calls: list[int] = []

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        with self.lock:
            self.calls.append(len(input))
            kept = torch.rand(input.shape, generator=self.generator) > 0.5
            return super().forward(input * kept)


def old_style(norm: str) -> nn.Module:
    with pytest.warns(FutureWarning, match="deprecated") if norm == "weight_norm" else nullcontext():
        layer = getattr(nn.utils, norm)(nn.Linear(5, 4))
    model = nn.Sequential(layer, nn.Tanh(), nn.Linear(4, 3))
    for _ in range(100):  # the power iteration of spectral_norm has no derivative, and rests in eval mode
        model(data()[0])
    return model.eval()


def hooked() -> nn.Module:
    model, seen = smooth(), {}
    model.register_forward_hook(lambda module, args, output: seen.update(output=output))
    vars(model)["seen"] = seen
    model(data()[0])
    return model


def with_grad_graph() -> nn.Module:
    model = smooth()
    loss = cross_entropy_loss(model, data())
    loss.backward(create_graph=True)
    return model


@pytest.mark.filterwarnings("ignore:Using backward\\(\\) with create_graph")
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: old_style("weight_norm"), id="old-style weight_norm"),
        pytest.param(lambda: old_style("spectral_norm"), id="old-style spectral_norm"),
        pytest.param(
            lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(5, 3))), id="parametrization"
        ),
        pytest.param(Holder, id="lock, iterator, lambda, generator, computed tensor"),
        pytest.param(hooked, id="a hook that keeps outputs"),
        pytest.param(with_grad_graph, id="gradients with a graph"),
    ],
)
def test_models_that_deepcopy_refuses(make: Callable[[], nn.Module]):
    """What hangs on a model is copied, made anew or shared; the model is afterwards as it was."""
    model = make()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attributes = [dict(vars(module)) for module in model.modules()]
    grads = [param.grad for param in model.parameters()]
    check_gradients(model, nn.CrossEntropyLoss(), data()).assert_ok()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    for module, kept in zip(model.modules(), attributes, strict=True):
        assert vars(module).keys() == kept.keys()
        assert all(vars(module)[name] is value for name, value in kept.items())
    for param, grad in zip(model.parameters(), grads, strict=True):
        assert param.grad is grad
    if isinstance(model, Holder):
        assert model.calls == []


def test_a_recurrent_model_is_copied_whole():
    """A module that lists its weights a second time works on those of the copy."""

    class Last(nn.LSTM):
        def forward(self, input: Tensor) -> Tensor:  # type: ignore[override]  # noqa: A002
            return super().forward(input)[0]

    check_gradients(nn.Sequential(Last(5, 4), nn.Linear(4, 3)), nn.CrossEntropyLoss(), data(), elements=10).assert_ok()


def test_plain_and_complex_tensors_are_cast():
    """A tensor that is a plain attribute takes part in the same type; a complex buffer keeps both its parts."""

    class Filtered(nn.Linear):
        def __init__(self) -> None:
            super().__init__(5, 3)
            self.mixing, self.phases = torch.eye(5) + 0.1, nn.Buffer(torch.polar(torch.ones(5), torch.arange(5.0)))

        def forward(self, input: Tensor) -> Tensor:  # noqa: A002
            return super().forward((torch.fft.fft(input @ self.mixing) * self.phases).imag)

    model = Filtered()
    check_gradients(model, nn.CrossEntropyLoss(), data()).assert_ok()
    assert model.mixing.dtype == torch.float32
    assert model.phases.dtype == torch.complex64


def test_lazy_modules_say_what_to_do():
    """A parameter without a shape is not checked; after one call of the model it is."""
    model = nn.Sequential(nn.LazyLinear(4), nn.Tanh(), nn.Linear(4, 3))
    with pytest.raises(ValueError, match=r"'0\.weight' has no shape yet; call the model once"):
        check_gradients(model, nn.CrossEntropyLoss(), data())
    model(data()[0])
    check_gradients(model, nn.CrossEntropyLoss(), data()).assert_ok()


def test_a_loss_may_derive_by_itself():
    """A penalty on the gradient needs the graph in every evaluation."""

    def loss(model: nn.Module, batch) -> Tensor:
        x = batch[0].clone().requires_grad_()
        (grad,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        return cross_entropy_loss(model, batch) + grad.square().sum()

    check_gradients(smooth(), loss, data()).assert_ok()


def test_parameters_from_elsewhere_are_refused():
    """A loss that takes a weight from the model itself, not from its argument, would go unchecked."""
    model = smooth()

    def loss(other: nn.Module, batch) -> Tensor:
        return cross_entropy_loss(other, batch) + model[0].weight.square().sum()  # type: ignore[index,union-attr]

    with pytest.raises(ValueError, match=r"takes parameter '0\.weight' from elsewhere"):
        check_gradients(model, loss, data())


def test_all_is_put_back_where_the_loss_raises():
    """An exception in the middle leaves the random state and the model as they were."""
    model, calls = smooth(), iter(range(100))

    def loss(model: nn.Module, batch) -> Tensor:
        torch.rand(())
        if next(calls) == 7:
            raise RuntimeError("enough")
        return cross_entropy_loss(model, batch)

    before, state = deepcopy(model.state_dict()), torch.get_rng_state()
    with pytest.raises(RuntimeError, match="enough"):
        check_gradients(model, loss, data())
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


# Arguments ------------------------------------------------------------------------------------------------------------


def test_the_sample_is_a_function_of_the_seed():
    """``elements`` are drawn by ``seed``; each takes two evaluations of the loss, four at most."""
    one, same, other = (check_gradients(smooth(), nn.CrossEntropyLoss(), data(), elements=3, seed=s) for s in (0, 0, 1))
    assert torch.equal(one.params[0].index, same.params[0].index)
    assert not torch.equal(one.params[0].index, other.params[0].index)
    assert 2 * 3 * 4 <= one.evaluations <= 4 * 3 * 4


@pytest.mark.parametrize("batch", [data(), list(data()), Pair(*data())], ids=["tuple", "list", "named tuple"])
def test_batches_have_any_form(batch):
    """A loss module gets what follows the inputs; a function gets the batch in its own form."""
    assert check_gradients(smooth(), nn.CrossEntropyLoss(), batch).ok
    assert check_gradients(smooth(), cross_entropy_loss, batch).ok


def test_a_batch_may_be_a_dict():
    """A function takes a batch of any structure; its tensors of floating point are cast, labels are not."""
    x, y = data()
    loss = lambda model, batch: cross_entropy(model(batch["x"]), batch["y"])  # noqa: E731
    assert check_gradients(smooth(), loss, {"x": x, "y": y}).ok


def test_a_loss_module_may_have_weights():
    """Buffers of the loss are cast as the model is."""
    assert check_gradients(smooth(), nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0])), data()).ok


def test_tied_and_frozen_parameters():
    """A shared parameter is one, with the gradient of all its uses; a frozen one is not checked."""
    model = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5))
    model[2].weight = model[0].weight  # type: ignore[union-attr]
    model[0].bias.requires_grad_(False)  # type: ignore[union-attr]
    found = check_gradients(model, nn.CrossEntropyLoss(), data())
    assert [param.name for param in found.params] == ["0.weight", "2.bias"]
    assert found.ok


def test_memory_order_does_not_matter():
    """Elements of a transposed and of a scalar parameter are found where they are."""

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix = nn.Parameter(torch.randn(3, 5).t())
            self.scale = nn.Parameter(torch.tensor(1.5))

        def forward(self, x: Tensor) -> Tensor:
            return self.scale * (x @ self.matrix)

    assert check_gradients(Odd(), nn.CrossEntropyLoss(), data()).ok


def test_works_without_gradients_enabled():
    """A caller inside ``no_grad`` gets the same."""
    with torch.no_grad():
        assert check_gradients(smooth(), nn.CrossEntropyLoss(), data()).ok


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"elements": 0}, "elements must be at least 1, or None for all, got 0"),
        ({"step": 0.0}, "step must be above 0, got 0.0"),
        ({"step": 1e-30}, "step = 1e-30 does not move a parameter of"),
        ({"dtype": torch.int64}, "dtype must be of floating point, got torch.int64"),
    ],
)
def test_arguments_out_of_range(options, message: str):
    """What cannot be is refused, with the value."""
    with pytest.raises(ValueError, match=message):
        check_gradients(smooth(), nn.CrossEntropyLoss(), data(), **options)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda model, batch: model(batch[0]), r"one number, got \(6, 3\); take its mean or sum"),
        (lambda model, batch: 1.0, "one number, got float"),
        (lambda model, batch: cross_entropy_loss(model, batch).detach(), "does not depend on the parameters"),
        (lambda model, batch: cross_entropy_loss(model, batch) / 0, "it must be finite"),
    ],
)
def test_losses_that_cannot_be_checked(loss, message: str):
    """A loss that is not one finite number with a gradient is refused."""
    with pytest.raises(ValueError, match=message):
        check_gradients(smooth(), loss, data())


def test_a_loss_that_draws_elsewhere_is_refused():
    """A loss that is another at each call has no difference to compare with; the message says why."""
    calls = iter(range(100))
    with pytest.raises(ValueError, match="draw no random numbers but from torch's"):
        check_gradients(smooth(), lambda model, batch: cross_entropy_loss(model, batch) + next(calls), data())


def test_nothing_to_check():
    """Models without trainable, or with complex parameters are refused."""
    with pytest.raises(ValueError, match="no parameter that requires a gradient"):
        check_gradients(smooth().requires_grad_(False), nn.CrossEntropyLoss(), data())
    with pytest.raises(ValueError, match="parameter 'weight' is complex"):
        check_gradients(nn.Linear(2, 2, dtype=torch.complex64), lambda model, x: model(x).abs().sum(), torch.ones(1, 2))
