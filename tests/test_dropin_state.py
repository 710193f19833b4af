"""What programs do to ``optimizer.state``, as with torch's: keys of their own, resets, exchanges, numbers, moves."""

import copy
import pickle
import weakref
from collections import OrderedDict, defaultdict
from typing import Any, cast

import pytest
import torch
import torch.multiprocessing  # which lets tensors travel
from torch.nn import Parameter

import optizoo
from optizoo.testing import has_torch_twin, torch_twin
from tests.processes import context
from tests.zoo import FEW, assert_same_state, feed, only, parameters, run

TWINNED = [case for case in FEW if has_torch_twin(case.values[0], **case.values[1])]  # pyright: ignore


def pair(name, options):
    """Return ours and torch's loop over equal parameters."""
    return (
        optizoo.create(name, parameters(of=name), foreach=False, **options),
        torch_twin(name, parameters(of=name), foreach=False, **options),
    )


def named():
    """Return two parameters with names."""
    return list(zip(("first", "second"), parameters(), strict=True))


# Keys that are no parameter ------------------------------------------------------------------------------------------

EXTRAS = {
    "a number": ("global_step", 1),
    "our name, a number": ("step", 5),
    "our name, a tensor": ("step", torch.tensor(5.0)),
    "a name": ("phase", "warm-up"),
    "nothing": ("best", None),
    "a list": ("history", [0.1, 0.2]),
    "a dict": ("shared", {"d": torch.ones(2)}),
    "a tensor": ("scale", torch.tensor(2.0)),
    "a number as key": (7, 3.5),
}


@pytest.mark.parametrize(("key", "value"), EXTRAS.values(), ids=list(EXTRAS))
def test_keys_of_the_owner(key, value):
    """What stands in the state beside the parameters is saved, copied and loaded, and stands in nobody's way."""
    optimizer = optizoo.Adam(parameters())
    optimizer.state[key] = value
    run(optimizer, range(5))
    saved = optimizer.state_dict()
    assert saved["state"].keys() == {0, 1, key}
    others = [copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer)), optizoo.Adam(parameters())]
    others[2].load_state_dict(saved)
    theirs = torch.optim.Adam(parameters())
    theirs.load_state_dict(saved)
    for other in (optimizer, *others):
        assert str(other.state[key]) == str(value)
        other.zero_grad()
        assert "param group 0" in optizoo.explain(other)
        other.add_param_group({"params": [Parameter(torch.ones(2))]})
        run(other, range(5, 9))
        assert other.state[other.param_groups[0]["params"][0]]["step"] == 9
        assert str(other.state[key]) == str(value)


def test_a_first_step_that_counts_nothing():
    """A first step at lr 0 with zero gradients leaves keys of the owner alone."""
    optimizer = optizoo.Adam(parameters(), lr=0.0)
    state = cast(Any, optimizer.state)
    state["global_step"] = 1
    for param in optimizer.param_groups[0]["params"]:
        param.grad = torch.zeros_like(param)
    optimizer.step()
    optimizer.step()
    assert state["global_step"] == 1


# Resets and exchanges ------------------------------------------------------------------------------------------------


def cut(optimizer):
    """Remove the first parameter's state."""
    optimizer.state.pop(optimizer.param_groups[0]["params"][0], None)


def empty_one(optimizer):
    """Make the second parameter's state empty."""
    optimizer.state[optimizer.param_groups[0]["params"][1]] = {}


RESETS = {
    "setstate": lambda o: o.__setstate__({"state": defaultdict(dict)}),
    "setstate and groups": lambda o: o.__setstate__({"state": defaultdict(dict), "param_groups": o.param_groups}),
    "groups alone": lambda o: o.__setstate__({"param_groups": o.param_groups}),
    "nothing": lambda o: o.__setstate__({}),
    "another state": lambda o: setattr(o, "state", defaultdict(dict)),
    "clear": lambda o: o.state.clear(),
    "one is cut": cut,
    "one is empty": empty_one,
    "a copy": lambda o: setattr(o, "state", copy.copy(o.state)),
}


@pytest.mark.thin
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize(("name", "options"), TWINNED)
def test_resets(name, options, reset):
    """A state that is emptied or exchanged starts again, or goes on, as torch's does; planned steps see it."""
    ours, theirs = pair(name, options)
    planned = optizoo.create(name, parameters(of=name), **options)
    for optimizer in (ours, theirs, planned):
        run(optimizer, range(4))
        RESETS[reset](optimizer)
        run(optimizer, range(4, 8))
    assert_same_state(ours, theirs)
    for param, expected in zip(planned.param_groups[0]["params"], theirs.param_groups[0]["params"], strict=True):
        torch.testing.assert_close(param, expected)


@pytest.mark.parametrize(
    "container", [dict, OrderedDict, lambda: defaultdict(lambda: None)], ids=["dict", "ordered", "None"]
)
@pytest.mark.parametrize(("name", "options"), FEW)
def test_any_container(name, options, container):
    """The state may be any dict, with or without a default (torch needs one)."""
    plain = optizoo.create(name, parameters(of=name), **options)
    other = optizoo.create(name, parameters(of=name), **options)
    for optimizer in (plain, other):
        run(optimizer, range(3))
    plain.__setstate__({"state": defaultdict(dict)})
    other.__setstate__({"state": container()})
    for optimizer in (plain, other):
        run(optimizer, range(3, 7))
    for param, expected in zip(other.param_groups[0]["params"], plain.param_groups[0]["params"], strict=True):
        assert torch.equal(param, expected)
        assert str(other.state.get(param)) == str(plain.state.get(expected))
    other.load_state_dict(other.state_dict())


# Numbers in place of counters ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [3, 3.0, torch.tensor(3.0, dtype=torch.float64), torch.tensor([3.0])], ids=repr)
@pytest.mark.parametrize(("name", "options"), only(FEW, lambda kind: kind.counts_steps))
def test_steps_that_are_numbers(name, options, number):
    """A step, or a product beside it, that is a plain number, as torch saved it before 1.12, loads, and can be set."""
    expected = optizoo.create(name, parameters(of=name), **options)
    run(expected, range(3))
    saved = expected.state_dict()
    old = {"param_groups": saved["param_groups"], "state": {}}
    for key, store in saved["state"].items():
        old["state"][key] = {**store, "step": number}
        old["state"][key] |= {each: store[each].item() for each in expected.numbers}
    loaded = optizoo.create(name, parameters(of=name), **options)
    written = copy.deepcopy(expected)
    unpickled = pickle.loads(pickle.dumps(expected))
    loaded.load_state_dict(old)
    for other in (written, unpickled):
        for param in other.param_groups[0]["params"]:
            other.state[param]["step"] = copy.deepcopy(number)
    for other in (loaded, written, unpickled):
        with torch.no_grad():
            for param, value in zip(other.param_groups[0]["params"], expected.param_groups[0]["params"], strict=True):
                param.copy_(value)
    run(expected, range(3, 6))
    for other in (loaded, written, unpickled):
        run(other, range(3, 6))
        for param, value in zip(other.param_groups[0]["params"], expected.param_groups[0]["params"], strict=True):
            assert torch.equal(param, value)
            assert other.state[param]["step"] == 6


@pytest.mark.parametrize("wrong", ["three", None, torch.ones(2), [3]], ids=repr)
def test_steps_that_are_nothing_of_the_kind(wrong):
    """What is no number is refused in a checkpoint, with the name of the parameter, and nothing changes."""
    optimizer = optizoo.Adam(named())
    run(optimizer, range(2))
    before = copy.deepcopy(optimizer.state_dict())
    saved = optimizer.state_dict()
    saved["state"] = {key: {**store, "step": wrong} for key, store in saved["state"].items()}
    with pytest.raises(ValueError, match=r"'step' of parameter 'first' of group 0 is .* no number"):
        optimizer.load_state_dict(saved)
    saved["state"] = {0: wrong}
    with pytest.raises(ValueError, match=r"the state of parameter 'first' of group 0 is .* no dict"):
        optimizer.load_state_dict(saved)
    assert str(optimizer.state_dict()) == str(before)


def test_a_step_between_steps():
    """A step that is written between two steps counts on from there."""
    optimizer = optizoo.Adam(parameters())
    run(optimizer, range(4))
    for param in optimizer.param_groups[0]["params"]:
        optimizer.state[param]["step"] = 10
    run(optimizer, range(4, 8))
    assert all(optimizer.state[param]["step"] == 14 for param in optimizer.param_groups[0]["params"])
    optimizer.state[optimizer.param_groups[0]["params"][0]]["step"] = "ten"
    with pytest.raises(TypeError, match="a counter in the state is 'ten'"):
        run(optimizer, range(1))


# Shared memory -------------------------------------------------------------------------------------------------------


def _child(optimizer, steps):
    """Step in another process, over the parameters and states that it shares."""
    torch.set_num_threads(1)
    run(optimizer, steps)


def test_share_memory():
    """Adagrad's states go to shared memory from the start, as in torch; another process steps on with them."""
    ends = []
    for kind in (optizoo.Adagrad, torch.optim.Adagrad):
        params = parameters()
        for param in params:
            param.share_memory_()
        optimizer = kind(params, lr=0.1)
        run(optimizer, range(4))
        optimizer.share_memory()
        assert all(optimizer.state[param]["sum"].is_shared() for param in params)
        run(optimizer, range(4, 6))
        child = context().Process(target=_child, args=(optimizer, range(6, 8)))
        child.start()
        child.join()
        assert child.exitcode == 0
        run(optimizer, range(8, 10))
        ends.append((params, [optimizer.state[param]["sum"] for param in params]))
    for ours, theirs in zip(*ends, strict=True):
        for tensor, expected in zip(ours, theirs, strict=True):
            torch.testing.assert_close(tensor, expected)


MOVES = {
    "share_memory_": lambda tensor: tensor.share_memory_(),
    "data": lambda tensor: setattr(tensor, "data", tensor.data.clone()),
    "set_": lambda tensor: tensor.set_(tensor.clone()),
    "resize": lambda tensor: tensor.untyped_storage().resize_(tensor.untyped_storage().nbytes() * 4),
}
EXCHANGES = {
    "clone": lambda tensor: tensor.clone(),
    "double": lambda tensor: tensor.double(),
    "parameter": lambda tensor: Parameter(tensor, requires_grad=False),
    "transposed": lambda tensor: tensor.t().contiguous().t(),
    "strided": lambda tensor: tensor.repeat_interleave(2, dim=-1)[..., ::2],
}


@pytest.mark.thin
@pytest.mark.parametrize("way", [*MOVES, *EXCHANGES])
@pytest.mark.parametrize(("name", "options"), TWINNED)
def test_states_that_are_moved(name, options, way):
    """States that are moved in memory, or exchanged for others of the same values, go on."""
    moved, plain = (optizoo.create(name, parameters(of=name), **options) for _ in range(2))
    for optimizer in (moved, plain):
        run(optimizer, range(4))
    for param in moved.param_groups[0]["params"]:
        store = moved.state[param]
        for key in store:
            if key in ("step", *moved.numbers):
                continue
            if way in MOVES:
                MOVES[way](store[key])
            else:
                store[key] = EXCHANGES[way](store[key])
    for optimizer in (moved, plain):
        run(optimizer, range(4, 8))
    for param, expected in zip(moved.param_groups[0]["params"], plain.param_groups[0]["params"], strict=True):
        torch.testing.assert_close(param, expected)


# Memory of a load ----------------------------------------------------------------------------------------------------


def test_a_load_drops_each_state_before_it_copies_the_next():
    """Never are two states of two parameters there beside the checkpoint: the old one goes before the new one comes."""
    params = [Parameter(torch.ones(1000)) for _ in range(5)]
    optimizer = optizoo.Adam(params)
    run(optimizer, range(4))
    checkpoint = copy.deepcopy(optimizer.state_dict())
    old = [weakref.ref(optimizer.state[param]["exp_avg"]) for param in params]
    alive = []
    adopted = optimizer._adopted

    def watched(*args):
        alive.append(sum(ref() is not None for ref in old))
        return adopted(*args)

    optimizer._adopted = watched  # pyright: ignore[reportAttributeAccessIssue]
    for param in params:
        param.grad = None
    optimizer.load_state_dict(checkpoint)
    assert alive == [4, 3, 2, 1, 0]


def test_a_state_that_somebody_holds_is_kept():
    """Who holds the old state finds it whole after a load."""
    optimizer = optizoo.Adam(parameters())
    run(optimizer, range(4))
    held = optimizer.state
    before = copy.deepcopy(optimizer.state_dict())
    optimizer.load_state_dict(torch.optim.Adam(parameters()).state_dict())
    assert len(held) == 2
    optimizer.state = held
    assert str(optimizer.state_dict()) == str(before)


def test_a_checkpoint_whose_last_entry_is_wrong(monkeypatch):
    """All is looked at before the first copy, and nothing changes."""
    optimizer = optizoo.Adam(parameters())
    run(optimizer, range(4))
    before = copy.deepcopy(optimizer.state_dict())
    saved = copy.deepcopy(before)
    saved["state"][1]["exp_avg_sq"] = torch.ones(7)
    monkeypatch.setattr(type(optimizer), "_adopted", lambda *args: pytest.fail("a copy was made"))
    with pytest.raises(ValueError, match="has shape"):
        optimizer.load_state_dict(saved)
    assert str(optimizer.state_dict()) == str(before)
    feed(optimizer.param_groups[0]["params"], 4)
    optimizer.step()
