"""Views of one memory: what is refused has a byte in common, what has none is welcome, and thousands cost little."""

import itertools
import random

import pytest
import torch
from torch.nn import Parameter

import optizoo
from optizoo.core import groups
from optizoo.core import overlap as module
from optizoo.core.overlap import overlap

M = torch.zeros(512, 512)
FLAT = torch.zeros(10_000)
DEEP = torch.zeros(8, 8, 8, 8)
CUBE = torch.zeros(6, 6, 6)

DISJOINT = {
    "interleaved columns": [M[:, start::32] for start in range(32)],
    "interleaved rows and columns": [M[row::16, column::16] for row in range(16) for column in range(16)],
    "columns": [M[:, column] for column in range(512)],
    "turned columns": [M.t()[column] for column in range(512)],
    "tiles": [M[32 * i : 32 * i + 32, 32 * j : 32 * j + 32] for i in range(16) for j in range(16)],
    "turned tiles": [M[32 * i : 32 * i + 32, 32 * j : 32 * j + 32].t() for i in range(16) for j in range(16)],
    "pieces of a flat buffer": [FLAT[10 * i : 10 * i + 10].view(2, 5) for i in range(1000)],
    "blocks in four dimensions": [DEEP[2 * i : 2 * i + 2, :, 2 * j : 2 * j + 2] for i in range(4) for j in range(4)],
    "lattices in four dimensions": [DEEP[i::4, :, j::4, k::4] for i in range(4) for j in range(4) for k in range(4)],
    "real and imaginary parts": [(z := torch.zeros(100, dtype=torch.complex64)).real, z.imag],
    "an upper and a lower part": [M[:256, 256:], M[256:, :256], M[:256, :256], M[256:, 256:]],
    "nothing between": [FLAT[:5], FLAT[2:2], FLAT[5:]],
    "bytes of one word": [(w := torch.zeros(8, dtype=torch.int32).view(torch.uint8))[::4], w[1::4], w[2::4], w[3::4]],
    "over the edge of a row": [M.view(-1)[500:530], M[1, 18:], M[0, :500]],
    "as_strided": [FLAT.as_strided((5, 3), (10, 2)), FLAT.as_strided((5, 3), (10, 2), 1)],
    "coprime strides that never meet": [FLAT[::14][:50], FLAT[1::21][:50]],
    "expanded": [FLAT[:1].expand(7), FLAT[1:2].expand(7)],
}
SHARING = {
    "a row and a column": [M[3], M[:, 5]],
    "a matrix and its transpose": [M, M.t()],
    "one more piece": [*DISJOINT["pieces of a flat buffer"], FLAT[4321:4322]],
    "one more column": [*DISJOINT["columns"], M[17:18, 44]],
    "one more tile": [*DISJOINT["tiles"], M[60:70, 60:70]],
    "one more lattice": [*DISJOINT["interleaved columns"], M[511, 31:32]],
    "coprime strides that meet late": [FLAT[::7], FLAT[5::13]],
    "expanded": [FLAT[:1].expand(7), FLAT[0:2]],
    "another type": [FLAT[:4], FLAT[3:4].view(torch.uint8)[3:]],
    "the same view again": [M[:5], M[:5]],
    "as_strided": [FLAT.as_strided((5, 3), (10, 2)), FLAT.as_strided((5, 3), (9, 3), 2)],
    "around the edge of a row": [M.view(-1)[500:530], M[1, 17:]],
}


@pytest.mark.parametrize("views", DISJOINT.values(), ids=list(DISJOINT))
def test_disjoint_views(views):
    """Views without a byte in common are told apart without a search, in any order."""
    assert overlap(views) is None
    assert overlap(random.Random(0).sample(views, len(views))) is None


@pytest.mark.parametrize("views", SHARING.values(), ids=list(SHARING))
def test_sharing_views(views):
    """Two views with a byte in common are found among all others."""
    for order in (views, views[::-1], random.Random(0).sample(views, len(views))):
        found = overlap(order)
        assert found is not None
        assert taken(found[0]) & taken(found[1])


def taken(tensor):
    """Return the places of all bytes of a view in its storage."""
    size = tensor.element_size()
    places = [tensor.storage_offset()]
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        places = [place + index * stride for place in places for index in range(length)]
    return {size * place + byte for place in places for byte in range(size)}


STRIDES = (0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24)


def any_strides(draw):
    """Return a small view with strides of any kind."""
    dims = draw.randint(0, 3)
    shape = [draw.randint(1, 4) for _ in range(dims)]
    return FLAT.as_strided(shape, [draw.choice(STRIDES) for _ in range(dims)], draw.randint(0, 60))


def any_slices(draw):
    """Return what slices and turns make of a small tensor."""
    view = CUBE
    for dim in range(3):
        start = draw.randint(0, 5)
        view = view.narrow(dim, start, draw.randint(1, 6 - start))
    view = view[:: draw.randint(1, 3), :: draw.randint(1, 3), :: draw.randint(1, 3)]
    return view.permute(*draw.sample(range(3), 3))


@pytest.mark.parametrize("draw_view", [any_strides, any_slices])
def test_as_counting_bytes_says(draw_view):
    """On small views of every kind the verdict is that of the sets of bytes."""
    draw = random.Random(0)
    verdicts = []
    for _ in range(1500):
        views = [draw_view(draw) for _ in range(draw.randint(2, 5))]
        sets = [taken(view) for view in views]
        verdicts.append(any(one & other for one, other in itertools.combinations(sets, 2)))
        assert (overlap(views) is not None) == verdicts[-1]
    assert 300 < sum(verdicts) < 1200


def test_no_pair_is_compared_that_ranges_tell_apart(monkeypatch):
    """Of thousands of views none needs a search, and a search that finds nothing in its steps raises no alarm."""
    for name, views in DISJOINT.items():
        if not name.startswith(("coprime", "over the edge")):
            monkeypatch.setattr(module, "_meet", lambda *args, name=name: pytest.fail(f"{name}: a pair is compared"))
            assert overlap(views) is None
    monkeypatch.undo()
    strides = (10007, 5003, 2503, 1009, 503), (10009, 5009, 2511, 1019, 509)
    large = torch.empty(250_000)
    hard = [large.as_strided((10,) * 5, each, start) for start, each in enumerate(strides)]
    monkeypatch.setattr(module, "_STEPS", (10, 0))
    assert overlap(hard) is None


def test_a_constructor_looks_once(monkeypatch):
    """However many groups there are, their memory is looked at once; each group that is added later, once more."""
    calls = []
    monkeypatch.setattr(groups, "overlap", lambda tensors: calls.append(len(list(tensors))))
    optimizer = optizoo.AdamW([{"params": [Parameter(torch.zeros(1))]} for _ in range(300)], lr=torch.tensor(0.1))
    assert calls == [300]
    assert len({id(group["lr"]) for group in optimizer.param_groups}) == 300
    optimizer.add_param_group({"params": [Parameter(torch.zeros(1))]})
    assert calls == [300, 301]


def test_groups_are_checked_as_torch_checks_them():
    """Names in all groups or none, tensors that are leaves, no set; and a group that is refused leaves no trace."""
    held = Parameter(torch.zeros(2))
    for kind in (optizoo.SGD, torch.optim.SGD):
        optimizer = kind([{"params": [held]}, {"params": [Parameter(torch.zeros(1))]}])
        for wrong, error, message in (
            ({"params": [("name", Parameter(torch.zeros(1)))]}, ValueError, "with/without names"),
            ({"params": [held]}, ValueError, "more than one parameter group"),
            ({"params": [held * 2]}, ValueError, "non-leaf"),
            ({"params": [1]}, TypeError, "can only optimize Tensors"),
            ({"params": {Parameter(torch.zeros(1))}}, TypeError, "ordered collections"),
            ([held], TypeError, "must be a dict"),
        ):
            with pytest.raises(error, match=message):
                optimizer.add_param_group(wrong)  # pyright: ignore[reportArgumentType]
            assert len(optimizer.param_groups) == 2
    with pytest.raises(ValueError, match="share elements in memory"):
        optizoo.SGD([{"params": [M[0]]}, {"params": [M[:, 0]]}])


def test_expanded_parameters():
    """A parameter whose elements share one place is refused by the step, as torch refuses it."""
    for kind in (optizoo.SGD, torch.optim.SGD):
        param = torch.zeros(1).expand(3).requires_grad_()
        optimizer = kind([param])
        param.grad = torch.ones(3)
        with pytest.raises(RuntimeError, match="more than one element of the written-to tensor"):
            optimizer.step()
