"""Training: what a run computes, when it stops, and that an interruption leaves no trace in its result."""

import hashlib
import logging
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import optizoo
from optizoo.lab import checkpoint as checkpoints
from optizoo.lab import models
from optizoo.lab.checkpoint import CheckpointError, Interruption
from optizoo.lab.config import ConfigError, RunConfig, run_from_dict, to_dict
from optizoo.lab.data import Batches, Dataset, Split, epoch_order
from optizoo.lab.records import Record, RecordError
from optizoo.lab.train import Trained, building, evaluate, evaluation, penalty, resolve_device, train
from optizoo.lab.train.static import StaticSteps
from optizoo.testing import has_torch_twin


def random_split(n: int, seed: int) -> Split:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return Split(images, torch.arange(n) % 4)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """Noise in four classes: 60 images to learn by heart, so four batches of 16 an epoch, the last of 12."""
    return Dataset(
        name="tiny",
        source="made by the test",
        classes=tuple("abcd"),
        train=random_split(60, seed=0),
        validation=random_split(20, seed=1),
        test=random_split(24, seed=2),
        mean=(127.5, 127.5, 127.5),
        std=(73.9, 73.9, 73.9),
        digest="digest of tiny",
    )


def run_config(**sections: Any) -> RunConfig:
    """Return a config of three epochs on the CPU; ``sections`` update it."""
    table: dict[str, Any] = {"train": {"epochs": 3, "batch_size": 16, "device": "cpu"}}
    for name, value in sections.items():
        table[name] = {**table.get(name, {}), **value} if isinstance(value, dict) else value
    return run_from_dict(table)


def signal_at(step: int, number: int = signal.SIGINT) -> Callable[..., torch.optim.Optimizer]:
    """Return a ``build_optimizer`` whose optimizer raises a signal in its ``step``-th update."""
    build = building.build_optimizer

    def build_optimizer(config: RunConfig, model: nn.Module, **options: Any) -> torch.optim.Optimizer:
        optimizer = build(config, model, **options)
        calls = [0]

        def count(*_: Any) -> None:
            calls[0] += 1
            if calls[0] == step:
                signal.raise_signal(number)

        optimizer.register_step_post_hook(count)
        return optimizer

    return build_optimizer


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch):
    """A ``train`` that is interrupted by SIGINT in its ``step``-th update."""

    def run(step: int, *arguments: Any, **options: Any) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(building, "build_optimizer", signal_at(step))
            with pytest.raises(KeyboardInterrupt):
                train(*arguments, progress=False, **options)

    return run


def assert_same(actual: Any, expected: Any, where: str = "state") -> None:
    """Assert that two nested states are equal to the bit."""
    if isinstance(expected, Tensor):
        assert actual.dtype == expected.dtype, where
        assert torch.equal(actual, expected), where
    elif isinstance(expected, dict):
        assert list(actual) == list(expected), where
        for name in expected:
            assert_same(actual[name], expected[name], f"{where}.{name}")
    elif isinstance(expected, list):
        assert len(actual) == len(expected), where
        for index, item in enumerate(expected):
            assert_same(actual[index], item, f"{where}[{index}]")
    else:
        assert actual == expected, where


def untimed(record: Record) -> tuple[Any, ...]:
    """Return what a record says about a run, without what differs from one run of it to the next."""

    def strip(event: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in event.items() if name != "seconds"}

    assert record.result is not None
    return record.config, record.dataset, [strip(event) for event in record.epochs], strip(record.result)


def assert_same_run(actual: Trained, expected: Trained) -> None:
    """Assert that two runs ended alike: weights, optimizer states, losses, record."""
    assert actual.status == expected.status
    assert_same(actual.model.state_dict(), expected.model.state_dict())
    assert_same(actual.optimizer.state_dict(), expected.optimizer.state_dict())
    assert_same(actual.losses, expected.losses)
    assert untimed(actual.record) == untimed(expected.record)


# What a run computes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "reference"),
    [
        pytest.param({"name": "sgd", "lr": 0.01}, lambda params: torch.optim.SGD(params, lr=0.01), id="sgd"),
        pytest.param(
            {"name": "adam", "lr": 0.001, "amsgrad": True},
            lambda params: torch.optim.Adam(params, lr=0.001, amsgrad=True),
            id="adam",
        ),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_run_equals_a_hand_written_loop(dataset: Dataset, optimizer: dict[str, Any], reference: Any, dtype: str):
    """Losses and weights equal, to the bit, those of the loop that one writes by hand with torch."""
    config = run_config(optimizer=optimizer, train={"dtype": dtype, "foreach": False}, seed=7)
    trained = train(config, dataset, progress=False)

    model = models.create("linear", seed=7, classes=4).to(getattr(torch, dtype))
    by_hand = reference(model.parameters())
    batches = Batches(dataset.train, dataset.mean, dataset.std, 16, getattr(torch, dtype))
    losses = []
    for epoch in range(3):
        for images, labels in batches.epoch(epoch_order(60, seed=7, epoch=epoch)):
            loss = cross_entropy(model(images), labels)
            by_hand.zero_grad()
            loss.backward()
            by_hand.step()
            losses.append(loss.detach())
    assert_same(trained.losses, torch.stack(losses))
    assert_same(trained.model.state_dict(), model.state_dict())


@pytest.mark.parametrize(
    "name", [name for name in optizoo.list_optimizers() if has_torch_twin(name) and name != "muon"]
)
def test_twins_give_the_same_losses(dataset: Dataset, name: str):
    """The loop backend's loss curve equals that of ``torch.optim`` bit for bit, for every optimizer that both have."""
    decay = {} if name == "rprop" else {"weight_decay": 0.01}
    runs = [
        train(
            run_config(
                optimizer={"name": name, **decay, "library": library},
                train={"foreach": False},
                model={"name": "two_layer", "hidden": 8, "dropout": 0.2},
            ),
            dataset,
            progress=False,
        )
        for library in ("optizoo", "torch")
    ]
    assert [type(run.optimizer).__module__.partition(".")[0] for run in runs] == ["optizoo", "torch"]
    assert_same(runs[0].losses, runs[1].losses)
    assert_same(runs[0].model.state_dict(), runs[1].model.state_dict())
    digests = {run.record.result["loss_digest"] for run in runs if run.record.result}
    assert digests == {hashlib.sha256(runs[0].losses.numpy().tobytes()).hexdigest()}


@pytest.mark.parametrize(
    ("strengths", "gradient"),
    [
        pytest.param({"l1": 0.5}, lambda weight: 0.5 * weight.sign(), id="l1"),
        pytest.param({"l2": 0.25}, lambda weight: 0.5 * weight, id="l2"),
        pytest.param({"l1": 0.5, "l2": 0.25}, lambda weight: 0.5 * weight.sign() + 0.5 * weight, id="elastic-net"),
    ],
)
def test_penalty_pulls_on_weights_alone(strengths: dict[str, float], gradient: Callable[[Tensor], Tensor]):
    """The penalty's gradient is l1 sign(w) + 2 l2 w on weights, 0 where a weight is 0, and nothing on biases."""
    model = nn.Linear(3, 2).double()
    with torch.no_grad():
        model.weight[0, 0] = 0.0
    penalty(model, **strengths).backward()
    assert model.weight.grad is not None
    torch.testing.assert_close(model.weight.grad, gradient(model.weight.detach()), rtol=1e-15, atol=0)
    assert model.bias.grad is None


def test_penalty_is_minimised_and_reported_apart(dataset: Dataset):
    """A penalty shrinks the weights; losses and ``train_loss`` are without it, ``penalty`` is it."""
    plain = train(run_config(), dataset, progress=False)
    trained = train(run_config(train={"l1": 0.01, "l2": 0.1}), dataset, progress=False)
    weight, plain_weight = (run.model.get_parameter("weight").detach() for run in (trained, plain))
    assert weight.norm() < plain_weight.norm()
    assert trained.losses[0] == plain.losses[0]
    last = trained.record.epochs[-1]
    assert last["penalty"] == penalty(trained.model, l1=0.01, l2=0.1).item()
    assert last["train_loss"] == trained.losses[-4:].double().mean().item()


def test_full_batch_is_gradient_descent(dataset: Dataset):
    """With ``full_batch`` every epoch is one update with the mean gradient over all images."""
    trained = train(run_config(train={"full_batch": True, "dtype": "float64"}), dataset, progress=False)
    assert trained.record.epochs[-1]["step"] == 3

    model = models.create("linear", seed=0, classes=4).double()
    images, labels = next(Batches(dataset.train, dataset.mean, dataset.std, 60, torch.float64).sequential())
    for _ in range(3):
        model.zero_grad()
        cross_entropy(model(images), labels).backward()
        with torch.no_grad():
            for param in model.parameters():
                assert param.grad is not None
                param -= 0.01 * param.grad
    for param, expected in zip(trained.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(param, expected, rtol=1e-13, atol=1e-15)


def test_schedule_is_stepped_at_every_update(dataset: Dataset):
    """After update t the rate is lr * schedule(t), and the schedule ends with the run."""
    config = run_config(optimizer={"lr": 0.5}, schedule={"name": "linear", "warmup_steps": 4})
    trained = train(config, dataset, progress=False)
    assert [epoch["lr"] for epoch in trained.record.epochs] == [[0.5], [0.25], [0.0]]
    assert trained.losses[0] == train(run_config(), dataset, progress=False).losses[0]


@pytest.mark.parametrize(
    "model", [{"name": "linear"}, {"name": "two_layer", "hidden": 8, "dropout": 0.5}], ids=["linear", "two_layer"]
)
def test_run_is_a_function_of_its_seed(dataset: Dataset, model: dict[str, Any]):
    """A run repeats itself whatever the caller drew before; another seed gives another run."""
    first = train(run_config(model=model), dataset, progress=False)
    torch.rand(100)
    assert_same_run(train(run_config(model=model), dataset, progress=False), first)
    other = train(run_config(model=model, seed=1), dataset, progress=False)
    assert not torch.equal(other.losses, first.losses)


def test_order_of_the_batches_may_have_its_own_seed(dataset: Dataset):
    """With ``order_seed`` runs of other seeds begin at other weights and see the batches of that seed."""
    first = train(run_config(model={"init": "zeros"}, seed=3), dataset, progress=False)
    other = train(run_config(model={"init": "zeros"}, seed=4, train={"order_seed": 3}), dataset, progress=False)
    assert_same(other.losses, first.losses)


def test_caller_is_left_alone(dataset: Dataset):
    """A run changes neither the caller's random state nor its threads nor its signal handlers."""
    torch.manual_seed(0)
    before = torch.get_rng_state(), torch.get_num_threads(), signal.getsignal(signal.SIGINT)
    config = run_config(model={"name": "two_layer", "hidden": 8, "dropout": 0.5}, train={"threads": 1})
    train(config, dataset, progress=False)
    after = torch.get_rng_state(), torch.get_num_threads(), signal.getsignal(signal.SIGINT)
    assert torch.equal(after[0], before[0])
    assert after[1:] == before[1:]


def test_evaluation_counts_every_image(dataset: Dataset):
    """Loss and accuracy are means over the images of the split, dropout off, the model's mode restored."""
    model = models.create("two_layer", seed=0, hidden=8, dropout=0.5, classes=4)
    batches = Batches(dataset.test, dataset.mean, dataset.std, 7)
    loss, accuracy = evaluate(model, batches)
    assert model.training
    model.eval()
    logits = model(batches.normalise(dataset.test.images))
    assert loss == pytest.approx(cross_entropy(logits, dataset.test.labels).item(), rel=1e-6)
    assert accuracy == (logits.argmax(1) == dataset.test.labels).double().mean().item()


def test_test_images_are_looked_at_once(dataset: Dataset, monkeypatch: pytest.MonkeyPatch):
    """However often a run is evaluated, it sees the test images when it has ended, and never before."""
    seen = []
    real = evaluation.evaluate
    monkeypatch.setattr(
        evaluation, "evaluate", lambda model, batches: (seen.append(len(batches.split)), real(model, batches))[1]
    )
    train(run_config(), dataset, progress=False)
    assert seen == [20, 20, 20, 24]


def test_run_is_judged_where_its_optimizer_says(dataset: Dataset):
    """Losses and accuracies on held-out images are those of the second point; training goes on from the first."""
    config = run_config(optimizer={"name": "schedulefreesgd", "lr": 0.1})
    trained = train(config, dataset, progress=False)
    last = trained.record.epochs[-1]
    batches = Batches(dataset.validation, dataset.mean, dataset.std, 1000)
    assert isinstance(trained.optimizer, optizoo.ScheduleFreeSGD)
    assert evaluate(trained.model, batches)[0] != last["validation_loss"]
    with trained.optimizer.evaluating():
        assert evaluate(trained.model, batches) == (last["validation_loss"], last["validation_accuracy"])
    unseen = train(run_config(optimizer={"name": "schedulefreesgd", "lr": 0.1}, train={"evaluate_every": 3}), dataset)
    assert_same(unseen.losses, trained.losses)


def test_schedule_moves_every_group_from_its_own_rate(dataset: Dataset):
    """Groups that the optimizer begins at another rate keep it, times the schedule."""
    config = run_config(
        optimizer={"name": "muon", "lr": 0.02, "adamw_lr": 0.001},
        model={"name": "two_layer", "hidden": 8},
        schedule={"name": "exponential", "gamma": 0.5},
    )
    rates = train(config, dataset, progress=False).record.epochs[0]["lr"]
    assert rates == [lr * 0.5**4 for lr in (0.02, 0.001, 0.001)]


def test_empty_validation_split_has_no_accuracy(dataset: Dataset):
    """Without validation images there is no number, rather than a made-up one."""
    empty = Split(dataset.validation.images[:0], dataset.validation.labels[:0])
    trained = train(run_config(), replace(dataset, validation=empty), progress=False)
    assert trained.record.result is not None
    assert trained.record.result["validation_accuracy"] is None
    assert trained.record.result["best_validation_accuracy"] is None
    assert trained.record.result["test_accuracy"] is not None


# The record -----------------------------------------------------------------------------------------------------------


def test_record_tells_the_run(dataset: Dataset, tmp_path: Path):
    """The file holds the resolved config, the data, each epoch and the result, and equals what ``train`` returns."""
    config = run_config(train={"evaluate_every": 2})
    trained = train(config, dataset, record=tmp_path / "r.jsonl", progress=False)
    record = Record.read(tmp_path / "r.jsonl")
    assert record == trained.record
    assert run_from_dict(record.config) == config
    sizes = {"train": 60, "validation": 20, "test": 24}
    assert record.dataset == {"name": "tiny", "source": "made by the test", "digest": "digest of tiny", **sizes}
    assert [epoch["step"] for epoch in record.epochs] == [4, 8, 12]
    assert [epoch["validation_accuracy"] is not None for epoch in record.epochs] == [False, True, True]
    assert [epoch["test_accuracy"] is not None for epoch in record.epochs] == [False, False, True]
    best = max(epoch["validation_accuracy"] for epoch in record.epochs[1:])
    expected = {
        "status": "finished",
        "steps": 12,
        "final_loss": record.epochs[-1]["train_loss"],
        "test_accuracy": record.epochs[-1]["test_accuracy"],
        "validation_accuracy": record.epochs[-1]["validation_accuracy"],
        "best_validation_accuracy": best,
        "seconds": record.epochs[-1]["seconds"],
        "loss_digest": hashlib.sha256(trained.losses.numpy().tobytes()).hexdigest(),
        "steps_losses_every": 1,
        "losses": trained.losses.tolist(),
    }
    assert record.result == expected


def test_long_runs_record_at_most_a_thousand_losses(dataset: Dataset):
    """Of 1002 losses every second one is recorded; the digest is of all."""
    config = run_config(train={"epochs": 501, "batch_size": 30, "evaluate_every": 501})
    result = train(config, dataset, progress=False).record.result
    assert result is not None
    assert (result["steps"], result["steps_losses_every"], len(result["losses"])) == (1002, 2, 501)


# When it stops --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "status", "steps"),
    [
        pytest.param({}, "finished", 12, id="all-epochs"),
        pytest.param({"max_steps": 6}, "max_steps", 6, id="in-the-middle-of-an-epoch"),
        pytest.param({"max_steps": 4}, "max_steps", 4, id="at-the-end-of-an-epoch"),
        pytest.param({"max_steps": 100}, "finished", 12, id="max-steps-never-reached"),
        pytest.param({"tolerance": 1e9}, "tolerance", 8, id="second-epoch-improves-too-little"),
        pytest.param({"tolerance": 1e9, "patience": 2}, "tolerance", 12, id="patience"),
        pytest.param({"tolerance": 0.0}, "finished", 12, id="every-epoch-improves"),
    ],
)
def test_runs_stop_in_time(dataset: Dataset, settings: dict[str, Any], status: str, steps: int):
    """A run ends after its epochs, its steps, or when its loss no longer falls; its last epoch is evaluated."""
    trained = train(run_config(train={**settings, "evaluate_every": 100}), dataset, progress=False)
    assert (trained.status, len(trained.losses)) == (status, steps)
    assert trained.record.epochs[-1]["step"] == steps
    assert trained.record.epochs[-1]["test_accuracy"] is not None


@pytest.mark.parametrize(("lr", "epochs"), [(1e38, 1), (1e20, 2)], ids=["weights", "loss"])
def test_divergence_is_recorded_not_raised(dataset: Dataset, tmp_path: Path, lr: float, epochs: int):
    """A run whose weights or loss are not finite ends with that epoch; no checkpoint holds its weights."""
    config = run_config(
        optimizer={"lr": lr}, model={"name": "two_layer", "hidden": 8}, train={"batch_size": 60, "l2": 1e5}
    )
    trained = train(config, dataset, record=tmp_path / "r.jsonl", checkpoint=tmp_path / "c.pt", progress=False)
    result = Record.read(tmp_path / "r.jsonl").result
    assert result is not None
    assert trained.status == result["status"] == "diverged"
    assert len(trained.record.epochs) == epochs
    assert result["steps"] == 1
    assert result["test_accuracy"] is None
    assert checkpoints.exists(tmp_path / "c.pt") is (epochs > 1)
    if epochs > 1:
        assert checkpoints.load(tmp_path / "c.pt")["step"] == epochs - 1


# Interruption and resumption ------------------------------------------------------------------------------------------

DROPOUT = {"name": "two_layer", "hidden": 8, "dropout": 0.5}
RESUMABLE = [
    pytest.param({"optimizer": {"name": "sgd"}}, id="sgd"),
    pytest.param({"optimizer": {"name": "sgd", "momentum": 0.9, "nesterov": True}, "model": DROPOUT}, id="nesterov"),
    pytest.param({"optimizer": {"name": "momentum", "lr_in_velocity": True}}, id="lr-in-velocity"),
    pytest.param({"optimizer": {"name": "rmsprop", "centered": True}, "model": DROPOUT}, id="rmsprop"),
    pytest.param({"optimizer": {"name": "adam", "amsgrad": True}, "model": DROPOUT}, id="adam"),
    pytest.param({"optimizer": {"name": "adamw", "library": "torch"}, "model": DROPOUT}, id="torch-adamw"),
    pytest.param({"optimizer": {"name": "adam", "capturable": True}}, id="capturable"),
    pytest.param({"optimizer": {"name": "adamw"}, "schedule": {"name": "cosine", "warmup_steps": 3}}, id="schedule"),
    pytest.param({"train": {"l1": 0.01, "l2": 0.1, "tolerance": 1e9, "patience": 2}}, id="penalty-and-tolerance"),
    pytest.param({"train": {"epochs": 12, "full_batch": True}}, id="full-batch"),
    pytest.param({"train": {"max_steps": 11, "dtype": "float64", "checkpoint_every": 2}}, id="max-steps"),
]


@pytest.mark.thin
@pytest.mark.parametrize("sections", RESUMABLE)
@pytest.mark.parametrize("step", [1, 4, 6, 11])
def test_resumed_run_is_the_same_run(
    dataset: Dataset, tmp_path: Path, interrupted, sections: dict[str, Any], step: int
):
    """Interrupted after any step and resumed, a run has the same weights, states, losses and record to the bit."""
    config = run_config(**sections)
    files: dict[str, Any] = {"record": tmp_path / "r.jsonl", "checkpoint": tmp_path / "c.pt"}
    interrupted(step, config, dataset, **files)
    assert checkpoints.load(files["checkpoint"])["step"] == step
    resumed = train(config, dataset, **files, resume=True, progress=False)
    assert_same_run(resumed, train(config, dataset, progress=False))
    assert Record.read(files["record"]) == resumed.record
    assert resumed.record.resumes == [step]


def test_run_may_be_interrupted_again_and_again(dataset: Dataset, tmp_path: Path, interrupted):
    """A run that is stopped after every single step still arrives where the uninterrupted one does."""
    config = run_config(model=DROPOUT, optimizer={"name": "adam"})
    files: dict[str, Any] = {"record": tmp_path / "r.jsonl", "checkpoint": tmp_path / "c.pt"}
    for _ in range(12):
        interrupted(1, config, dataset, **files, resume=True)
    resumed = train(config, dataset, **files, resume=True, progress=False)
    assert_same_run(resumed, train(config, dataset, progress=False))


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_damaged_checkpoint_costs_time_not_the_run(
    dataset: Dataset, tmp_path: Path, interrupted, damage: str, caplog: pytest.LogCaptureFixture
):
    """If the newest checkpoint is lost, the run goes on from the one before it, says so, and ends the same."""
    config = run_config(model=DROPOUT, optimizer={"name": "adam"})
    files: dict[str, Any] = {"record": tmp_path / "r.jsonl", "checkpoint": tmp_path / "c.pt"}
    interrupted(6, config, dataset, **files)
    if damage == "truncated":
        files["checkpoint"].write_bytes(files["checkpoint"].read_bytes()[:1000])
    else:
        files["checkpoint"].unlink()
    with caplog.at_level(logging.WARNING):
        resumed = train(config, dataset, **files, resume=True, progress=False)
    assert "going on from the checkpoint before it, c.pt.previous" in caplog.text
    assert resumed.record.resumes == [4]
    assert_same_run(resumed, train(config, dataset, progress=False))


def test_lost_record_is_written_again(dataset: Dataset, tmp_path: Path, interrupted):
    """The checkpoint remembers the epochs: without its record a resumed run still tells all of them."""
    config = run_config()
    interrupted(6, config, dataset, record=tmp_path / "r.jsonl", checkpoint=tmp_path / "c.pt")
    (tmp_path / "r.jsonl").unlink()
    resumed = train(
        config, dataset, record=tmp_path / "r.jsonl", checkpoint=tmp_path / "c.pt", resume=True, progress=False
    )
    assert untimed(Record.read(tmp_path / "r.jsonl")) == untimed(train(config, dataset, progress=False).record)
    assert resumed.record == Record.read(tmp_path / "r.jsonl")


def test_resuming_a_finished_run_changes_nothing(dataset: Dataset, tmp_path: Path):
    """A run that ended gives its result again, without a step and without a new event."""
    files: dict[str, Any] = {"record": tmp_path / "r.jsonl", "checkpoint": tmp_path / "c.pt"}
    first = train(run_config(), dataset, **files, progress=False)
    before = files["record"].read_bytes()
    again = train(run_config(), dataset, **files, resume=True, progress=False)
    assert files["record"].read_bytes() == before
    assert_same_run(again, first)
    assert again.record == first.record


def test_resume_without_checkpoint_begins(dataset: Dataset, tmp_path: Path):
    """Where there is nothing to go on with, a run begins at its beginning."""
    files: dict[str, Any] = {"record": tmp_path / "r.jsonl", "checkpoint": tmp_path / "c.pt"}
    files["record"].write_text('{"event": "sta')
    assert_same_run(
        train(run_config(), dataset, **files, resume=True, progress=False), train(run_config(), dataset, progress=False)
    )


def test_checkpoint_of_another_run_is_refused(dataset: Dataset, tmp_path: Path, interrupted):
    """A checkpoint goes on with its own config and its own data only; a record likewise."""
    files: dict[str, Any] = {"record": tmp_path / "r.jsonl", "checkpoint": tmp_path / "c.pt"}
    interrupted(6, run_config(), dataset, **files)
    with pytest.raises(CheckpointError, match=r"c\.pt belongs to another config"):
        train(run_config(seed=1), dataset, **files, resume=True, progress=False)
    with pytest.raises(CheckpointError, match=r"c\.pt was made with other data"):
        train(run_config(), replace(dataset, digest="another"), **files, resume=True, progress=False)
    train(run_config(seed=1), dataset, record=files["record"], progress=False)
    with pytest.raises(RecordError, match=r"r\.jsonl is the record of another config"):
        train(run_config(), dataset, **files, resume=True, progress=False)
    torch.save({"weights": torch.zeros(1)}, files["checkpoint"])
    with pytest.raises(CheckpointError, match="holds no state of a run"):
        train(run_config(), dataset, **files, resume=True, progress=False)


def test_termination_saves_and_exits(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """SIGTERM ends the step, saves a checkpoint, and exits with status 143."""
    monkeypatch.setattr(building, "build_optimizer", signal_at(6, signal.SIGTERM))
    with pytest.raises(SystemExit) as caught:
        train(run_config(), dataset, checkpoint=tmp_path / "c.pt", progress=False)
    assert caught.value.code == 143
    assert checkpoints.load(tmp_path / "c.pt")["step"] == 6


def test_second_signal_acts_at_once():
    """Whoever presses Ctrl-C twice does not wait for the step."""
    with Interruption() as interruption:
        signal.raise_signal(signal.SIGINT)
        assert interruption.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_interruption_outside_the_main_thread_changes_nothing():
    """In another thread, which may not set handlers, training works all the same."""
    requested = []

    def work() -> None:
        with Interruption() as interruption:
            interruption.raise_if_requested()
            requested.append(interruption.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert requested == [False]


# Checkpoint files -----------------------------------------------------------------------------------------------------


def test_failed_save_leaves_the_old_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A disk that fills up while a checkpoint is written costs neither of the two before it."""
    path = tmp_path / "c.pt"
    checkpoints.save(path, {"step": 1})
    checkpoints.save(path, {"step": 2})

    def full_disk(state: Any, file: Any) -> None:
        file.write(b"half a checkpoint")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full_disk)
        with pytest.raises(OSError, match="No space left"):
            checkpoints.save(path, {"step": 3})
    assert checkpoints.load(path) == {"step": 2}
    assert checkpoints.load(checkpoints.previous(path)) == {"step": 1}
    assert sorted(each.name for each in tmp_path.iterdir()) == ["c.pt", "c.pt.previous"]
    checkpoints.remove(path)
    assert not checkpoints.exists(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content", [pytest.param(b"", id="empty"), pytest.param(b"PK\x03\x04 and no more", id="junk"), None]
)
def test_unreadable_checkpoint_is_told(tmp_path: Path, content: bytes | None):
    """Without an older checkpoint a missing or damaged one raises, with file and remedy."""
    if content is not None:
        (tmp_path / "c.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"c\.pt cannot be read .*delete it to begin"):
        checkpoints.load(tmp_path / "c.pt")


def test_checkpoint_cannot_run_code(tmp_path: Path):
    """A checkpoint that holds more than tensors and plain values is refused, not unpickled."""
    torch.save({"model": nn.Linear(1, 1)}, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoints.load(tmp_path / "c.pt")


# Mistakes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        pytest.param(
            {"optimizer": {"name": "adam", "bias_correction": False, "library": "torch"}},
            r"key optimizer\.library = 'torch'; torch\.optim has no adam with .*set 'optizoo'",
            id="no-twin",
        ),
        pytest.param({"train": {"device": "cuda:99"}}, r"key train\.device = 'cuda:99'; must be", id="no-such-device"),
        pytest.param(
            {"schedule": {"warmup_steps": 12}}, r"key schedule\.warmup_steps = 12; must be below", id="long-warmup"
        ),
    ],
)
def test_what_cannot_be_had_is_told(dataset: Dataset, sections: dict[str, Any], message: str):
    """What only the run itself can find out raises with its key, before the first step."""
    with pytest.raises(ConfigError, match=message):
        train(run_config(**sections), dataset, progress=False)


def test_auto_is_cuda_where_there_is_one():
    """The device ``"auto"`` is CUDA if torch sees one, else the CPU."""
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_device("cpu") == torch.device("cpu")


# Static steps, and their graph --------------------------------------------------------------------------------------

STATIC = [each for each in RESUMABLE if each.id not in ("torch-adamw", "full-batch")]


@pytest.fixture
def static(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs on the CPU leave all to the device, as runs on CUDA do; only the graph is not there."""
    monkeypatch.setattr(building, "may_be_static", lambda config, device: True)


@pytest.mark.usefixtures("static")
@pytest.mark.parametrize("sections", STATIC)
def test_static_steps_are_the_ordinary_steps(
    dataset: Dataset, sections: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    """Steps that read rows, rates and counters from tensors give the bits of the loop that has them from Python."""
    static = train(run_config(**sections), dataset, progress=False)
    assert static.optimizer.param_groups[0]["capturable"]
    monkeypatch.setattr(StaticSteps, "make", lambda *_: None)
    ordinary = train(run_config(**sections), dataset, progress=False)
    assert_same_run(static, ordinary)


@pytest.mark.parametrize("sections", STATIC)
def test_static_steps_compute_what_the_others_do(
    dataset: Dataset, sections: dict[str, Any], request: pytest.FixtureRequest
):
    """``capturable`` changes where step and rate live, not what is computed: losses equal to rounding, same record."""
    ordinary = train(run_config(**sections), dataset, progress=False)
    request.getfixturevalue("static")
    static = train(run_config(**sections), dataset, progress=False)
    torch.testing.assert_close(static.losses, ordinary.losses, rtol=1e-5, atol=0)
    assert [epoch["lr"] for epoch in static.record.epochs] == [epoch["lr"] for epoch in ordinary.record.epochs]
    assert static.status == ordinary.status


@pytest.mark.thin
@pytest.mark.usefixtures("static")
@pytest.mark.parametrize("sections", STATIC)
@pytest.mark.parametrize("step", [1, 6, 8])
def test_resumed_static_run_is_the_same_run(
    dataset: Dataset, tmp_path: Path, interrupted, sections: dict[str, Any], step: int
):
    """Interrupted after any step and resumed, a run of static steps is the uninterrupted one to the bit."""
    config = run_config(**sections)
    interrupted(step, config, dataset, checkpoint=tmp_path / "c.pt")
    assert checkpoints.load(tmp_path / "c.pt")["step"] == step
    resumed = train(config, dataset, checkpoint=tmp_path / "c.pt", resume=True, progress=False)
    assert_same_run(resumed, train(config, dataset, progress=False))


@pytest.mark.parametrize("optimizer", [{"name": "adam"}, {"name": "sgd", "momentum": 0.9}], ids=["adam", "momentum"])
@pytest.mark.parametrize("first", ["ordinary", "static"])
def test_run_moves_to_another_kind_of_device(
    dataset: Dataset,
    tmp_path: Path,
    interrupted,
    first: str,
    optimizer: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
):
    """A run that was begun where steps are static goes on where they are not, and the other way round."""
    config = run_config(optimizer=optimizer, schedule={"name": "cosine"})
    with monkeypatch.context() as patch:
        patch.setattr(building, "may_be_static", lambda config, device: first == "static")
        interrupted(6, config, dataset, checkpoint=tmp_path / "c.pt")
    monkeypatch.setattr(building, "may_be_static", lambda config, device: first != "static")
    resumed = train(config, dataset, checkpoint=tmp_path / "c.pt", resume=True, progress=False)
    (group,) = resumed.optimizer.param_groups
    assert (group.get("capturable", False), isinstance(group["lr"], Tensor)) == ((first != "static"),) * 2
    ordinary = train(config, dataset, progress=False)
    torch.testing.assert_close(resumed.losses, ordinary.losses, rtol=1e-5, atol=0)


# torch's SGD and Adagrad have no capturable.
NOT_CAPTURABLE = ("sgd", "momentum", "adagrad")


@pytest.mark.parametrize("name", NOT_CAPTURABLE)
@pytest.mark.usefixtures("static")
def test_what_cannot_be_static_is_not(dataset: Dataset, name: str):
    """An optimizer that keeps step or rate on the host is stepped from there."""
    config = run_config(optimizer={"name": name, "library": "torch"})
    model = building.build_model(config, classes=4)
    assert not isinstance(building.build_optimizer(config, model, static=True).param_groups[0]["lr"], Tensor)
    assert train(config, dataset, progress=False).status == "finished"


@pytest.mark.parametrize(
    "name", [name for name in optizoo.list_optimizers() if has_torch_twin(name) and name != "muon"]
)
def test_torch_twins_take_a_rate_on_the_device(name: str):
    """Every optimizer of ``torch.optim`` that has ``capturable`` can be built for a graph."""
    config = run_config(optimizer={"name": name, "library": "torch"})
    (group,) = building.build_optimizer(config, building.build_model(config), static=True).param_groups
    assert (
        isinstance(group["lr"], Tensor)
        is group.get("capturable", False)
        is (name not in (*NOT_CAPTURABLE, "adafactor"))
    )


@pytest.mark.gpu
@pytest.mark.parametrize("sections", RESUMABLE)
@pytest.mark.parametrize("library", ["optizoo", "torch"])
def test_graph_gives_the_bits_of_its_steps(dataset: Dataset, sections: dict[str, Any], library: str):
    """On CUDA a run whose epochs are a graph equals, to the bit, the run that makes its steps one kernel at a time."""
    table = {**sections, "optimizer": {"library": library, **sections.get("optimizer", {})}}
    if library == "torch" and table["optimizer"].get("lr_in_velocity"):
        pytest.skip("torch has no velocity form")
    runs = [
        train(
            run_config(**{**table, "train": {**sections.get("train", {}), "device": "cuda", "graph": graph}}),
            dataset,
            progress=False,
        )
        for graph in (True, False)
    ]
    assert_same(runs[0].losses, runs[1].losses)
    assert_same(runs[0].model.state_dict(), runs[1].model.state_dict())
    assert_same(runs[0].optimizer.state_dict(), runs[1].optimizer.state_dict())


@pytest.mark.gpu
def test_graph_is_replayed(dataset: Dataset, monkeypatch: pytest.MonkeyPatch):
    """On CUDA all full batches behind the warm-up are replays; the graph is captured once."""
    replays = []
    replay = torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda graph: (replays.append(graph), replay(graph)))
    train(run_config(optimizer={"name": "adam"}, train={"device": "cuda"}), dataset, progress=False)
    assert len(replays) == 3 * 3 - 3
    assert len(set(map(id, replays))) == 1


@pytest.mark.gpu
@pytest.mark.parametrize("sections", RESUMABLE)
def test_resumed_run_is_the_same_run_on_cuda(dataset: Dataset, tmp_path: Path, interrupted, sections: dict[str, Any]):
    """On CUDA too a run is a function of its seed, resumes to the bit, and leaves the caller's random state alone."""
    config = run_config(**{**sections, "train": {**sections.get("train", {}), "device": "cuda"}})
    before = torch.cuda.get_rng_state(), torch.get_rng_state()
    interrupted(6, config, dataset, checkpoint=tmp_path / "c.pt")
    resumed = train(config, dataset, checkpoint=tmp_path / "c.pt", resume=True, progress=False)
    assert next(resumed.model.parameters()).is_cuda
    assert_same_run(resumed, train(config, dataset, progress=False))
    assert torch.equal(torch.cuda.get_rng_state(), before[0])
    assert torch.equal(torch.get_rng_state(), before[1])


def test_config_in_the_record_is_resolved(dataset: Dataset):
    """The record's config has every default written out."""
    assert train(run_config(), dataset, progress=False).record.config == to_dict(run_config())


def test_a_full_disk_is_an_oserror_and_costs_no_checkpoint(tmp_path: Path):
    """Where a file cannot grow, saving raises OSError, leaves no remains, and the old checkpoint loads."""
    resource = pytest.importorskip("resource")
    path = tmp_path / "checkpoint.pt"
    checkpoints.save(path, {"step": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            checkpoints.save(path, {"step": 2, "weights": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert checkpoints.load(path) == {"step": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["checkpoint.pt"]
