"""Models: shapes, initialisation as a function of the seed, and what is refused."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from optizoo.lab import models

BUILDS = [
    pytest.param("linear", {"init": init}, id=f"linear, {init}")
    for init in ("zeros", "normal", "kaiming", "xavier", "torch")
] + [
    pytest.param("two_layer", {"init": init, "hidden": 16}, id=f"two_layer, {init}")
    for init in ("normal", "kaiming", "xavier", "torch")
]


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(
        name == other_name and torch.equal(value, other_value) for (name, value), (other_name, other_value) in pairs
    )


@pytest.mark.parametrize(("name", "options"), BUILDS)
def test_initialisation_is_a_function_of_the_seed(name: str, options: dict[str, object]) -> None:
    """One seed gives one model, whatever the global random state, which is neither used nor changed."""
    torch.manual_seed(1)
    first = models.create(name, seed=5, **options)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = models.create(name, seed=5, **options)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(first, second)
    assert same(first, models.create(name, seed=6, **options)) == (options["init"] == "zeros")
    assert all(parameter.requires_grad and parameter.device.type == "cpu" for parameter in first.parameters())


@pytest.mark.parametrize(
    ("name", "options", "twin"),
    [
        pytest.param("linear", {}, lambda: nn.Linear(3072, 10), id="linear"),
        pytest.param("linear", {"classes": 3, "inputs": 7}, lambda: nn.Linear(7, 3), id="linear of another size"),
        pytest.param(
            "two_layer", {"hidden": 64}, lambda: nn.Sequential(nn.Linear(3072, 64), nn.Linear(64, 10)), id="two_layer"
        ),
    ],
)
def test_torch_initialisation_is_torchs(name: str, options: dict[str, int], twin: Callable[[], nn.Module]) -> None:
    """By default the weights are, bit for bit, those of plain torch layers made after ``torch.manual_seed(seed)``."""
    torch.manual_seed(11)
    expected = list(twin().parameters())
    actual = list(models.create(name, seed=11, **options).parameters())
    assert all(torch.equal(*pair) for pair in zip(actual, expected, strict=True))


@pytest.mark.parametrize(
    ("init", "scale", "hidden", "output"),
    [
        pytest.param("normal", None, 0.01, 0.01, id="normal"),
        pytest.param("normal", 0.5, 0.5, 0.5, id="normal, scaled"),
        pytest.param("kaiming", None, math.sqrt(2 / 3072), math.sqrt(1 / 400), id="kaiming"),
        pytest.param("kaiming", 0.1, 0.1 * math.sqrt(2 / 3072), 0.1 * math.sqrt(1 / 400), id="kaiming, scaled"),
        pytest.param("xavier", None, math.sqrt(2 / 3472), math.sqrt(2 / 410), id="xavier"),
        pytest.param("torch", None, math.sqrt(1 / 3 / 3072), math.sqrt(1 / 3 / 400), id="torch"),
        pytest.param("torch", 3.0, 3 * math.sqrt(1 / 3 / 3072), 3 * math.sqrt(1 / 3 / 400), id="torch, scaled"),
    ],
)
def test_initialisation_has_the_stated_spread(init: str, scale: float | None, hidden: float, output: float) -> None:
    """Weights have the documented standard deviation; biases are zero, but for torch's, which are not scaled."""
    model = models.two_layer(hidden=400, seed=0, init=init, init_scale=scale)
    assert model.hidden.weight.std().item() == pytest.approx(hidden, rel=0.01)
    assert model.output.weight.std().item() == pytest.approx(output, rel=0.05)  # 4000 weights: 1 % standard error
    if init == "torch":
        assert model.hidden.bias.abs().max().item() <= math.sqrt(1 / 3072)
        assert model.hidden.bias.std().item() == pytest.approx(math.sqrt(1 / 3 / 3072), rel=0.1)
    else:
        assert not model.hidden.bias.any()
        assert not model.output.bias.any()


def test_linear_from_zeros() -> None:
    """``init="zeros"`` makes all weights and biases of the linear model zero."""
    assert not any(parameter.any() for parameter in models.linear(seed=0, init="zeros").parameters())


@pytest.mark.parametrize("name", models.list_models())
def test_images_may_be_flat_or_not(name: str) -> None:
    """Images of shape (b, 3072) and (b, 3, 32, 32) give the same scores, of shape (b, classes)."""
    model = models.create(name, seed=0)
    images = torch.randn(4, 3, 32, 32)
    assert model(images).shape == (4, 10)
    assert torch.equal(model(images), model(images.flatten(1)))


def test_two_layer_is_what_it_says() -> None:
    """The scores are W2 relu(W1 x + b1) + b2."""
    model = models.two_layer(hidden=6, classes=3, inputs=5, seed=0).double()
    images = torch.randn(4, 5, dtype=torch.float64)
    hidden = (images @ model.hidden.weight.T + model.hidden.bias).clamp(min=0)
    expected = hidden @ model.output.weight.T + model.output.bias
    torch.testing.assert_close(model(images), expected, rtol=1e-12, atol=1e-12)


def test_dropout_zeroes_hidden_units_while_training_only() -> None:
    """In training the stated part of the hidden units is dropped; in evaluation none is; the weights are the same."""
    model = models.two_layer(hidden=1000, dropout=0.3, seed=0)
    plain = models.two_layer(hidden=1000, seed=0)
    assert same(model, plain)
    images = torch.randn(8, 3072)
    torch.manual_seed(0)
    dropped = (model.dropout(torch.ones(100, 1000)) == 0).double().mean().item()
    assert dropped == pytest.approx(0.3, abs=0.01)
    assert not torch.equal(model(images), plain(images))
    assert torch.equal(model.eval()(images), plain(images))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        pytest.param("liner", {}, "unknown model 'liner': did you mean 'linear'", id="model"),
        pytest.param("linear", {"hidden": 5}, "unknown option 'hidden' of model linear: .*Known: classes", id="option"),
        pytest.param("two_layer", {"drop_out": 0.5}, "'drop_out' .* did you mean 'dropout'", id="option misspelt"),
        pytest.param("linear", {"init": "xaver"}, "unknown init 'xaver': did you mean 'xavier'", id="init"),
        pytest.param("two_layer", {"init": "zeros"}, "never trains two_layer", id="zeros in two layers"),
        pytest.param(
            "linear", {"init_scale": 0.0}, "init_scale must be a finite number above 0, got 0.0", id="scale 0"
        ),
        pytest.param("linear", {"init_scale": math.nan}, "init_scale must be .*, got nan", id="scale NaN"),
        pytest.param("linear", {"init_scale": math.inf}, "init_scale must be .*, got inf", id="scale infinite"),
        pytest.param("two_layer", {"hidden": 0}, "hidden must be an integer, at least 1, got 0", id="hidden"),
        pytest.param(
            "two_layer", {"hidden": 12.0}, "hidden must be an integer, at least 1, got 12.0", id="hidden float"
        ),
        pytest.param("linear", {"classes": True}, "classes must be an integer, at least 1, got True", id="classes"),
        pytest.param("two_layer", {"dropout": 1.0}, "dropout must be .* below 1, got 1.0", id="dropout 1"),
        pytest.param("two_layer", {"dropout": math.nan}, "dropout must be .*, got nan", id="dropout NaN"),
    ],
)
def test_bad_options_are_named(name: str, options: dict[str, object], message: str) -> None:
    """A name, option or value that cannot work is an error that names it and tells what would do."""
    with pytest.raises(ValueError, match=message):
        models.create(name, seed=0, **options)


@pytest.mark.parametrize("seed", [-1, 2**32, 1.0, True, None])
def test_seeds_are_checked(seed: object) -> None:
    """A seed that torch's generator would cut to 32 bits is refused, as it would repeat another seed's weights."""
    with pytest.raises(ValueError, match="seed must be an integer from 0 to"):
        models.create("linear", seed=seed)  # type: ignore[arg-type]
