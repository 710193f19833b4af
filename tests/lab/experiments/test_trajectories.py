"""All optimizers on four surfaces."""

import pytest
import torch

import optizoo
from optizoo.lab import pictures
from optizoo.lab.experiments.trajectories import SURFACES, page
from tests.lab.experiments import tiny

NAME = "trajectories"
TINY = {"steps": 20, "lr_from": -3, "lr_to": -1, "per_decade": 1}


@pytest.mark.parametrize("name", SURFACES)
def test_minima_are_minima(name: str):
    """At each minimum of a surface the gradient is zero, and a random step leads up."""
    surface = SURFACES[name]
    generator = torch.Generator().manual_seed(0)
    for minimum in surface.minima:
        at = torch.tensor(minimum, dtype=torch.float64, requires_grad=True)
        height = surface.height(*at)
        (gradient,) = torch.autograd.grad(height, at)
        assert gradient.tolist() == pytest.approx([0, 0], abs=1e-12)
        around = at.detach() + 0.1 * torch.randn(50, 2, dtype=torch.float64, generator=generator)
        assert (surface.height(*around.unbind(-1)) > height).all()


def test_a_path_is_the_optimizer_s_own():
    """All rates and surfaces walk at once; each path is what one parameter with that rate does alone."""
    for row in [row for row in tiny(NAME) if row["optimizer"] in ("adam", "rprop", "nesterov")]:
        options = {"nesterov": True} if row["optimizer"] == "nesterov" else {}
        weights = torch.nn.Parameter(torch.tensor(SURFACES[row["surface"]].start, dtype=torch.float64))
        kind = "momentum" if row["optimizer"] == "nesterov" else row["optimizer"]
        optimizer = optizoo.create(kind, [weights], lr=row["lrs"][row["best"]], **options)
        for point in row["path"]:
            assert weights.tolist() == pytest.approx(point, rel=1e-4, abs=1e-9)
            optimizer.zero_grad()
            SURFACES[row["surface"]].height(*weights).backward()
            optimizer.step()


def test_the_best_of_the_grid_is_the_lowest():
    """Every optimizer has the same rates on every surface, and no rate ends lower than the chosen one."""
    rows = tiny(NAME)
    assert len(rows) == 12 * len(SURFACES)
    assert all(row["lrs"] == pytest.approx([1e-3, 1e-2, 1e-1]) for row in rows)
    for row in rows:
        assert row["ends"][row["best"]] == min(end for end in row["ends"] if end is not None)
        assert row["ends"][row["best"]] == pytest.approx(row["gaps"][-1], rel=1e-3)


def test_the_claim_follows_the_rows():
    """The verdict counts the pairs that end lower than SGD, and names the others."""
    rows = tiny(NAME)
    for row in rows:
        row["ends"] = [1.0 if row["optimizer"] == "sgd" else 0.5] * 3
    assert page(rows).headline.number == "12 of 12"
    assert page(rows).headline.verdict == "held"
    next(row for row in rows if (row["surface"], row["optimizer"]) == ("valley", "adam"))["ends"] = [1.0] * 3
    assert page(rows).headline.verdict == "did not hold"
    assert "in 11 of 12 cases, or at 1e-16 before it; not adam on valley." in page(rows).seen[0]
    for row in rows:
        row["ends"] = [0.25 if row["optimizer"] in ("rprop", "adamax") else 0.5] * 3
    assert "valley: rprop, adamax (2.5e-01)" in page(rows).seen[1]  # who is level is named


def test_who_is_level_at_the_floor_is_told_apart_by_time():
    """Below 1e-16 heights say nothing any more: who was there first is ahead."""
    rows = tiny(NAME)
    for row in rows:
        row["ends"] = [1e-16] * 3
        arrival = {"sgd": 6, "momentum": 4, "rmsprop": 8}.get(row["optimizer"], 5)
        row["gaps"] = [1.0] * arrival + [1e-16] * (21 - arrival)
    shown = page(rows)
    assert shown.headline.number == "8 of 12"
    assert "not rmsprop on rosenbrock, rmsprop on beale, rmsprop on valley, rmsprop on saddle" in shown.seen[0]


def test_maps_move():
    """A map has an animation, small enough for a page, in which paths grow from start to end."""
    picture = page(tiny(NAME)).pictures[0]
    assert picture.frames
    animation = pictures.gif(picture.frames(pictures.LIGHT))
    assert animation[:6] == b"GIF89a"
    assert 10_000 < len(animation) < 200_000
