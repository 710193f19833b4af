"""The zoo beside other packages: what agrees, what has a named fault, and that the kit sees the difference."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from optizoo import cli
from optizoo.testing import references as kit
from optizoo.testing.references import Comparison, compare_with, installed, known
from optizoo.testing.specimen import Reference

FEW_STEPS = 50
"""In so many steps every named fault shows."""


def case_id(pair: tuple[str, Reference]) -> str:
    name, reference = pair
    return "-".join(filter(None, [name, reference.path, reference.fault])).replace(" ", "-")


REFERENCES = [pytest.param(*pair, id=case_id(pair)) for pair in known()]


def other(path: str, *options: Any, **named: Any) -> torch.optim.Optimizer:
    """Make the optimizer of another package; skip the test where it is not installed."""
    module, _, title = path.rpartition(".")
    return getattr(pytest.importorskip(module, reason="pip install 'optizoo[oracles]'"), title)(*options, **named)


def held(name: str, reference: Reference, steps: int) -> list[Comparison]:
    if not installed(reference):
        pytest.skip(f"{reference.distribution} is not installed: pip install 'optizoo[oracles]'")
    return [*compare_with(name, reference, steps)]


@pytest.mark.parametrize("steps", [FEW_STEPS, pytest.param(kit.STEPS, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("name", "reference"), REFERENCES)
def test_beside_other_packages(name: str, reference: Reference, steps: int):
    """Every reference agrees to 1e-12 of the way, in float64; one with a named fault has it still."""
    expected = "named fault" if reference.fault else "agrees"
    for row in held(name, reference, steps):
        assert row.verdict == expected, f"{row.options}: {row.distance:.1e} apart; {row.message}"


# Named faults ---------------------------------------------------------------------------------------------------------


def moved(path: str, grads: list[float], **options: Any) -> float:
    """Return where another package moves a weight of 1 to, with lr 1 and these gradients."""
    weight = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = other(path, [weight], **{"lr": 1.0, "foreach": False, **options})
    for grad in grads:
        weight.grad = torch.tensor([grad], dtype=torch.float64)
        optimizer.step()
    return weight.item()


def adopt_clips_to_its_step():
    """In the second update a direction of 1000 is clipped to 2ᵖ, in Algorithm 2 to 1."""
    step = {"betas": (0.0, 0.5), "clip_lambda": lambda t: t**0.25}
    assert moved("pytorch_optimizer.ADOPT", [1.0, 1000.0], **step) == pytest.approx(1 - 2**0.25, rel=1e-12)
    assert moved("adopt.ADOPT", [1.0, 1000.0], **step) == 0.0


def adopt_decays_first():
    """The first update, which only makes the second moment, decays the weights."""
    assert moved("pytorch_optimizer.ADOPT", [1.0], weight_decay=0.5, weight_decouple=True) == 0.5
    assert moved("adopt.ADOPT", [1.0], weight_decay=0.5, decouple=True) == 1.0


def adan_ignores_its_switch():
    """With and without ``adam_wd`` the decay is a division."""
    ends = [
        moved("optimi.Adan", [1.0], weight_decay=0.5, adam_wd=adam_wd, triton=False, eps=0.0)
        for adam_wd in (False, True)
    ]
    assert ends == [0.0, 0.0]  # (1 - 1) / 1.5; AdamW's is 1 - 0.5 - 1 = -0.5


def adabelief_rectifies():
    """By default the first update is a step of SGD's, as long as the gradient; Adam's has the length of lr."""
    assert moved("timm.optim.AdaBelief", [8.0]) == -7.0
    assert moved("timm.optim.AdaBelief", [8.0], rectify=False) == pytest.approx(1 - 1 / 0.9, rel=1e-6)


def yogi_starts_m():
    """A weight without a gradient moves, because the first moment starts at 1e-6 too."""
    assert moved("pytorch_optimizer.Yogi", [0.0]) != 1.0
    assert moved("pytorch_optimizer.Yogi", [0.0], initial_accumulator=0.0) == 1.0


def qhadam_rounds():
    """In float64 the weights of the averages have the digits of float32."""
    found = moved("pytorch_optimizer.QHAdam", [1.0, 3.0], betas=(0.9, 0.9))
    weight = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    adam = torch.optim.Adam([weight], lr=1.0, betas=(0.9, 0.9))  # which it is by default
    for grad in (1.0, 3.0):
        weight.grad = torch.tensor([grad], dtype=torch.float64)
        adam.step()
    assert found == pytest.approx(weight.item(), rel=1e-6)
    assert found != pytest.approx(weight.item(), rel=1e-10)


def prodigy_takes_the_next_d():
    """Where d grows, a step at β₁ = 0 is longer by what it grows, which it is at no other β₁."""
    ends = {}
    for beta1 in (0.0, 1e-12):
        weight = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
        optimizer, before = other("prodigyopt.Prodigy", [weight], d0=1.0, betas=(beta1, 0.75)), 1.0
        for _ in range(2):
            before = weight.item()
            weight.grad = torch.ones(1, dtype=torch.float64)
            optimizer.step()
        ends[beta1] = before - weight.item(), optimizer.param_groups[0]["d"]
    (mistaken, d), (right, _) = ends.values()
    assert d > 1.05
    assert mistaken == pytest.approx(d * right, rel=1e-7)


def lamb_clips():
    """By default a gradient of 8 counts as 1; without decay a small weight takes a whole step."""
    assert moved("timm.optim.Lamb", [1.0, 8.0]) != moved("timm.optim.Lamb", [1.0, 8.0], max_grad_norm=None)
    step = {"weight_decay": 0.0, "max_grad_norm": None, "lr": 0.5}
    assert moved("timm.optim.Lamb", [1.0, 1.0], **step) == pytest.approx(0.0, abs=1e-5)
    assert moved("timm.optim.Lamb", [1.0, 1.0], always_adapt=True, **step) == pytest.approx(0.25, rel=1e-5)


def lamb_has_no_corrections():
    """The first step should have the length of the weight; it has that of a norm of 10, whatever the weight."""
    assert moved("timm.optim.Lamb", [1.0], always_adapt=True, max_grad_norm=None) == pytest.approx(0.0, abs=1e-5)
    assert moved("pytorch_optimizer.Lamb", [1.0], max_grad_norm=0.0) == pytest.approx(-9.0, rel=1e-5)


def lars_moves_biases_as_sgd():
    """A vector takes the whole gradient; with the trust ratio it takes a thousandth of its own length."""
    assert moved("pytorch_optimizer.LARS", [8.0], momentum=0.0) == -7.0
    assert moved("timm.optim.Lars", [8.0], momentum=0.0, always_adapt=True) == pytest.approx(0.999, rel=1e-9)


FAULTS: dict[str, Callable[[], None]] = {
    "clips to t^p": adopt_clips_to_its_step,
    "decays in the first update": adopt_decays_first,
    "ignores adam_wd": adan_ignores_its_switch,
    "multiplies by the next d at β₁ = 0": prodigy_takes_the_next_d,
    "rectifies as RAdam by default": adabelief_rectifies,
    "starts m at 1e-6 too": yogi_starts_m,
    "weighs its averages in float32": qhadam_rounds,
    "clips all gradients to a norm of 1; without decay it takes no ratio": lamb_clips,
    "no bias corrections, weight norms of 10 at most, ε in the ratio": lamb_has_no_corrections,
    "moves biases as SGD does, without decay; no ε": lars_moves_biases_as_sgd,
}


@pytest.mark.filterwarnings("ignore")  # of packages for an older torch
@pytest.mark.parametrize("fault", FAULTS)
def test_named_faults(fault: str):
    """Every fault that a reference is said to have shows in one update or two, by hand."""
    FAULTS[fault]()


def test_every_named_fault_is_shown():
    """No reference is excused by a fault that no test shows."""
    assert {reference.fault for _, reference in known()} - {""} == FAULTS.keys()


# The kit --------------------------------------------------------------------------------------------------------------

TORCH = Reference("torch", "", "torch.optim.AdamW", {"foreach": False})


class Overwriting(torch.optim.AdamW):
    """An AdamW that writes into gradients, and must be told when it is judged: elsewhere than it steps."""

    def train(self):
        self.mode = "train"

    def eval(self):
        self.mode = "eval"
        for param in self.param_groups[0]["params"]:
            param.data.add_(-param.grad)

    def step(self, closure: Any = None) -> Any:
        assert self.mode == "train"
        result = super().step(closure)
        for param in self.param_groups[0]["params"]:
            param.grad.zero_()
        return result


class Resting(torch.optim.SGD):
    """An optimizer that does nothing."""

    def step(self, closure: Any = None) -> Any:
        return closure


class Lost(torch.optim.SGD):
    """An optimizer that loses a number."""

    def step(self, closure: Any = None) -> Any:
        self.param_groups[0]["params"][0].data.fill_(math.nan)
        return closure


@pytest.mark.parametrize(
    ("changes", "verdict", "message"),
    [
        pytest.param({}, "agrees", "", id="torch"),
        pytest.param({"tables": ({"weight_decay": (0, 0.1), "maximize": (False, True)},)}, "agrees", "", id="table"),
        pytest.param(
            {"path": f"{__name__}.Overwriting"}, "agrees", "", id="overwrites-gradients-and-is-judged-at-eval"
        ),
        pytest.param({"options": {"eps": 1.0000001e-8}}, "FAIL", "", id="eps"),
        pytest.param({"options": {"betas": (0.9, 0.9990001)}}, "FAIL", "", id="betas"),
        pytest.param({"options": {"weight_decay": 0.0100001}}, "FAIL", "", id="decay"),
        pytest.param({"options": {"amsgrad": True}}, "FAIL", "", id="amsgrad"),
        pytest.param({"path": "torch.optim.Adam"}, "FAIL", "", id="another"),
        pytest.param({"path": f"{__name__}.Lost"}, "FAIL", "", id="nan"),
        pytest.param({"path": f"{__name__}.Resting"}, "FAIL", "nothing was compared", id="rests"),
        pytest.param({"path": "torch.optim.AdamV"}, "FAIL", "AttributeError", id="no-such-class"),
        pytest.param({"path": "torch.optimum.AdamW"}, "FAIL", "ModuleNotFoundError", id="no-such-module"),
        pytest.param({"options": {"epsilon": 1e-8}}, "FAIL", "TypeError", id="no-such-option"),
        pytest.param({"options": {"eps": 1e-7}, "fault": "eps"}, "named fault", "eps", id="fault"),
        pytest.param({"fault": "eps"}, "fault is gone", "eps", id="fault-is-gone"),
        pytest.param({"distribution": "no-such-package"}, "not installed", "", id="not-installed"),
        pytest.param(
            {"tables": ({"weight_decay": (0.1,)},), "names": {"weight_decay": "eps"}}, "FAIL", "", id="wrong-name"
        ),
        pytest.param(
            {"tables": ({"eps": (1e-3,)},), "names": {"eps": lambda eps: {"eps": 2 * eps / 2}}},
            "agrees",
            "",
            id="names",
        ),
    ],
)
def test_verdicts(changes: dict[str, Any], verdict: str, message: str):
    """What does not agree fails and says why, unless a fault is named; a package that breaks is a row, not an end."""
    rows = [*compare_with("adamw", replace(TORCH, **changes), steps=FEW_STEPS)]
    assert {row.verdict for row in rows} == {verdict}
    assert all(message in row.message for row in rows)


def test_gradients_are_given_anew():
    """Both see the same gradients, whatever one of them does to its own."""
    seen: dict[str, list[Tensor]] = {"ours": [], "theirs": []}

    def watched(kind: Any, side: str) -> Any:
        class Watched(kind):
            def step(self, closure: Any = None) -> Any:
                seen[side] += [param.grad.clone() for param in self.param_groups[0]["params"]]
                return super().step(closure)

        return Watched

    kit._displacements(watched(torch.optim.AdamW, "ours"), 7)
    kit._displacements(watched(Overwriting, "theirs"), 7)
    assert len(seen["ours"]) == 21
    assert all(map(torch.equal, seen["ours"], seen["theirs"]))


def test_rows_are_counted_beforehand():
    """A progress bar knows how many rows there will be."""
    assert kit.count_rows(["lion"]) == len([*kit.compare(["lion"], steps=2)])
    assert kit.count_rows() >= len(known())


# optizoo verify --references ------------------------------------------------------------------------------------------


def row(**changes: Any) -> Comparison:
    values = {"version": "1.0", "options": "eps=1", "steps": 3, "distance": 1e-15, "verdict": "agrees"}
    return Comparison("lion", "timm.optim.Lion", "timm", **{**values, **changes})


MISSING = Comparison("adopt", "adopt.ADOPT", "torch-adopt")


@pytest.mark.parametrize(
    ("rows", "status", "said"),
    [
        pytest.param([row()], 0, ["1.0e-15", "all 1 rows pass"], id="agrees"),
        pytest.param([row(distance=0.5, verdict="FAIL")], 1, ["1 of 1 rows fail", "FAIL lion(eps=1)"], id="fails"),
        pytest.param([row(verdict="FAIL", message="E: no")], 1, ["beside timm.optim.Lion: E: no"], id="raises"),
        pytest.param([row(verdict="named fault", message="rounds")], 0, ["named fault: rounds"], id="fault"),
        pytest.param(
            [row(), MISSING], 0, ["torch-adopt is not installed: pip install 'optizoo[oracles]'"], id="missing"
        ),
    ],
)
def test_verify_references(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    rows: list[Comparison],
    status: int,
    said: list[str],
):
    """The exit status is 1 where one fails without a named fault; table, verdict and JSON file say which."""
    asked = []
    monkeypatch.setattr(kit, "compare", lambda **options: asked.append(options) or rows)
    arguments = ["verify", "--references", "--steps", "3", "--json", str(tmp_path / "r.json")]
    assert cli.main(arguments) == status
    assert asked == [{"steps": 3}]
    out = capsys.readouterr().out
    assert out.startswith(kit.format_references(rows))
    assert all(text in out for text in said)
    written = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert written["passed"] is (status == 0)
    assert [cell["verdict"] for cell in written["references"]] == [each.verdict for each in rows]
    assert cli.main(["verify", "--references", "--verbose"]) == status
    assert asked[1] == {"steps": kit.STEPS}
    assert "eps=1" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [["--full"], ["--jobs", "2"], ["--device", "meta"], ["--dtype", "float64"]])
def test_flags_of_the_other_verification(capsys: pytest.CaptureFixture[str], flags: list[str]):
    """What would not be obeyed is refused."""
    assert cli.main(["verify", "--references", *flags]) == 2
    assert "leave out --full, --jobs, --device and --dtype" in capsys.readouterr().err


def test_no_package_is_installed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Where nothing could be compared, nothing is proven: one line says what to install."""
    monkeypatch.setattr(kit, "compare", lambda **_: [MISSING])
    assert cli.main(["verify", "--references"]) == 2
    assert capsys.readouterr().err == "error: none of torch-adopt is installed: pip install 'optizoo[oracles]'\n"
