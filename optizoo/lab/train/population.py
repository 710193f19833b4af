"""Populations: many runs of one model that see the same batches train as one.

Their weights are slices of one tensor (:mod:`~optizoo.lab.train.stack`), and runs of one class of optimizer are param
groups of one optimizer, each with its own rate and options. Every run keeps its own book, and leaves when it stops or
diverges, with its weights and the state of its optimizer; the others do not notice.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from optizoo.core.optimizer import RuleOptimizer
from optizoo.core.rule import schema
from optizoo.lab.checkpoint import Interruption
from optizoo.lab.config import RunConfig
from optizoo.lab.data import Dataset
from optizoo.lab.environment import environment
from optizoo.lab.train import building, eager, objective
from optizoo.lab.train.feed import Feed
from optizoo.lab.train.grouping import may_join, populations
from optizoo.lab.train.loop import Trained, go, open_record, train, trained, training
from optizoo.lab.train.progress import Progress
from optizoo.lab.train.stack import STACKS, Stack

LARGE = 1e15
"""What options and rates may not exceed in an optimizer of several runs: near the end of their type its step fails."""


@dataclass(eq=False)
class Member:
    """A run of a population.

    Attributes:
        config: The run.
        model: Its model.
        own: Its optimizer, which has its state before it joins others and after it has left them.
        progress: Its book.
        generator: What its dropout draws from.
        stepped_by: The optimizer that has its param groups: its own, or one that it shares.
        groups: These groups.
    """

    config: RunConfig
    model: nn.Module
    own: RuleOptimizer
    progress: Progress
    generator: Generator
    stepped_by: RuleOptimizer = field(init=False)
    groups: list[dict[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        self.stepped_by, self.groups = self.own, self.own.param_groups

    def may_share(self) -> bool:
        """Return whether a step of its optimizer together with others is its own step.

        Not where it depends on more than one tensor at a time: on sums over the model, or on all gradients.
        """
        optimizer = self.own
        complete = [optimizer.complete(group) for group in self.groups]
        return not any(
            schema(optimizer.rule_for(group)).sums
            or group["nonfinite"] is not None
            or group["across_processes"]
            or any(isinstance(value, float) and abs(value) > LARGE for value in group.values())
            for group in complete
        )

    def leave(self) -> None:
        """Take groups and state back from the optimizer that others have too."""
        other, self.stepped_by = self.stepped_by, self.own
        if other is self.own:
            return
        left = {id(group) for group in self.groups}
        other.param_groups[:] = [group for group in other.param_groups if id(group) not in left]
        for own, group in zip(self.own.param_groups, self.groups, strict=True):
            own.update({name: value for name, value in group.items() if name not in ("params", "param_names")})
            for param in own["params"]:
                if param in other.state:
                    self.own.state[param] = other.state.pop(param)
        self.groups = self.own.param_groups


class Population:
    """The state of a population and the steps that change it; the loop sees it as it sees a run."""

    def __init__(self, configs: Sequence[RunConfig], dataset: Dataset, device: torch.device) -> None:
        self.config = config = configs[0]
        self.device = device
        self.feed = Feed(config, dataset)
        steps = config.train.total_steps(self.feed.images)
        losses = torch.full((steps, len(configs)), torch.nan, dtype=getattr(torch, config.train.dtype), device=device)
        self.progress = Progress(config, self.feed.images, losses, ())
        self.members: list[Member] = []
        for config, own in zip(configs, losses.unbind(1), strict=True):
            model = building.build_model(config, classes=len(dataset.classes), inputs=self.feed.inputs).train()
            optimizer = building.build_optimizer(config, model)
            assert isinstance(optimizer, RuleOptimizer)
            base_lrs = [group["lr"] for group in optimizer.param_groups]
            progress = Progress(config, self.feed.images, own, base_lrs)
            generator = Generator(device).manual_seed(building.dropout_seed(config))
            self.members.append(Member(config, model, optimizer, progress, generator))
        self.running = [*range(len(self.members))]
        kinds: dict[type[Optimizer], list[Member]] = {}
        for member in self.members:
            if member.may_share():
                kinds.setdefault(type(member.own), []).append(member)
        for together in kinds.values():
            _join(together)
        self.gather()
        self.set_rates()

    @property
    def books(self) -> list[Progress]:
        """The books of all runs."""
        return [member.progress for member in self.members]

    def gather(self) -> None:
        """Stack the models that are running, and find the optimizers that step them."""
        members = [self.members[index] for index in self.running]
        self.optimizers = list({id(member.stepped_by): member.stepped_by for member in members}.values())
        if not members:
            return
        l1, l2 = ([getattr(member.config.train, name) for member in members] for name in ("l1", "l2"))
        kind = STACKS[type(members[0].model)]
        self.stack: Stack = kind([m.model for m in members], l1, l2, [m.generator for m in members])
        self.columns = torch.tensor(self.running, device=self.device)

    def release(self, indices: Sequence[int]) -> None:
        """Let runs go that have stopped; the others go on."""
        for index in indices:
            member = self.members[index]
            member.leave()
            for param in member.model.parameters():
                param.data, param.grad = param.data.clone(), None
        self.running = [index for index in self.running if index not in indices]
        self.gather()

    def train_epoch(self, interruption: Interruption, bar: tqdm) -> None:
        """Make the updates that are left of this epoch; of every run none from a loss that is not finite."""
        start, members = time.perf_counter(), [self.members[index] for index in self.running]
        with torch.no_grad():
            eager.make(self, interruption, bar)
        for member in members:
            member.progress.seconds += (time.perf_counter() - start) / len(members)

    def checked_update(self, images: Tensor, labels: Tensor) -> Tensor | None:
        """Make the update of a batch and return the loss of every run; ``None`` if none is left.

        A run whose loss, with the penalty, is not finite leaves before the update; its loss is NaN from then on.
        """
        while self.running:
            losses = self.stack.losses(images, labels)
            penalties = self.stack.penalties()
            finite = (losses if penalties is None else losses + penalties).isfinite()
            if not finite.all():
                self.diverge(
                    [index for index, is_finite in zip(self.running, finite.tolist(), strict=True) if not is_finite]
                )
                continue
            self.stack.backward()
            row = self.progress.losses.new_full((len(self.members),), torch.nan)
            row[self.columns] = losses
            failed = [optimizer for optimizer in self.optimizers if not eager.stepped(optimizer)]
            if failed:
                self.diverge([index for index in self.running if self.members[index].stepped_by in failed])
            self.progress.step += 1
            for index in self.running:
                self.members[index].progress.step += 1
            self.set_rates()
            return row
        return None

    def diverge(self, indices: Sequence[int]) -> None:
        """Let runs go whose loss, or whose update, is not finite."""
        for index in indices:
            self.members[index].progress.is_finite = False
        self.release(indices)

    def set_rates(self) -> None:
        """Set the rates that the schedules have after the updates that were made."""
        for index in self.running:
            member = self.members[index]
            rates = member.progress.rates(self.progress.step)
            if member.stepped_by is not member.own and max(rates) > LARGE:
                member.leave()
                self.gather()
            for group, rate in zip(member.groups, rates, strict=True):
                group["lr"] = rate

    @torch.no_grad()
    def end_epoch(self) -> dict[int, dict[str, Any]]:
        """End the epoch of every run that has not ended before, and return its event, by the index of the run."""

        @cache
        def seen(split: str) -> dict[int, tuple[Any, Any]]:
            with ExitStack() as points:
                for optimizer in self.optimizers:
                    points.enter_context(optimizer.evaluating())
                return dict(zip(self.running, self.stack.evaluate(getattr(self.feed, split)), strict=True))

        events = {}
        for index, member in enumerate(self.members):
            if member.progress.status is None:

                def evaluate(ended: bool, index: int = index) -> dict[str, float | None]:
                    loss, accuracy = seen("validation")[index]
                    test = seen("test")[index][1] if ended else None
                    return {"validation_loss": loss, "validation_accuracy": accuracy, "test_accuracy": test}

                settings = member.config.train
                events[index] = member.progress.end_epoch(
                    penalty=objective.penalty(member.model, l1=settings.l1, l2=settings.l2).item(),
                    finite=all(bool(param.isfinite().all()) for param in member.model.parameters()),
                    evaluate=evaluate,
                )
        self.progress.epoch += 1
        self.release([index for index in self.running if self.members[index].progress.status is not None])
        return events


def _join(members: Sequence[Member]) -> None:
    """Let runs of one class of optimizer step as param groups of one."""
    groups = [
        {name: value for name, value in group.items() if name != "param_names"} for m in members for group in m.groups
    ]
    optimizer = type(members[0].own)(groups)  # pyright: ignore[reportCallIssue]
    left = iter(optimizer.param_groups)
    for member in members:
        member.stepped_by, member.groups = optimizer, [next(left) for _ in member.groups]


def train_population(
    configs: Sequence[RunConfig],
    dataset: Dataset,
    *,
    records: Sequence[str | Path | None] | None = None,
    progress: bool = True,
) -> list[Trained]:
    """Train runs that see the same batches, all at once.

    Each has the result that :func:`~optizoo.lab.train.train` gives it alone, but for the rounding of its products, and
    for ``seconds``, which are its share of the time of all. A run that stops, or diverges, leaves the others alone.
    There are no checkpoints: SIGINT and SIGTERM wait for the step and then raise, and what has not ended begins again.

    Args:
        configs: The runs; they may differ in optimizer, schedule, seed (with the same ``train.order_seed``),
            initialisation, penalties, ``tolerance`` and ``patience``. :func:`populations` sorts any runs into such.
        dataset: What to train on; ``config.data`` is not read.
        records: For every run a file for its record, or ``None`` to keep it in memory.
        progress: Show a progress bar, if stderr is a terminal.

    Returns:
        What every run leaves behind, in the order of ``configs``.

    Raises:
        ValueError: The runs cannot train together.
        ConfigError: A config asks for a device or warm-up that cannot be had.
        KeyboardInterrupt: After SIGINT.
        SystemExit: After SIGTERM, with status 143.
    """
    configs = list(configs)
    if not configs:
        return []
    if len(populations(configs, largest=len(configs))) > 1 or not may_join(configs[0]):
        raise ValueError(
            f"configs: the {len(configs)} runs cannot train together; sort them with optizoo.lab.train.populations"
        )
    records = [None] * len(configs) if records is None else records
    with training(configs[0]) as (device, interruption):
        run = Population(configs, dataset.to(device), device)
        surroundings = environment(device) | {"population": len(configs)}
        recorders = [
            open_record(path, config, dataset, None, lambda: surroundings)
            for path, config in zip(records, configs, strict=True)
        ]
        go(run, recorders, interruption, f"{len(configs)} runs", show=progress)
        interruption.raise_if_requested()
    return [
        trained(member.model, member.own, member.progress, recorder.record)
        for member, recorder in zip(run.members, recorders, strict=True)
    ]


def train_runs(
    configs: Sequence[RunConfig], dataset: Dataset, track: Callable[[list[list[int]]], Iterable[list[int]]] = iter
) -> Iterator[tuple[int, Trained]]:
    """Train any runs, those that see the same batches as populations, and yield each with its index.

    Args:
        configs: The runs.
        dataset: The data.
        track: Shows which populations have been trained.
    """
    for group in track(populations(configs)):
        together = [configs[index] for index in group]
        if len(group) == 1:
            runs = [train(together[0], dataset, progress=False)]
        else:
            runs = train_population(together, dataset, progress=False)
        yield from zip(group, runs, strict=True)
