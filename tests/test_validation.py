"""Every bad option is refused by constructor, ``add_param_group`` and ``load_state_dict`` alike."""

import copy
import pickle
import re
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy
import pytest
import torch
from torch.nn import Parameter

import optizoo
from optizoo.core.checks import OutOfRangeError, plain
from optizoo.core.names import near_miss
from tests.zoo import assert_same_state, parameters, run, shapes_for

NAN, INF = float("nan"), float("inf")

BAD = [
    ("sgd", {"lr": -0.1}, OutOfRangeError, "Invalid lr value: -0.1; lr must be a finite number, at least 0"),
    ("sgd", {"lr": NAN}, OutOfRangeError, "Invalid lr value: nan"),
    ("sgd", {"lr": INF}, OutOfRangeError, "Invalid lr value: inf"),
    ("sgd", {"lr": True}, TypeError, "Invalid lr value: True of type bool"),
    ("sgd", {"lr": "0.1"}, TypeError, "Invalid lr value: '0.1' of type str"),
    ("sgd", {"lr": None}, TypeError, "Invalid lr value: None"),
    ("sgd", {"lr": torch.tensor([0.1, 0.2])}, ValueError, "Tensor lr must be 1-element"),
    ("sgd", {"lr": torch.tensor(NAN)}, OutOfRangeError, "Invalid lr value: nan"),
    ("sgd", {"lr": torch.tensor(-1.0)}, OutOfRangeError, "Invalid lr value: -1.0"),
    ("sgd", {"momentum": 1.5}, OutOfRangeError, "Invalid momentum value: 1.5; momentum must be from 0 to 1"),
    ("sgd", {"momentum": -0.1}, OutOfRangeError, "Invalid momentum value: -0.1"),
    (
        "sgd",
        {"momentum": 0.9, "dampening": 2},
        OutOfRangeError,
        "Invalid dampening value: 2; dampening must be from 0 to 1",
    ),
    ("sgd", {"weight_decay": -1}, OutOfRangeError, "Invalid weight_decay value: -1"),
    ("sgd", {"nesterov": True}, OutOfRangeError, "Nesterov momentum requires a momentum and zero dampening"),
    ("sgd", {"nesterov": True, "momentum": 0.9, "dampening": 0.1}, OutOfRangeError, "zero dampening; got momentum=0.9"),
    ("sgd", {"nesterov": "yes"}, TypeError, "Invalid nesterov value: 'yes'; nesterov must be True or False"),
    ("sgd", {"lr": "1e-3"}, TypeError, "it is a text: write the number without quotes, in YAML 1.0e-3 for 1e-3"),
    ("sgd", {"lr": numpy.True_}, TypeError, "of type bool"),
    ("sgd", {"lr": 1j}, TypeError, "Invalid lr value: 1j of type complex"),
    ("sgd", {"lr": [0.1]}, TypeError, "Invalid lr value: [0.1] of type list"),
    ("sgd", {"lr": Decimal("-0.5")}, OutOfRangeError, "Invalid lr value: -0.5"),
    ("sgd", {"lr": numpy.float32(-0.5)}, OutOfRangeError, "Invalid lr value: -0.5"),
    ("sgd", {"lr": numpy.array([0.5, 0.25])}, TypeError, "of type ndarray"),
    ("sgd", {"foreach": "yes"}, TypeError, "foreach must be True, False or None"),
    ("sgd", {"fused": True, "foreach": True}, RuntimeError, "cannot be `True` together"),
    ("sgd", {"fused": True, "differentiable": True}, RuntimeError, "`fused` does not support `differentiable`"),
    ("sgd", {"foreach": True, "differentiable": True}, ValueError, "foreach=True does not support differentiable=True"),
    ("sgd", {"l1": -0.1}, OutOfRangeError, "Invalid l1 value: -0.1; l1 must be a finite number, at least 0"),
    (
        "sgd",
        {"weight_decay_mode": "decoupld"},
        ValueError,
        "value: 'decoupld'; did you mean 'decoupled'? Known: cautious, coupled",
    ),
    ("sgd", {"weight_decay_mode": None}, TypeError, "must be one of 'coupled', 'decoupled', 'independent', 'cautious'"),
    ("sgd", {"weight_decay_mode": "independent", "weight_decay": 2}, OutOfRangeError, "takes that share of a weight"),
    ("adam", {"weight_decay_mode": True}, TypeError, "Invalid weight_decay_mode value: True"),
    ("adamw", {"weight_decay_mode": "coupled"}, ValueError, "contradicts decoupled_weight_decay=True"),
    ("momentum", {"lr_in_velocity": True, "dampening": 0.5}, OutOfRangeError, "has no dampening; got dampening=0.5"),
    ("rmsprop", {"alpha": 1.5}, OutOfRangeError, "Invalid alpha value: 1.5"),
    ("rmsprop", {"eps": -1e-8}, OutOfRangeError, "Invalid eps value: -1e-08"),
    ("rmsprop", {"centered": "no"}, TypeError, "centered must be True or False"),
    ("rmsprop", {"eps_inside_sqrt": 2}, TypeError, "Invalid eps_inside_sqrt value: 2; eps_inside_sqrt must be True"),
    ("rmsprop", {"initial_accumulator": -1}, OutOfRangeError, "Invalid initial_accumulator value: -1"),
    ("rprop", {"etas": (1.5, 1.2)}, OutOfRangeError, "Invalid eta values: 1.5, 1.2"),
    ("rprop", {"step_sizes": (1, 0.1)}, OutOfRangeError, "the smallest comes first"),
    ("adagrad", {"lr_decay": -1}, OutOfRangeError, "Invalid lr_decay value: -1"),
    ("adagrad", {"initial_accumulator_value": -1}, OutOfRangeError, "Invalid initial_accumulator_value value: -1"),
    ("adadelta", {"rho": 1.5}, OutOfRangeError, "Invalid rho value: 1.5; rho must be from 0 to 1"),
    ("adamax", {"betas": (0.9, 1.0)}, OutOfRangeError, "Invalid betas[1] value: 1.0"),
    ("nadam", {"momentum_decay": NAN}, OutOfRangeError, "Invalid momentum_decay value: nan"),
    ("radam", {"capturable": True}, ValueError, "its rule branches on the step"),
    ("adopt", {"clip_exponent": -0.25}, OutOfRangeError, "Invalid clip_exponent value: -0.25"),
    ("adopt", {"clip_exponent": "0.25"}, TypeError, "write the number without quotes"),
    ("adan", {"betas": (0.9, 0.99)}, ValueError, "of length 2; betas must have three numbers"),
    ("adan", {"betas": (0.98, 0.92, 1.0)}, OutOfRangeError, "Invalid betas[2] value: 1.0"),
    ("adan", {"no_prox": "no"}, TypeError, "no_prox must be True or False"),
    ("ademamix", {"betas": (0.9, 0.99)}, ValueError, "of length 2; betas must have three numbers"),
    ("ademamix", {"alpha": -1}, OutOfRangeError, "Invalid alpha value: -1"),
    ("ademamix", {"alpha_warmup": INF}, OutOfRangeError, "Invalid alpha_warmup value: inf"),
    (
        "ademamix",
        {"beta3_warmup": 8, "betas": (torch.tensor(0.9, requires_grad=True), 0.99, 0.999)},
        ValueError,
        "beta3_warmup cannot be differentiated by betas",
    ),
    ("adam", {"betas": (0.9, 0.99, 0.999)}, ValueError, "of length 3; betas must have two numbers"),
    ("adam", {"betas": 0.9}, TypeError, "betas must be a tuple of two numbers"),
    (
        "adam",
        {"betas": (0.9, 1.0)},
        OutOfRangeError,
        "Invalid betas[1] value: 1.0; betas[1] must be at least 0 and below 1",
    ),
    ("adam", {"betas": (NAN, 0.9)}, OutOfRangeError, "Invalid betas[0] value: nan"),
    ("adam", {"eps": NAN}, OutOfRangeError, "Invalid eps value: nan"),
    ("adam", {"amsgrad": "no"}, TypeError, "amsgrad must be True or False"),
    ("adam", {"betas": "ab"}, TypeError, "betas must be a tuple of two numbers"),
    ("adam", {"betas": {0.8, 0.9}}, TypeError, "betas must be a tuple of two numbers"),
    ("adam", {"betas": ("0.8", 0.9)}, TypeError, "Invalid betas[0] value: '0.8' of type str"),
    ("adam", {"betas": numpy.array([0.8, 1.5])}, OutOfRangeError, "Invalid betas[1] value: 1.5"),
    ("adamw", {"weight_decay": INF}, OutOfRangeError, "Invalid weight_decay value: inf"),
    ("adamw", {"bias_correction": None}, TypeError, "bias_correction must be True or False"),
]


def named(*case):
    return pytest.param(*case, id=f"{case[0]}-{case[1]}".replace(" ", ""))


CASES = [named(*case) for case in BAD]


@pytest.mark.parametrize(("name", "options", "error", "message"), CASES)
def test_constructor(name, options, error, message):
    """The constructor refuses it and says where."""
    with pytest.raises(error, match=re.escape(message) + ".*constructor"):
        optizoo.create(name, parameters(of=name), **options)


@pytest.mark.parametrize(("name", "options", "error", "message"), CASES)
def test_group_of_the_constructor(name, options, error, message):
    """A group that is given to the constructor is checked like its arguments (torch checks no group)."""
    with pytest.raises(error, match=re.escape(message) + ".*param group 1"):
        optizoo.create(name, [{"params": parameters(of=name)}, {"params": parameters(of=name), **options}])


@pytest.mark.parametrize(("name", "options", "error", "message"), CASES)
def test_added_group(name, options, error, message):
    """``add_param_group`` refuses it, and the optimizer has the groups that it had."""
    optimizer = optizoo.create(name, parameters(of=name))
    with pytest.raises(error, match=re.escape(message)):
        optimizer.add_param_group({"params": [Parameter(torch.zeros(1))], **options})
    assert len(optimizer.param_groups) == 1


NEW_IN_A_CHECKPOINT = [case for case in BAD if not {"foreach", "fused"} & case[1].keys()]  # those are never loaded
REFUSED = [named(*case) for case in NEW_IN_A_CHECKPOINT if case[2] is not OutOfRangeError]
KEPT = [named(*case) for case in NEW_IN_A_CHECKPOINT if case[2] is OutOfRangeError]


@pytest.mark.parametrize(("name", "options", "error", "message"), REFUSED)
def test_loaded_group(name, options, error, message):
    """``load_state_dict`` refuses what no run can have stepped with, and the optimizer has the options that it had."""
    optimizer = optizoo.create(name, parameters())
    before = copy.deepcopy(optimizer.state_dict())
    checkpoint = optimizer.state_dict()
    checkpoint["param_groups"][0].update(options)
    with pytest.raises(error, match=re.escape(message) + ".*loaded param group 0"):
        optimizer.load_state_dict(checkpoint)
    assert str(optimizer.state_dict()) == str(before)


@pytest.mark.parametrize(("name", "options", "error", "message"), KEPT)
def test_loaded_values_out_of_range(name, options, error, message):
    """A run may have come to a value outside its range: a checkpoint of it loads, with a warning, and keeps it."""
    optimizer = optizoo.create(name, parameters())
    checkpoint = optimizer.state_dict()
    checkpoint["param_groups"][0].update(options)
    with pytest.warns(UserWarning, match=re.escape(message) + ".*loaded param group 0.*so it is kept"):
        optimizer.load_state_dict(checkpoint)
    group = optimizer.complete(optimizer.param_groups[0])
    for option, value in options.items():
        assert str(plain(group[option])) == str(plain(value))


WAYS_TO_COPY: dict[str, Any] = {
    "checkpoint": lambda optimizer: loaded(optizoo.SGD(parameters(), lr=0.5), optimizer.state_dict()),
    "pickle": lambda optimizer: pickle.loads(pickle.dumps(optimizer)),
    "deepcopy": copy.deepcopy,
}


def loaded(optimizer, checkpoint):
    optimizer.load_state_dict(checkpoint)
    return optimizer


@pytest.mark.parametrize("way", WAYS_TO_COPY)
def test_a_run_that_has_stepped_below_zero(way):
    """A linear schedule that overshoots ends below 0 (as in Stable-Baselines3): what is saved then goes on alike."""
    ours = optizoo.SGD(parameters(), momentum=0.9)
    run(ours, range(2))
    ours.param_groups[0]["lr"] = -3.7e-4
    run(ours, range(2, 5))
    with pytest.warns(UserWarning, match="Invalid lr value: -0.00037; lr must be .*set it before the next step"):
        other = WAYS_TO_COPY[way](ours)
    for mine, its in zip(ours.param_groups[0]["params"], other.param_groups[0]["params"], strict=True):
        its.data.copy_(mine.data)
    run(ours, range(5, 8))
    run(other, range(5, 8))
    assert_same_state(other, ours)


# Names ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [
        pytest.param("learning_rate", "did you mean 'lr'?", id="alias"),
        pytest.param("weight_deacy", "did you mean 'weight_decay'?", id="typo"),
        pytest.param("beta1", "did you mean 'betas'?", id="other-library"),
    ],
)
def test_unknown_key_in_a_group(key, suggestion):
    """A slip for an option raises and is corrected, wherever it stands (torch keeps it and never reads it)."""
    group = {"params": parameters(), key: 0.5}
    assert torch.optim.Adam([group]).param_groups[0][key] == 0.5
    message = re.escape(f"Unknown option {key!r} = 0.5") + ".*" + re.escape(suggestion)
    with pytest.raises(ValueError, match=message):
        optizoo.Adam([group])
    optimizer = optizoo.Adam(parameters())
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({"params": [Parameter(torch.zeros(1))], key: 0.5})
    checkpoint = optimizer.state_dict()
    checkpoint["param_groups"][0][key] = 0.5
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(checkpoint)


FOREIGN_KEYS = [
    *("initial_lr", "max_lr", "min_lr", "swa_lr", "base_momentum", "max_momentum", "name", "_mine"),  # torch
    *("param_group", "lr_scale", "wd_scale", "lr_mult", "wd_mult", "decay_mult", "group_name", "group_names"),
    *("lr_multiplier", "wd_multiplier", "is_last_layer", "foreach_group", "no_weight_decay", "layer_decay", "rho"),
    *(
        "adaptive",
        "mu",
        "decay",
        "use_muon",
        "algorithm",
        "weight_decay_filter",
        "lars_adaptation_filter",
        "LARS_exclude",
    ),
    *("trust_coefficient", "eta", "mom", "sqr_mom", "wd_bn_bias", "train_bn", "weight_decay_mult", "bias_lr_factor"),
    *("lr_decay_rate", "lr0", "lrf", "lr_ratio", "lr_factor", "base_lr", "max_weight_decay", "base_wd", "initial_wd"),
    *("d", "d0", "d_coef", "k", "weight_sum", "train_mode", "scheduled_lr", "warmup_steps", "gamma", "step_size"),
    *("beta3", "betas2", "eps2", "eps_root", "d_numerator", "cautious", "fixed_decay", "decay_rate", "use_gc", "stage"),
    *("tokens_per_step", "is_expert", "is_decoupled_lr", "default_config", "pre_mult", "post_mult", "used", "minimize"),
    *("apply_decay", "ema_decay", "l2", "lrs", "params_names", "names", "index", "block", "layer", "tag", "zzz"),
]


@pytest.mark.parametrize("key", FOREIGN_KEYS)
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_keys_of_others_pass(name, key):
    """Keys that libraries and their users keep in groups pass, in constructor, group, checkpoint and copy."""
    optimizer = optizoo.create(name, [{"params": parameters(), key: 0.5}])
    optimizer.add_param_group({"params": [Parameter(torch.zeros(1))], key: 0.5})
    run(optimizer, range(2))
    plain_one = optizoo.create(name, [{"params": parameters()}, {"params": [Parameter(torch.zeros(1))]}])
    plain_one.load_state_dict(optimizer.state_dict())
    for each in (optimizer, plain_one, copy.deepcopy(optimizer)):
        assert [group[key] for group in each.param_groups] == [0.5, 0.5]


def test_keys_that_are_no_text_pass():
    """A dict may have any key, as torch's groups may."""
    group: Any = optizoo.SGD([{"params": parameters(), 7: "seven"}]).param_groups[0]
    assert group[7] == "seven"


SLIPS = {
    "lr": ["LR", "Lr", "rl", "lrr", "lr_", "learning_rate", "learning-rate", "learningRate", "learnig_rate"],
    "betas": ["beta", "Betas", "bets", "beats", "betass", "betaz", "ebtas", "beta1", "beta_2", "BETA1"],
    "eps": ["esp", "EPS", "epss", "epsilon", "epsilom", "epislon"],
    "weight_decay": [
        *("wd", "WD", "weigth_decay", "weight_deacy", "wieght_decay", "weightdecay", "weight-decay", "weightDecay"),
        *("weight_decya", "weight_decays", "weigh_decay", "weights_decay", "wieght_deacy", "weight decay"),
    ],
    "amsgrad": ["AMSGrad", "ams_grad", "amsgard", "amsgrd", "amsgrad_"],
    "maximize": ["maximise", "maximze", "Maximize"],
    "foreach": ["for_each", "foreahc", "forech"],
    "decoupled_weight_decay": ["decoupled_weigth_decay", "decouple_weight_decay"],
    "bias_correction": ["bias_corection", "bais_correction", "biasCorrection"],
    "capturable": ["captureable", "capturabel"],
    "differentiable": ["differentable", "diferentiable"],
    "nonfinite": ["non_finite", "nonfinte"],
}


@pytest.mark.parametrize(("option", "typed"), [(option, typed) for option, slips in SLIPS.items() for typed in slips])
def test_slips(option, typed):
    """What fingers do to a name is seen through, and what other libraries call it."""
    checks = {**optizoo.Adam._common_checks, **optizoo.Adam.checks}
    assert near_miss(typed, tuple(checks)) == option


@pytest.mark.parametrize("key", ["rho", "roh"])
def test_an_option_of_one_is_a_key_of_another(key):
    """SAM's ``rho`` stands beside Adam's options; Adadelta has such an option, and sees slips for it."""
    assert optizoo.Adam([{"params": parameters(), key: 0.05}]).param_groups[0][key] == 0.05
    if key == "rho":
        assert optizoo.Adadelta([{"params": parameters(), key: 0.5}]).param_groups[0][key] == 0.5
    else:
        with pytest.raises(ValueError, match="did you mean 'rho'"):
            optizoo.Adadelta([{"params": parameters(), key: 0.5}])


def test_an_older_checkpoint_with_keys_of_others():
    """A checkpoint that lacks a newer switch and has a key of its program is no other class's."""
    optimizer = optizoo.Adam(parameters())
    checkpoint = optimizer.state_dict()
    del checkpoint["param_groups"][0]["decoupled_weight_decay"]
    checkpoint["param_groups"][0] |= {"param_group": "bias", "initial_lr": 0.1}
    optimizer.load_state_dict(checkpoint)
    assert optimizer.param_groups[0]["param_group"] == "bias"


# Numbers of other kinds -----------------------------------------------------------------------------------------------


class Config:
    """A sequence that is no list or tuple, as OmegaConf's ListConfig is."""

    def __init__(self, *items: Any):
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


NUMBERS = {
    "float16": numpy.float16(0.125),
    "float32": numpy.float32(0.125),
    "float64": numpy.float64(0.125),
    "longdouble": numpy.longdouble(0.125),
    "int64": numpy.int64(1),
    "int": 1,
    "0-dim array": numpy.array(0.125, dtype=numpy.float32),
    "array of one": numpy.array([0.125]),
    "Fraction": Fraction(1, 8),
    "Decimal": Decimal("0.125"),
}
PAIRS = {
    "list": [0.75, 0.875],
    "array": numpy.array([0.75, 0.875], dtype=numpy.float32),
    "tensor": torch.tensor([0.75, 0.875]),
    "config": Config(0.75, 0.875),
    "mixed": (numpy.float32(0.75), Decimal("0.875")),
}
FLAGS = {"numpy": numpy.True_, "one": 1, "tensor": torch.tensor(True), "array": numpy.array(True)}


def steps_alike(name: str, option: str, value: Any, expected: Any) -> None:
    """Assert that a value works in constructor, group, added group, checkpoint, and written into a group."""
    kind, plainly = type(expected), {option: expected}
    first = optizoo.create(name, parameters(of=name), **{option: value})
    group = optizoo.create(name, [{"params": parameters(of=name), option: value}])
    added = optizoo.create(name, [Parameter(torch.zeros(shapes_for(name, [(1,)])[0]))])
    added.add_param_group({"params": parameters(of=name), option: value})
    checkpoint = optizoo.create(name, parameters(of=name)).state_dict()
    checkpoint["param_groups"][0][option] = value
    restored = loaded(optizoo.create(name, parameters(of=name)), checkpoint)
    for optimizer in (first, group, added, restored):
        found = optimizer.param_groups[-1][option]
        assert found == expected
        assert type(found) is kind
    for backend in ({}, {"foreach": True}, {"foreach": False}):
        ours, theirs = (optizoo.create(name, parameters(of=name), **backend) for _ in range(2))
        run(ours, range(1))
        run(theirs, range(1))
        ours.param_groups[0][option] = value
        theirs.param_groups[0].update(plainly)
        run(ours, range(1, 4))
        run(theirs, range(1, 4))
        assert_same_state(ours, theirs)


@pytest.mark.thin(times=3)
@pytest.mark.parametrize("kind", NUMBERS)
@pytest.mark.parametrize(
    ("name", "option"),
    [*((name, "lr") for name in optizoo.list_optimizers()), ("sgd", "momentum"), ("adamw", "weight_decay")],
)
def test_numbers_of_every_kind(name, option, kind):
    """A real number of any library is kept as a plain one, and works where it is written into a group by hand."""
    expected = 1 if "int" in kind else 0.125
    steps_alike(name, option, NUMBERS[kind], expected)


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize(("name", "option"), [("adam", "betas"), ("lion", "betas"), ("nadam", "betas")])
def test_pairs_of_every_kind(name, option, kind):
    """Two numbers in any sequence become a tuple."""
    steps_alike(name, option, PAIRS[kind], (0.75, 0.875))


def test_a_pair_that_is_learned_stays_a_tensor():
    """Betas that autograd follows stay tensors: their numbers would not be learned."""
    betas: Any = torch.tensor([0.75, 0.875], requires_grad=True)
    kept = optizoo.Adam(parameters(), betas=betas).param_groups[0]["betas"]
    assert [beta.requires_grad for beta in kept] == [True, True]


@pytest.mark.parametrize("kind", FLAGS)
@pytest.mark.parametrize(("name", "option"), [("adam", "amsgrad"), ("rmsprop", "centered"), ("sgd", "maximize")])
def test_flags_of_every_kind(name, option, kind):
    """Truth values of any library, and 1, are ``True``."""
    for value, expected in ((FLAGS[kind], True), (kind == "one" and 0, False)):
        kept = optizoo.create(name, parameters(), **{option: value}).param_groups[0][option]
        assert kept is expected


@pytest.mark.parametrize("option", ["foreach", "fused"])
def test_flags_that_may_be_none(option):
    """The choice of execution takes numpy's truth values too, and ``None``."""
    for value, expected in ((numpy.False_, False), (0, False), (None, None)):
        assert optizoo.create("adam", parameters(), **{option: value}).param_groups[0][option] is expected


def test_a_checkpoint_with_plain_numbers_loads_safely(tmp_path):
    """What was given as numbers of other libraries is saved as plain ones: ``weights_only=True`` loads it."""
    options = {"lr": numpy.float32(0.1), "betas": numpy.array([0.5, 0.75]), "eps": Decimal("1e-8")}
    optimizer = optizoo.create("adam", parameters(), **options)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True)["param_groups"][0]["betas"] == (0.5, 0.75)


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
