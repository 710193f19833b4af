"""The step benchmark measures what it says; how fast a step is, no test asks."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import optizoo
from optizoo.lab import step_benchmark as bench

TINY = {"tiny": bench.Workload([(3, 4), (5,)]), "small": bench.Workload([(7, 3)])}


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeats that are over at once."""
    monkeypatch.setattr(bench, "REPEAT_SECONDS", 1e-6)


def run(**changes: Any) -> dict[str, Any]:
    return bench.step_benchmark(**{"workloads": TINY, "repeats": 2, "copy_bytes": 1 << 12, **changes})


# Workloads -----------------------------------------------------------------------------------------------------------


def test_resnet50_has_the_shapes_of_torchvision():
    """The table of shapes is torchvision's model, parameter by parameter."""
    from torchvision.models import resnet50

    with torch.device("meta"):
        model = resnet50()
    assert bench.WORKLOADS["ResNet-50"].shapes == [tuple(param.shape) for param in model.parameters()]


@pytest.mark.parametrize(
    ("name", "tensors", "parameters"),
    [
        pytest.param("linear", 2, 30_730, id="linear"),
        pytest.param("two-layer", 4, 1_578_506, id="two-layer"),
        pytest.param("ResNet-50", 161, 25_557_032, id="ResNet-50"),
        pytest.param("GPT-2-small", 148, 124_439_808, id="GPT-2-small"),
        pytest.param("32M", 1, 2**25, id="32M"),
        pytest.param("1000x64", 1000, 64_000, id="1000x64"),
        pytest.param("groups", 256, 65_536, id="groups"),
        pytest.param("one-cycle", 60, 60_000, id="one-cycle"),
        pytest.param("sparse", 1, 64_000_000, id="sparse"),
    ],
)
def test_workloads_have_the_published_size(name: str, tensors: int, parameters: int):
    """Every workload has as many tensors and parameters as the model that it stands for."""
    shapes = bench.WORKLOADS[name].shapes
    assert len(shapes) == tensors
    assert sum(torch.Size(shape).numel() for shape in shapes) == parameters


# A run ---------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("short")
def test_every_cell_has_every_side():
    """A run measures each optimizer on each workload, on all sides but those that torch does not have."""
    record = run()
    names = [(cell["workload"], cell["optimizer"]) for cell in record["cells"]]
    assert names == [(workload, optimizer) for workload in TINY for optimizer in bench.OPTIMIZERS]
    for cell in record["cells"]:
        assert {*cell["sides"], *cell["left_out"]} == set(bench.SIDES)
        assert ("torch fused" in cell["left_out"]) is (cell["optimizer"] == "rmsprop")
        assert all(len(side["repeats_us"]) == 2 for side in cell["sides"].values())
        assert cell["explain"].startswith(type(optizoo.create(cell["optimizer"], [torch.ones(1)])).__name__)
    assert (record["device"], record["dtype"], record["repeats"]) == ("cpu", "float32", 2)
    assert record["environment"]["threads"] == torch.get_num_threads()


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("optimizer", "tensors"),
    [
        pytest.param("sgd", 3, id="sgd"),
        pytest.param("momentum", 5, id="momentum"),
        pytest.param("rmsprop", 5, id="rmsprop"),
        pytest.param("adam", 7, id="adam"),
    ],
)
def test_bytes_are_those_that_a_step_must_move(optimizer: str, tensors: int, dtype: torch.dtype):
    """A step reads parameter, gradient and states, and writes parameter and states: once each."""
    (cell,) = run(optimizers=[optimizer], workloads={"tiny": TINY["tiny"]}, dtype=dtype)["cells"]
    assert (cell["tensors"], cell["parameters"]) == (2, 17)
    assert cell["bytes"] == tensors * 17 * dtype.itemsize


@pytest.mark.usefixtures("short")
def test_sides_share_all_tensors_but_counters(monkeypatch: pytest.MonkeyPatch):
    """All sides of a cell update the same parameters and states with the same gradients, and count their own steps."""
    made = []

    def keeping(make):
        def kept(*arguments: Any, **options: Any):
            made.append(make(*arguments, **options))
            return made[-1]

        return kept

    sides = {
        name: (keeping(make) if make is optizoo.create else make, options)
        for name, (make, options) in bench.SIDES.items()
    }
    monkeypatch.setattr(bench, "SIDES", sides)
    run(optimizers=["adam"], workloads={"tiny": TINY["tiny"]})
    first, *others = made
    assert others
    for other in others:
        for one, two in zip(first.param_groups[0]["params"], other.param_groups[0]["params"], strict=True):
            assert one is two
            for name in ("exp_avg", "exp_avg_sq"):
                assert first.state[one][name] is other.state[one][name]
            assert first.state[one]["step"] is not other.state[one]["step"]


@pytest.mark.usefixtures("short")
def test_numbers_stay_far_from_overflow_and_denormals(monkeypatch: pytest.MonkeyPatch):
    """After a run parameters and gradients are still about 1 and 0.1: denormals would change the time of a step."""
    seen = []
    parameters = bench.make_parameters
    monkeypatch.setattr(bench, "make_parameters", lambda *arguments: seen.append(parameters(*arguments)) or seen[-1])
    run(optimizers=["adam", "sgd"])
    assert len(seen) == len(TINY)
    for params in seen:
        for param in params:
            assert ((param > 0.4) & (param < 1.6)).all()
            assert ((param.grad >= 0.05) & (param.grad <= 0.15)).all()


@pytest.mark.usefixtures("short")
def test_a_kernel_that_cannot_be_had_is_left_out(monkeypatch: pytest.MonkeyPatch):
    """Without a compiler the fused side of optizoo is missing, with the reason, and the rest is measured."""
    for question in ("unavailable", "obstacle"):
        monkeypatch.setattr(f"optizoo.backends.fused.{question}", lambda *_, **__: "no compiler was found")
    (cell,) = run(optimizers=["sgd"], workloads={"tiny": TINY["tiny"]})["cells"]
    assert "no compiler was found" in cell["left_out"]["optizoo fused"]
    assert "no compiler was found" in cell["explain"]
    assert {*cell["sides"], "optizoo fused"} == set(bench.SIDES)


@pytest.mark.parametrize("side", ["torch loop", "optizoo default"])
def test_a_fault_is_not_left_out(monkeypatch: pytest.MonkeyPatch, side: str):
    """Where a side fails that can always run, so does the benchmark."""

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(bench, "SIDES", {**bench.SIDES, side: (fail, bench.SIDES[side][1])})
    with pytest.raises(RuntimeError, match="a fault"):
        run(optimizers=["sgd"])


@pytest.mark.usefixtures("short")
def test_an_interrupted_run_keeps_its_cells(monkeypatch: pytest.MonkeyPatch, tmp_path):
    """The file is whole after every cell, and torch has its threads back however the run ends."""
    measured = []
    cell = bench._cell

    def interrupted(*arguments: Any, **options: Any) -> dict[str, Any]:
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(cell(*arguments, **options))
        return measured[-1]

    monkeypatch.setattr(bench, "_cell", interrupted)
    before = torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt):
        run(file=tmp_path / "step.json", threads=before + 1)
    assert torch.get_num_threads() == before
    record = json.loads((tmp_path / "step.json").read_text(encoding="utf-8"))
    assert [cell["optimizer"] for cell in record["cells"]] == ["sgd", "momentum"]
    assert record["environment"]["threads"] == before + 1


# Groups, moving options, sparse gradients ----------------------------------------------------------------------------


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The optimizers of all sides, as they come to be."""
    found = []

    def keeping(make: Any) -> Any:
        return lambda *arguments, **options: found.append(make(*arguments, **options)) or found[-1]

    sides = {name: (keeping(make), options) for name, (make, options) in bench.SIDES.items()}
    monkeypatch.setattr(bench, "SIDES", sides)
    return found


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_every_group_has_its_own_options(made: list[Any], optimizer: str):
    """Groups are equal parts with an lr and a weight decay of their own, the same on all sides."""
    run(optimizers=[optimizer], workloads={"grouped": bench.Workload([(2, 3)] * 6, groups=3)})
    assert len(made) == len(bench.SIDES)
    for each in made:
        assert [len(group["params"]) for group in each.param_groups] == [2, 2, 2]
        for option in ("lr", "weight_decay"):
            values = [group[option] for group in each.param_groups]
            assert len(set(values)) == 3
            assert values == [group[option] for group in made[0].param_groups]


@pytest.mark.parametrize(
    ("optimizer", "moved"),
    [
        pytest.param("sgd", {"lr"}, id="sgd"),
        pytest.param("momentum", {"lr", "momentum"}, id="momentum"),
        pytest.param("rmsprop", {"lr"}, id="rmsprop"),
        pytest.param("adamw", {"lr", "betas"}, id="adamw"),
    ],
)
def test_one_cycle_moves_all_that_it_should(optimizer: str, moved: set[str]):
    """Every write brings a new lr and, where the optimizer has one, a new momentum or first beta, and nothing else."""
    ours = optizoo.create(optimizer, [torch.ones(1)]).param_groups[0]
    theirs = bench.torch_twin(optimizer, [torch.ones(1)]).param_groups[0]
    for group in (ours, theirs):
        move = bench._one_cycle(group)
        for _ in range(250):
            before = dict(group)
            move()
            assert {name for name, value in group.items() if value is not before[name]} >= moved
            assert {name for name, value in group.items() if name != "params" and value != before[name]} == moved
    assert all(ours[option] == theirs[option] for option in moved)


@pytest.mark.usefixtures("short")
def test_moving_options_move_before_every_step(made: list[Any], monkeypatch: pytest.MonkeyPatch):
    """What is timed is a write and a step, on all sides alike."""
    statements = []
    timer = bench.make_timer
    monkeypatch.setattr(bench, "make_timer", lambda text, **names: statements.append(text) or timer(text, **names))
    run(optimizers=["adam"], workloads={"moving": bench.Workload([(3,)], moving=True)})
    assert statements == ["move(); step()"] * len(made) + ["target.copy_(source)"]
    assert all(each.param_groups[0]["lr"] != bench.LR for each in made)


@pytest.mark.usefixtures("short")
@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled")  # in torch's Adagrad
def test_sparse_gradients_go_to_those_that_take_them():
    """Other optimizers have no cell, sides that refuse are left out, and a step moves the rows of the batch alone."""
    workloads = {"sparse": bench.Workload([(50, 2)], batch=4), **TINY}
    record = run(optimizers=["adam", "momentum", "adagrad"], workloads=workloads)
    cells = [cell for cell in record["cells"] if cell["workload"] == "sparse"]
    assert [cell["optimizer"] for cell in cells] == ["momentum", "adagrad"]
    assert len(record["cells"]) == 2 + 3 * len(TINY)
    for cell in cells:
        assert {*cell["left_out"]} == {"torch fused", "optizoo fused"}
        assert cell["torch_fastest"] in ("torch loop", "torch foreach")
        assert cell["bytes"] == 5 * 4 * 2 * 4
        assert cell["extra_bytes"] is None
    assert bench.format_ratios(record).splitlines()[-1].split()[:2] == ["adam", "-"]
    assert bench.format_markdown(record).splitlines()[-1].startswith("| adam | - |")


def test_a_sparse_gradient_has_the_rows_of_a_batch():
    """The gradient is coalesced, of different rows, so that a momentum keeps its size."""
    (param,) = bench.make_parameters(bench.Workload([(50, 2)], batch=4), torch.device("cpu"), torch.float32)
    assert param.grad is not None
    assert param.grad.is_coalesced()
    assert param.grad._values().shape == (4, 2)
    assert len(param.grad.indices()[0].unique()) == 4


# Ratios --------------------------------------------------------------------------------------------------------------

SECONDS = {
    "torch loop": 0.004,
    "torch foreach": 0.003,
    "torch fused": 0.002,
    "optizoo default": 0.001,
    "optizoo fused": 0.0015,
    "optizoo foreach": 0.006,
    "optizoo loop": 0.02,
    "copy": 0.01,
}


class ScriptedTimer:
    """Says how long each side takes: in every other round, on a busy machine, three times as long."""

    turns: list[str]  # of all timers, in the order of their repeats

    def __init__(self, statement: str, globals: dict[str, Any], num_threads: int):  # noqa: A002
        self.name = "copy"
        if "step" in globals:
            optimizer = globals["step"].__self__
            group = optimizer.param_groups[0]
            how = "fused" if group["fused"] else {True: "foreach", False: "loop", None: "default"}[group["foreach"]]
            self.name = f"{type(optimizer).__module__.partition('.')[0]} {how}"
        # Looking for the number of runs takes two calls, and two more where a single run is too short.
        self.turn = -4 if SECONDS[self.name] < 0.005 else -2

    def timeit(self, number: int) -> SimpleNamespace:
        if self.turn >= 0:
            self.turns.append(self.name)
        busy = self.turn >= 0 and self.turn % 2
        self.turn += 1
        return SimpleNamespace(median=SECONDS[self.name] * (3 if busy else 1))


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A cell of which every time is known."""
    monkeypatch.setattr(ScriptedTimer, "turns", [], raising=False)
    monkeypatch.setattr(bench, "Timer", ScriptedTimer)
    monkeypatch.setattr(bench, "REPEAT_SECONDS", 0.05)
    (cell,) = run(optimizers=["adam"], workloads={"tiny": TINY["tiny"]}, repeats=4, copy_bytes=1 << 20)["cells"]
    return cell


def test_ratios_do_not_see_the_load_of_the_machine(scripted: dict[str, Any]):
    """Ratios compare repeats of one round: of torch's fastest with the default, and of both foreach."""
    assert scripted["torch_fastest"] == "torch fused"
    assert scripted["ratio"] == pytest.approx(2.0)
    assert scripted["foreach_ratio"] == pytest.approx(0.5)
    assert scripted["of_copy"] == pytest.approx((17 * 7 * 4 / 0.001) / (2 * 2**20 / 0.01))


def test_times_are_medians_over_all_repeats(scripted: dict[str, Any]):
    """A side has every repeat, their median and quartiles, and bandwidth is of the median."""
    side = scripted["sides"]["optizoo default"]
    assert side["runs"] == 50
    assert sorted(side["repeats_us"]) == [1000, 1000, 3000, 3000]
    assert (side["us"], side["iqr_us"]) == (2000, 2000)
    assert scripted["gb_s"] == pytest.approx(17 * 7 * 4 / 0.002 / 1e9)
    assert scripted["copy_gb_s"] == pytest.approx(2 * 2**20 / 0.02 / 1e9)
    assert scripted["sides"]["optizoo loop"]["runs"] == round(0.05 / 0.02)


@pytest.mark.usefixtures("scripted")
def test_sides_take_turns():
    """Every round runs every side once, there and back again, so that none is always first."""
    turns, sides = ScriptedTimer.turns, len(SECONDS)
    rounds = [turns[start : start + sides] for start in range(0, len(turns), sides)]
    assert set(rounds[0]) == set(SECONDS)
    assert rounds == [rounds[0], rounds[0][::-1]] * 2


# Memory --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "peak"),
    [
        pytest.param(lambda: None, 0, id="nothing"),
        pytest.param(lambda: [torch.empty(1000) for _ in range(3)], 12_000, id="held-together"),
        pytest.param(lambda: [torch.empty(1000).dim() for _ in range(3)], 4000, id="one-after-the-other"),
    ],
)
def test_peak_memory_is_what_is_held_at_a_time(function, peak: int):
    """Memory that is freed before more is taken counts once."""
    assert bench.peak_memory(function) == peak


@pytest.mark.usefixtures("short")
def test_memory_is_measured_in_the_largest_workload():
    """Every optimizer has its extra memory in one cell; there a fused step needs none."""
    cells = run(workloads={"small": TINY["small"], "tiny": TINY["tiny"]})["cells"]
    found = {cell["optimizer"]: cell for cell in cells if cell["extra_bytes"] is not None}
    assert set(found) == set(bench.OPTIMIZERS)
    for cell in found.values():
        assert cell["workload"] == "small"
        assert (cell["extra_bytes"] == 0) is (": fused for" in cell["explain"])


# Requirements and tables ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "ratio"),
    [
        pytest.param({}, 1.8, id="cpu"),
        pytest.param({"optimizer": "rmsprop", "workload": "1000x64"}, 20, id="cpu-other-cell"),
        pytest.param({"device": "cuda"}, 1.0, id="cuda"),
        pytest.param({"device": "cuda", "optimizer": "rmsprop", "threads": 16}, 2.0, id="cuda-rmsprop"),
        pytest.param({"dtype": "bfloat16"}, None, id="other-type"),
        pytest.param({"threads": 1}, None, id="other-threads"),
        pytest.param({"optimizer": "sgd", "workload": "sparse"}, 0.9, id="sparse"),
        pytest.param({"optimizer": "sgd", "workload": "sparse", "device": "cuda"}, 0.9, id="cuda-sparse"),
        pytest.param({"workload": "sparse"}, None, id="takes-no-sparse"),
        pytest.param({"workload": "tiny"}, None, id="other-workload"),
        pytest.param({"optimizer": "lion"}, None, id="other-optimizer"),
    ],
)
def test_ratios_are_required_only_where_they_were_promised(changes: dict[str, Any], ratio: float | None):
    """On a CPU with two threads each cell has its own least ratio in float32, on CUDA each optimizer."""
    case = {"optimizer": "adam", "workload": "linear", "device": "cpu", "dtype": "float32", "threads": 2}
    case |= changes
    assert bench.required(case.pop("optimizer"), case.pop("workload"), **case) == ratio


def cell(**changes: Any) -> dict[str, Any]:
    """A cell that meets all requirements."""
    sides = {"torch loop": {"us": 30.0}, "torch foreach": {"us": 29.0}, "optizoo default": {"us": 9.96}}
    values = {"optimizer": "adam", "workload": "linear", "sides": sides, "left_out": {}, "torch_fastest": "torch fused"}
    values |= {"ratio": 1.8, "foreach_ratio": 0.96, "required": 1.8, "of_copy": 0.91, "gb_s": 10, "extra_bytes": 0}
    return {**values, **changes}


def record_of(*cells: dict[str, Any]) -> dict[str, Any]:
    environment = {"torch": "2.15", "device": "cpu", "threads": 2}
    return {"environment": environment, "dtype": "float32", "repeats": 9, "copy_gb_s": 12.0, "cells": [*cells]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"ratio": 1.79}, "adam, linear: 1.79 times as fast as torch fused, not 1.8", id="ratio"),
        pytest.param(
            {"foreach_ratio": 0.5}, "adam, linear: foreach takes 2.00 times as long as torch foreach", id="foreach"
        ),
        pytest.param({"workload": "32M", "of_copy": 0.8}, "adam, 32M: 80% of the bandwidth of a copy", id="copy"),
        pytest.param({"extra_bytes": 4.0}, "adam, linear: 4 bytes of extra memory per parameter", id="memory"),
    ],
)
def test_shortfalls_are_told(changes: dict[str, Any], message: str):
    """Each requirement that a cell does not meet is a line; a cell under no requirements has none."""
    (line,) = bench.shortfalls(record_of(cell(), cell(**changes)))
    assert line.startswith(message)
    assert not bench.shortfalls(record_of(cell(**changes, required=None)))


def test_bandwidth_is_required_of_large_workloads_only():
    """Where all lies in the caches or calls dominate, a step need not be as fast as a copy."""
    assert not bench.shortfalls(record_of(cell(of_copy=0.01)))


def test_the_table_of_ratios_marks_what_falls_short():
    """Optimizers by workloads, each ratio with the one required and a mark below it."""
    cells = [cell(), cell(workload="32M", ratio=0.9, required=0.97), cell(optimizer="sgd", ratio=2.5, required=None)]
    lines = bench.format_ratios(record_of(*cells)).splitlines()
    assert lines[0].split() == ["optimizer", "linear", "32M"]
    assert lines[2].split() == ["adam", "1.80", "(1.8)", "0.90", "(0.97)", "!"]
    assert lines[3].split() == ["sgd", "2.50", "-"]


def test_markdown_is_the_table_of_readme():
    """Optimizers by workloads, each ratio with the microseconds of optizoo's default."""
    large = cell(workload="32M", ratio=1.1, sides={"optizoo default": {"us": 14123.4}})
    assert bench.format_markdown(record_of(cell(), large)) == (
        "| optimizer | linear | 32M |\n| --- | --- | --- |\n| adam | 1.80 (10.0 µs) | 1.10 (14 123 µs) |"
    )


def test_the_summary_tells_all():
    """Both tables, the sides that were left out, and the verdict."""
    text = bench.format_summary(record_of(cell(left_out={"torch fused": "no such thing"}), cell(ratio=1.0)))
    assert "left out: torch fused: no such thing" in text
    assert "SHORT adam, linear: 1.00 times as fast as torch fused, not 1.8" in text
    assert text.count("adam       linear") == 2
    assert text.endswith("copy 12.0 GB/s, medians of 9 repeats: 2 cells under requirements, shortfalls: 1")
    assert bench.format_summary(record_of(cell(required=None))).endswith("no requirements hold here")
