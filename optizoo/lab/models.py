"""The lab's models: a softmax classifier, and the same with one hidden layer.

Both take standardised images, as (b, 3072) or (b, 3, 32, 32), and return scores (logits) of shape (b, classes). Their
initialisation is a pure function of the seed: it has a generator of its own, and leaves torch's alone.
"""

import inspect
import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import relu

from optizoo.core.names import did_you_mean
from optizoo.lab.limits import lacking

LinearT = TypeVar("LinearT", bound=nn.Linear)

INITS = ("zeros", "normal", "kaiming", "xavier", "torch")


class Linear(nn.Linear):
    """Scores ``W x + b``: with softmax cross-entropy, multinomial logistic regression."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        """Return scores (b, classes)."""
        return super().forward(input.flatten(1))


class TwoLayer(nn.Module):
    """Scores ``W2 dropout(relu(W1 x + b1)) + b2``.

    Attributes:
        hidden: The first layer, inputs to hidden units.
        dropout: Zeroes hidden units while training, with torch's global random state.
        output: The second layer, hidden units to classes.
    """

    def __init__(self, hidden: nn.Linear, output: nn.Linear, dropout: float) -> None:
        super().__init__()
        self.hidden = hidden
        self.dropout = nn.Dropout(dropout)
        self.output = output

    def forward(self, images: Tensor) -> Tensor:
        """Return scores (b, classes)."""
        return self.output(self.dropout(relu(self.hidden(images.flatten(1)))))


def linear(
    classes: int = 10, inputs: int = 3072, *, seed: int, init: str = "torch", init_scale: float | None = None
) -> Linear:
    """Return a softmax classifier, ``inputs`` -> ``classes``.

    Args:
        classes: Number of scores.
        inputs: Number of values in an image.
        seed: From 0 to 2**32 - 1; with ``init="zeros"`` it changes nothing.
        init: How the weights are drawn. Biases are zero, but for ``"torch"``.

            - ``"zeros"``: all zero, where this convex problem may as well start
            - ``"normal"``: normal, with standard deviation ``init_scale``
            - ``"kaiming"``: normal, with standard deviation ``sqrt(1 / inputs)``
              (He et al. 2015, https://arxiv.org/abs/1502.01852; no ReLU follows, so the gain is 1)
            - ``"xavier"``: normal, with standard deviation ``sqrt(2 / (inputs + classes))``
              (Glorot and Bengio 2010, https://proceedings.mlr.press/v9/glorot10a.html)
            - ``"torch"``: as ``torch.nn.Linear`` after ``torch.manual_seed(seed)``, bit for bit: weights and biases
              uniform in ±``sqrt(1 / inputs)``
        init_scale: The standard deviation of ``"normal"``, by default 0.01; of the others a factor on the weights, by
            default 1.

    Raises:
        ValueError: An argument is out of range, or ``init`` is unknown.

    >>> linear(seed=0)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    _check_sizes(classes=classes, inputs=inputs)
    _check_memory(classes * (inputs + 1), f"{inputs} inputs and {classes} classes")
    layer = _blank(Linear, inputs, classes)
    _initialise(layer, _generator(seed), init, init_scale, gain=1.0)
    return layer


def two_layer(
    hidden: int = 512,
    dropout: float = 0.0,
    classes: int = 10,
    inputs: int = 3072,
    *,
    seed: int,
    init: str = "torch",
    init_scale: float | None = None,
) -> TwoLayer:
    """Return a network with one hidden layer of ReLU units, ``inputs`` -> ``hidden`` -> ``classes``.

    Args:
        hidden: Number of hidden units.
        dropout: Probability, from 0 and below 1, that a hidden unit is zeroed while training.
        classes: Number of scores.
        inputs: Number of values in an image.
        seed: From 0 to 2**32 - 1.
        init: As for :func:`linear`, each layer with its own number of inputs. ``"kaiming"`` has gain ``sqrt(2)`` in the
            first layer, for the ReLU behind it. ``"zeros"`` is refused: no gradient would ever reach the first layer.
        init_scale: As for :func:`linear`; holds for both layers.

    Raises:
        ValueError: An argument is out of range, or ``init`` is unknown or ``"zeros"``.

    >>> sum(parameter.numel() for parameter in two_layer(hidden=512, seed=0).parameters())
    1578506
    """
    _check_sizes(hidden=hidden, classes=classes, inputs=inputs)
    _check_memory(hidden * (inputs + 1 + classes), f"hidden={hidden}")
    if isinstance(dropout, bool) or not 0 <= dropout < 1:
        raise ValueError(f"dropout must be a probability, from 0 and below 1, got {dropout!r}")
    if init == "zeros":
        raise ValueError("init='zeros' never trains two_layer, as all gradients stay zero: choose another, or linear")
    generator = _generator(seed)
    model = TwoLayer(_blank(nn.Linear, inputs, hidden), _blank(nn.Linear, hidden, classes), dropout)
    _initialise(model.hidden, generator, init, init_scale, gain=math.sqrt(2))
    _initialise(model.output, generator, init, init_scale, gain=1.0)
    return model


MODELS: dict[str, Callable[..., nn.Module]] = {"linear": linear, "two_layer": two_layer}


def list_models() -> list[str]:
    """Return the names that :func:`create` knows.

    >>> list_models()
    ['linear', 'two_layer']
    """
    return sorted(MODELS)


def create(name: str, *, seed: int, **options: object) -> nn.Module:
    """Return a model by name, on the CPU.

    Args:
        name: One of :func:`list_models`.
        seed: Of the initialisation, from 0 to 2**32 - 1.
        **options: Keyword arguments of the function of that name.

    Raises:
        ValueError: The name or an option is unknown, or a value is out of range.

    >>> create("two_layer", seed=0, hiden=64)
    Traceback (most recent call last):
    ValueError: unknown option 'hiden' of model two_layer: did you mean 'hidden'? Known: classes, dropout, ...
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}: {did_you_mean(name, MODELS)}")
    known = [option for option in inspect.signature(MODELS[name]).parameters if option != "seed"]
    for option in options:
        if option not in known:
            raise ValueError(f"unknown option {option!r} of model {name}: {did_you_mean(option, known)}")
    return MODELS[name](seed=seed, **options)


def _blank(kind: type[LinearT], inputs: int, outputs: int) -> LinearT:
    """Return a layer whose values are not set yet; torch's constructor would draw them from the global generator."""
    return kind(inputs, outputs, device="meta").to_empty(device="cpu")


def _initialise(layer: nn.Linear, generator: Generator, init: str, init_scale: float | None, *, gain: float) -> None:
    """Fill the layer, and draw in the order in which ``torch.nn.Linear`` draws: weight, then bias."""
    if init not in INITS:
        raise ValueError(f"unknown init {init!r}: {did_you_mean(init, INITS)}")
    scale = (0.01 if init == "normal" else 1.0) if init_scale is None else init_scale
    if isinstance(scale, bool) or not 0 < scale < math.inf:
        raise ValueError(f"init_scale must be a finite number above 0, got {init_scale!r}")
    inputs, outputs = layer.in_features, layer.out_features
    weight, bias = layer.weight, layer.bias
    nn.init.zeros_(bias)
    if init == "zeros":
        nn.init.zeros_(weight)
    elif init == "normal":
        nn.init.normal_(weight, std=scale, generator=generator)
    elif init == "kaiming":
        nn.init.normal_(weight, std=scale * gain / math.sqrt(inputs), generator=generator)
    elif init == "xavier":
        nn.init.normal_(weight, std=scale * math.sqrt(2 / (inputs + outputs)), generator=generator)
    else:
        nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)
        bound = 1 / math.sqrt(inputs)
        nn.init.uniform_(bias, -bound, bound, generator=generator)
        if scale != 1.0:
            with torch.no_grad():
                weight.mul_(scale)


def _generator(seed: int) -> Generator:
    # torch's CPU generator looks at 32 bits of its seed: beyond them, other seeds would give the same weights.
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"seed must be an integer from 0 to 2**32 - 1, got {seed!r}")
    return Generator().manual_seed(seed)


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} must be an integer, at least 1, got {size!r}")


def _check_memory(parameters: int, what: str) -> None:
    if words := lacking(4 * parameters):
        raise ValueError(f"{what} takes {words}: make it smaller")
