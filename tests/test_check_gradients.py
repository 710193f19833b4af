"""The gradient check: right models are happy, mistakes get their verdict, kinks are not called mistakes."""

from collections import namedtuple
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

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
