"""Properties that hold for any shapes, types, options and missing gradients; Hypothesis looks for exceptions."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn import Parameter

import optizoo
from optizoo.testing.verify import option_combinations
from optizoo.zoo import optimizer_class
from tests.zoo import shapes_for

shapes = st.lists(st.lists(st.integers(0, 4), max_size=3).map(tuple), min_size=1, max_size=4)
dtypes = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64])
combinations = st.sampled_from(option_combinations())
quick = settings(max_examples=80, deadline=None, derandomize=True)


def tensors(sizes: Sequence[Sequence[int]], dtype: torch.dtype, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    return [torch.randn(size, generator=generator, dtype=wide).to(dtype) for size in sizes]


def walk(optimizer: torch.optim.Optimizer, params: list[Parameter], present: list[list[bool]]) -> None:
    """Step once for every row of ``present``, which says whose gradient there is."""
    for step, row in enumerate(present):
        grads = tensors([tuple(param.shape) for param in params], params[0].dtype, seed=step + 1)
        for param, grad, there in zip(params, grads, row, strict=True):
            param.grad = grad if there else None
        optimizer.step()


@st.composite
def walks(draw):
    sizes = draw(shapes)
    row = st.lists(st.booleans(), min_size=len(sizes), max_size=len(sizes))
    return sizes, draw(st.lists(row, min_size=1, max_size=5))


@pytest.mark.filterwarnings("ignore:eps = 1e-\\d+ is 0 in torch.float16")  # it does, and is meant here
@quick
@given(walks(), dtypes, combinations)
def test_foreach_equals_loop(walked, dtype, combination):
    """Both backends give the same bits, whatever the shapes, the type, the options and the missing gradients."""
    sizes, present = walked
    name, options = combination
    assume(optimizer_class(name).supports_complex or not dtype.is_complex)
    ends = []
    for foreach in (False, True):
        params = [Parameter(tensor) for tensor in tensors(shapes_for(name, sizes), dtype, seed=0)]
        optimizer = optizoo.create(name, params, foreach=foreach, **options)
        walk(optimizer, params, present)
        ends.append([*params, *(value for param in params for value in optimizer.state[param].values())])
    for actual, expected in zip(*ends, strict=True):
        assert actual.dtype == expected.dtype
        assert actual.stride() == expected.stride()
        torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


@quick
@given(walks(), combinations, st.data())
def test_a_break_changes_nothing(walked, combination, data):
    """Saved and loaded after any step, a run ends in the same bits."""
    sizes, present = walked
    name, options = combination
    pause = data.draw(st.integers(0, len(present)))
    ends = []
    for broken in (False, True):
        params = [Parameter(tensor) for tensor in tensors(shapes_for(name, sizes), torch.float32, seed=0)]
        optimizer = optizoo.create(name, params, **options)
        walk(optimizer, params, present[:pause])
        if broken:
            saved = optimizer.state_dict()
            optimizer = optizoo.create(name, params, **options)
            optimizer.load_state_dict(saved)
        # The gradients depend on the number of the step, so both halves are walked with the same ones.
        walk(optimizer, params, present[pause:])
        ends.append(params)
    for actual, expected in zip(*ends, strict=True):
        assert torch.equal(actual, expected)
