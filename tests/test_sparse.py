"""Sparse gradients: torch's values, at the cost of the elements that they have."""

import copy
import pickle

import pytest
import torch
from torch.nn import Parameter
from torch.utils._python_dispatch import TorchDispatchMode

import optizoo

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled")  # in torch's Adagrad

SHAPE = (7, 5, 3)
LAYOUTS = {  # indices in SHAPE, and how many dimensions they have
    "rows": ([[1, 4, 6]], True),
    "unordered rows": ([[6, 1, 4]], False),
    "rows twice": ([[1, 4, 1, 1]], False),
    "pairs": ([[1, 4, 6], [0, 2, 2]], True),
    "pairs twice": ([[1, 4, 1], [0, 2, 0]], False),
    "elements": ([[1, 4, 6], [0, 2, 2], [2, 1, 0]], True),
    "elements twice": ([[4, 4, 1], [2, 2, 1], [1, 1, 0]], False),
    "nothing": ([[]], False),
    "nothing, in elements": ([[], [], []], True),
}


def gradient(layout, step, dtype=torch.float32):
    """Return a gradient of SHAPE; its values depend on the step alone."""
    indices, coalesced = LAYOUTS[layout]
    indices = torch.tensor(indices, dtype=torch.int64)
    generator = torch.Generator().manual_seed(step)
    shape = (indices.shape[1], *SHAPE[len(indices) :])
    values = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    grad = torch.sparse_coo_tensor(indices, values, SHAPE, check_invariants=True)
    return grad.coalesce() if coalesced else grad


def table(dtype=torch.float32):
    """Return a parameter of SHAPE."""
    values = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Parameter(values.to(dtype))


def ran(kind, layouts, dtype=torch.float32, **options):
    """Return parameter and optimizer after a step with each layout."""
    param = table(dtype)
    optimizer = kind([param], lr=0.1, **options)
    for step, layout in enumerate(layouts):
        param.grad = gradient(layout, step, dtype)
        optimizer.step()
    return param.detach(), optimizer.state[param]


SGD = {
    "plain": {},
    "maximize": {"maximize": True},
    "momentum": {"momentum": 0.9},
    "dampening": {"momentum": 0.9, "dampening": 0.5},
    "nesterov": {"momentum": 0.9, "nesterov": True},
}


@pytest.mark.thin
@pytest.mark.parametrize("foreach", [None, False, True], ids=["default", "loop", "foreach"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("options", SGD.values(), ids=list(SGD))
def test_sgd_is_torchs(options, layout, dtype, foreach):
    """SGD equals torch's loop bit for bit, its momentum too, which stays sparse while all gradients are."""
    ours, state = ran(optizoo.SGD, [layout] * 4, dtype, foreach=foreach, **options)
    theirs, expected = ran(torch.optim.SGD, [layout] * 4, dtype, foreach=False, **options)
    assert torch.equal(ours, theirs)
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        assert state[name].layout is value.layout
        assert torch.equal(state[name].to_dense(), value.to_dense())


def test_other_elements_at_every_step():
    """The elements that have a momentum become more, as the gradients bring new ones."""
    layouts = ["rows", "unordered rows", "rows twice"]
    ours, _ = ran(optizoo.SGD, layouts, momentum=0.9)
    assert torch.equal(ours, ran(torch.optim.SGD, layouts, momentum=0.9, foreach=False)[0])


ADAGRAD = {
    "plain": {},
    "maximize": {"maximize": True},
    "options": {"lr_decay": 0.1, "initial_accumulator_value": 0.5, "eps": 1e-3},
}


@pytest.mark.thin
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("options", ADAGRAD.values(), ids=list(ADAGRAD))
def test_adagrad_is_torchs(options, layout, dtype):
    """Adagrad has torch's values, and those of the same gradients made dense bit for bit."""
    ours, state = ran(optizoo.Adagrad, [layout] * 4, dtype, **options)
    theirs, expected = ran(torch.optim.Adagrad, [layout] * 4, dtype, foreach=False, **options)
    torch.testing.assert_close(ours, theirs)  # torch divides first, then multiplies by the rate
    assert state.keys() == expected.keys()
    torch.testing.assert_close(state["sum"], expected["sum"])
    assert torch.equal(state["step"], expected["step"])
    param = table(dtype)
    dense = optizoo.Adagrad([param], lr=0.1, foreach=False, **options)
    for step in range(4):
        param.grad = gradient(layout, step, dtype).to_dense()
        dense.step()
    assert torch.equal(ours, param)
    assert torch.equal(state["sum"], dense.state[param]["sum"])


class Largest(TorchDispatchMode):
    """Remembers the size of the largest tensor that comes to be."""

    def __init__(self, *known):
        super().__init__()
        self.known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Call the operation and look at what it returns."""
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                if tensor.layout is torch.strided and tensor.untyped_storage().data_ptr() not in self.known:
                    self.elements = max(self.elements, tensor.numel())
                elif tensor.is_sparse:
                    self.elements = max(self.elements, tensor._values().numel())
        return result


@pytest.mark.parametrize(
    ("kind", "options"),
    [(optizoo.SGD, {}), (optizoo.SGD, {"momentum": 0.9}), (optizoo.Adagrad, {})],
    ids=["sgd", "momentum", "adagrad"],
)
def test_the_cost_is_that_of_the_rows(kind, options):
    """No step makes a tensor as large as the embedding: the largest has the elements of the batch."""
    embedding = torch.nn.Embedding(10_000, 8, sparse=True)
    optimizer = kind(embedding.parameters(), lr=0.1, **options)
    batches = [torch.tensor([5, 9, 7000, 5]), torch.tensor([1, 2])]
    for batch in batches:
        embedding(batch).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    embedding(batches[0]).sum().backward()
    known = [value for value in optimizer.state[embedding.weight].values() if value.layout is torch.strided]
    with Largest(embedding.weight, *known) as largest:
        optimizer.step()
    assert largest.elements <= 6 * 8 * 2


@pytest.mark.parametrize("name", ["sgd", "adagrad"])
def test_coupled_decay_is_refused(name):
    """L2 would make the gradient dense; torch refuses it, and so do we, before anything moves, dense ones too."""
    for make in (
        optizoo.create,
        lambda name, *args, **options: getattr(torch.optim, {"sgd": "SGD", "adagrad": "Adagrad"}[name])(
            *args, **options
        ),
    ):
        param, dense = table(), Parameter(torch.ones(2))
        before = param.detach().clone()
        optimizer = make(name, [param], weight_decay=0.1, foreach=False)
        optimizer.add_param_group({"params": [dense]})
        param.grad, dense.grad = gradient("rows", 0), torch.ones(2)
        with pytest.raises(RuntimeError, match="sparse"):
            optimizer.step()
        assert torch.equal(param, before)
    assert torch.equal(dense, torch.ones(2))


@pytest.mark.parametrize(
    "options",
    [
        {"weight_decay": 0.1, "weight_decay_mode": "decoupled"},
        {"weight_decay": 1e-3, "weight_decay_mode": "independent"},
        {"weight_decay": 0.2, "weight_decay_mode": "cautious"},
        {"l1": 0.1},
    ],
    ids=lambda options: next(iter(reversed(options))),
)
@pytest.mark.parametrize("kind", [optizoo.SGD, optizoo.Adagrad])
def test_what_moves_all_elements(kind, options):
    """Decay outside the gradient and the L1 step move elements without a gradient too, as dense ones would."""
    for layout in LAYOUTS:
        ours, _ = ran(kind, [layout] * 3, torch.float64, **options)
        param = table(torch.float64)
        dense = kind([param], lr=0.1, **options)
        for step in range(3):
            param.grad = gradient(layout, step, torch.float64).to_dense()
            dense.step()
        torch.testing.assert_close(ours, param.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layouts", [("rows", None, "rows"), (None, "rows twice", None)], ids=["first", "second"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [(optizoo.Adagrad, {}), *((optizoo.SGD, SGD[name]) for name in ("plain", "momentum", "nesterov"))],
    ids=["adagrad", "sgd", "momentum", "nesterov"],
)
def test_dense_gradients_in_between(kind, options, layouts):
    """Gradients may be sparse in one step and dense in another; torch takes that in one order only."""
    ends = []
    for dense in (False, True):
        param = table()
        optimizer = kind([param], lr=0.1, **options)
        for step, layout in enumerate(layouts * 2):
            grad = gradient(layout or "rows", step)
            param.grad = grad.to_dense() if dense or layout is None else grad
            optimizer.step()
        ends.append(param.detach())
    torch.testing.assert_close(*ends)


def test_sparse_and_dense_in_one_group():
    """Dense and sparse gradients in one group, of several types, go their own ways."""

    def build(kind, **options):
        params = [table(), table(torch.float64), table(), Parameter(torch.ones(3))]
        return params, kind(params, lr=0.1, momentum=0.9, **options)

    runs = [build(optizoo.SGD), build(torch.optim.SGD, foreach=False)]
    for step in range(4):
        for params, optimizer in runs:
            params[0].grad = gradient("rows twice", step)
            params[1].grad = gradient("pairs", step, torch.float64)
            params[2].grad = gradient("elements", step).to_dense()
            params[3].grad = torch.ones(3)
            optimizer.step()
    for ours, theirs in zip(runs[0][0], runs[1][0], strict=True):
        torch.testing.assert_close(ours, theirs)
    assert torch.equal(runs[0][0][0], runs[1][0][0])
    assert torch.equal(runs[0][0][1], runs[1][0][1])


@pytest.mark.parametrize(
    ("kind", "options"),
    [("Adagrad", {}), ("SGD", {}), ("SGD", {"momentum": 0.9})],
    ids=["adagrad", "sgd", "momentum"],
)
def test_complex_parameters(kind, options):
    """A complex table is two real ones."""
    ends = []
    for library, how in ((optizoo, {}), (torch.optim, {"foreach": False})):
        param = Parameter(torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.complex64))
        optimizer = getattr(library, kind)([param], lr=0.1, **options, **how)
        for step in range(3):
            values = torch.randn(2, 3, generator=torch.Generator().manual_seed(step), dtype=torch.complex64)
            grad = torch.sparse_coo_tensor(torch.tensor([[0, 2]]), values, (4, 3), check_invariants=True)
            param.grad = grad.to_dense() if kind == "Adagrad" and library is torch.optim else grad
            optimizer.step()
        ends.append(param.detach())
    torch.testing.assert_close(*ends)


def test_gradients_that_are_not_finite():
    """``nonfinite`` looks into sparse gradients, and a skipped step leaves no trace."""
    for value in (float("nan"), float("inf")):
        param = table()
        before = param.detach().clone()
        optimizer = optizoo.Adagrad([param], nonfinite="skip")
        grad = gradient("rows", 0)
        grad._values()[1, 0, 0] = value
        param.grad = grad
        optimizer.step()
        assert torch.equal(param, before)
        assert optimizer.nonfinite_steps == 1
        optimizer.param_groups[0]["nonfinite"] = "raise"
        with pytest.raises(FloatingPointError, match="parameter 0 of group 0"):
            optimizer.step()


WAYS = {
    "state_dict": lambda optimizer: optimizer.state_dict(),
    "deepcopy": lambda optimizer: copy.deepcopy(optimizer).state_dict(),
    "pickle": lambda optimizer: pickle.loads(pickle.dumps(optimizer)).state_dict(),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
def test_checkpoints(way):
    """A momentum that is sparse is saved and loaded as it is, by torch too."""
    runs = []
    for kind in (optizoo.SGD, torch.optim.SGD):
        param = table()
        optimizer = optizoo.SGD([param], lr=0.1, momentum=0.9)
        param.grad = gradient("rows", 0)
        optimizer.step()
        loaded = kind([param], lr=0.1, momentum=0.9)
        loaded.load_state_dict(way(optimizer))
        param.grad = gradient("unordered rows", 1)
        loaded.step()
        runs.append(param.detach())
    assert torch.equal(*runs)


def test_the_sparse_gradients_themselves():
    """No step writes into a gradient, coalesces it or replaces it."""
    for kind, options in ((optizoo.SGD, {"momentum": 0.9, "nesterov": True}), (optizoo.Adagrad, {})):
        param = table()
        optimizer = kind([param], **options)
        param.grad = grad = gradient("rows twice", 0)
        kept = grad._values().clone()
        for _ in range(3):
            optimizer.step()
        assert param.grad is grad
        assert torch.equal(grad._values(), kept)
        assert not grad.is_coalesced()
        assert "sparse" in optizoo.explain(optimizer)
