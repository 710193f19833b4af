"""Every bad option is refused by constructor, ``add_param_group`` and ``load_state_dict`` alike."""

import copy
import re

import numpy
import pytest
import torch
from torch.nn import Parameter

import optizoo
from tests.zoo import parameters

NAN, INF = float("nan"), float("inf")

BAD = [
    ("sgd", {"lr": -0.1}, ValueError, "Invalid lr value: -0.1; lr must be a finite number, at least 0"),
    ("sgd", {"lr": NAN}, ValueError, "Invalid lr value: nan"),
    ("sgd", {"lr": INF}, ValueError, "Invalid lr value: inf"),
    ("sgd", {"lr": True}, TypeError, "Invalid lr value: True of type bool"),
    ("sgd", {"lr": "0.1"}, TypeError, "Invalid lr value: '0.1' of type str"),
    ("sgd", {"lr": None}, TypeError, "Invalid lr value: None"),
    ("sgd", {"lr": torch.tensor([0.1, 0.2])}, ValueError, "Tensor lr must be 1-element"),
    ("sgd", {"lr": torch.tensor(NAN)}, ValueError, "Invalid lr value: nan"),
    ("sgd", {"lr": torch.tensor(-1.0)}, ValueError, "Invalid lr value: -1.0"),
    ("sgd", {"momentum": 1.5}, ValueError, "Invalid momentum value: 1.5; momentum must be from 0 to 1"),
    ("sgd", {"momentum": -0.1}, ValueError, "Invalid momentum value: -0.1"),
    ("sgd", {"momentum": 0.9, "dampening": 2}, ValueError, "Invalid dampening value: 2; dampening must be from 0 to 1"),
    ("sgd", {"weight_decay": -1}, ValueError, "Invalid weight_decay value: -1"),
    ("sgd", {"nesterov": True}, ValueError, "Nesterov momentum requires a momentum and zero dampening"),
    ("sgd", {"nesterov": True, "momentum": 0.9, "dampening": 0.1}, ValueError, "zero dampening; got momentum=0.9"),
    ("sgd", {"nesterov": 1}, TypeError, "Invalid nesterov value: 1; nesterov must be True or False"),
    ("sgd", {"foreach": "yes"}, TypeError, "foreach must be True, False or None"),
    ("sgd", {"fused": True, "foreach": True}, RuntimeError, "cannot be `True` together"),
    ("sgd", {"fused": True, "differentiable": True}, RuntimeError, "`fused` does not support `differentiable`"),
    ("sgd", {"foreach": True, "differentiable": True}, ValueError, "foreach=True does not support differentiable=True"),
    ("sgd", {"l1": -0.1}, ValueError, "Invalid l1 value: -0.1; l1 must be a finite number, at least 0"),
    (
        "sgd",
        {"weight_decay_mode": "decoupld"},
        ValueError,
        "value: 'decoupld'; did you mean 'decoupled'? Known: coupled",
    ),
    ("sgd", {"weight_decay_mode": None}, TypeError, "must be one of 'coupled', 'decoupled', 'independent'"),
    ("sgd", {"weight_decay_mode": "independent", "weight_decay": 2}, ValueError, "takes that share of a weight"),
    ("adam", {"weight_decay_mode": True}, TypeError, "Invalid weight_decay_mode value: True"),
    ("adamw", {"weight_decay_mode": "coupled"}, ValueError, "contradicts decoupled_weight_decay=True"),
    ("momentum", {"lr_in_velocity": True, "dampening": 0.5}, ValueError, "has no dampening; got dampening=0.5"),
    ("rmsprop", {"alpha": 1.5}, ValueError, "Invalid alpha value: 1.5"),
    ("rmsprop", {"eps": -1e-8}, ValueError, "Invalid eps value: -1e-08"),
    ("rmsprop", {"centered": "no"}, TypeError, "centered must be True or False"),
    ("rmsprop", {"eps_inside_sqrt": 1}, TypeError, "Invalid eps_inside_sqrt value: 1; eps_inside_sqrt must be True"),
    ("rmsprop", {"initial_accumulator": -1}, ValueError, "Invalid initial_accumulator value: -1"),
    ("rprop", {"etas": (1.5, 1.2)}, ValueError, "Invalid eta values: 1.5, 1.2"),
    ("rprop", {"step_sizes": (1, 0.1)}, ValueError, "the smallest comes first"),
    ("adagrad", {"lr_decay": -1}, ValueError, "Invalid lr_decay value: -1"),
    ("adagrad", {"initial_accumulator_value": -1}, ValueError, "Invalid initial_accumulator_value value: -1"),
    ("adadelta", {"rho": 1.5}, ValueError, "Invalid rho value: 1.5; rho must be from 0 to 1"),
    ("adamax", {"betas": (0.9, 1.0)}, ValueError, "Invalid betas[1] value: 1.0"),
    ("nadam", {"momentum_decay": NAN}, ValueError, "Invalid momentum_decay value: nan"),
    ("radam", {"capturable": True}, ValueError, "its rule branches on the step"),
    ("adam", {"betas": (0.9, 0.99, 0.999)}, ValueError, "of length 3; betas must have two numbers"),
    ("adam", {"betas": 0.9}, TypeError, "betas must be a tuple of two numbers"),
    ("adam", {"betas": (0.9, 1.0)}, ValueError, "Invalid betas[1] value: 1.0; betas[1] must be at least 0 and below 1"),
    ("adam", {"betas": (NAN, 0.9)}, ValueError, "Invalid betas[0] value: nan"),
    ("adam", {"eps": NAN}, ValueError, "Invalid eps value: nan"),
    ("adam", {"amsgrad": 0}, TypeError, "amsgrad must be True or False"),
    ("adamw", {"weight_decay": INF}, ValueError, "Invalid weight_decay value: inf"),
    ("adamw", {"bias_correction": None}, TypeError, "bias_correction must be True or False"),
]
CASES = [pytest.param(*case, id=f"{case[0]}-{case[1]}".replace(" ", "")) for case in BAD]


@pytest.mark.parametrize(("name", "options", "error", "message"), CASES)
def test_constructor(name, options, error, message):
    """The constructor refuses it and says where."""
    with pytest.raises(error, match=re.escape(message) + ".*constructor"):
        optizoo.create(name, parameters(), **options)


@pytest.mark.parametrize(("name", "options", "error", "message"), CASES)
def test_group_of_the_constructor(name, options, error, message):
    """A group that is given to the constructor is checked like its arguments (torch checks no group)."""
    with pytest.raises(error, match=re.escape(message) + ".*param group 1"):
        optizoo.create(name, [{"params": parameters()}, {"params": parameters(), **options}])


@pytest.mark.parametrize(("name", "options", "error", "message"), CASES)
def test_added_group(name, options, error, message):
    """``add_param_group`` refuses it, and the optimizer has the groups that it had."""
    optimizer = optizoo.create(name, parameters())
    with pytest.raises(error, match=re.escape(message)):
        optimizer.add_param_group({"params": [Parameter(torch.zeros(1))], **options})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [case for case in CASES if not {"foreach", "fused"} & case.values[1].keys()],  # pyright: ignore[reportAttributeAccessIssue]
)
def test_loaded_group(name, options, error, message):
    """``load_state_dict`` refuses it, and the optimizer has the options that it had."""
    optimizer = optizoo.create(name, parameters())
    before = copy.deepcopy(optimizer.state_dict())
    checkpoint = optimizer.state_dict()
    checkpoint["param_groups"][0].update(options)
    with pytest.raises(error, match=re.escape(message) + ".*loaded param group 0"):
        optimizer.load_state_dict(checkpoint)
    assert str(optimizer.state_dict()) == str(before)


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [
        pytest.param("learning_rate", "did you mean 'lr'?", id="alias"),
        pytest.param("weight_deacy", "did you mean 'weight_decay'?", id="typo"),
        pytest.param("beta1", "did you mean 'betas'?", id="other-library"),
        pytest.param("zzz", "Known: amsgrad, betas", id="nothing-near"),
    ],
)
def test_unknown_key_in_a_group(key, suggestion):
    """An unknown key raises and is corrected (torch keeps it and never reads it)."""
    group = {"params": parameters(), key: 0.5}
    assert torch.optim.Adam([group]).param_groups[0][key] == 0.5
    with pytest.raises(ValueError, match=re.escape(f"Unknown option {key!r} = 0.5") + ".*" + re.escape(suggestion)):
        optizoo.Adam([group])


@pytest.mark.parametrize("key", ["initial_lr", "max_lr", "swa_lr", "name", "lr_scale", "_mine"])
def test_known_keys_of_others_pass(key):
    """Keys that schedulers and other libraries keep in groups pass, and so do keys with an underscore."""
    assert optizoo.Adam([{"params": parameters(), key: 0.5}]).param_groups[0][key] == 0.5


@pytest.mark.parametrize(
    "value", [numpy.float64(0.1), numpy.float32(0.5), numpy.int64(1)], ids=lambda v: type(v).__name__
)
def test_numbers_of_other_libraries_become_plain(value):
    """A numpy number is kept as the plain number: checkpoints that hold numpy numbers do not load safely."""
    lr = optizoo.SGD(parameters(), lr=value).param_groups[0]["lr"]
    assert type(lr) in (int, float)
    assert lr == value


def test_tensor_lr_is_kept():
    """A tensor lr is kept as the object that it is, so that its owner can fill it."""
    lr = torch.tensor(0.1)
    assert optizoo.SGD(parameters(), lr=lr).param_groups[0]["lr"] is lr


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        pytest.param([], ValueError, "empty parameter list", id="empty"),
        pytest.param(Parameter(torch.zeros(1)), TypeError, "iterable of Tensors or dicts", id="tensor"),
        pytest.param(["weight"], TypeError, "can only optimize Tensors", id="string"),
        pytest.param([{"lr": 0.1}], ValueError, "param_group has no 'params'", id="no-params"),
        pytest.param(
            [torch.zeros(1, requires_grad=True) * 2], ValueError, "can't optimize a non-leaf Tensor", id="non-leaf"
        ),
        pytest.param([{"params": {torch.zeros(1)}}], TypeError, "ordered collections", id="set"),
    ],
)
def test_bad_params(params, error, message):
    """What torch refuses as parameters is refused with torch's type of error."""
    with pytest.raises(error, match=message):
        optizoo.SGD(params)


def test_group_that_is_no_dict():
    """``add_param_group`` takes a dict."""
    with pytest.raises(TypeError, match="param_group must be a dict"):
        optizoo.SGD(parameters()).add_param_group([torch.zeros(1)])  # pyright: ignore[reportArgumentType]
