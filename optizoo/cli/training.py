"""``optizoo train`` and ``optizoo compare``."""

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from optizoo.cli import arguments
from optizoo.cli.errors import UsageError

if TYPE_CHECKING:
    from optizoo.lab.train.distributed import Group


def train(options: argparse.Namespace) -> int:
    """Train one model, by this process or together with others that ``torchrun`` has started."""
    arguments.require_lab()
    from optizoo.lab.train.distributed import joined

    with joined() as group:
        return _train(options, group)


def _train(options: argparse.Namespace, group: "Group") -> int:
    from optizoo.lab import checkpoint, data, limits, shipped
    from optizoo.lab.config import digest, load_run
    from optizoo.lab.run_folder import CHECKPOINT, RECORD, check_run, train_in
    from optizoo.lab.train import resolve_device
    from optizoo.lab.train import train as trained_alone

    config = load_run(shipped.find(options.config), options.overrides)
    folder = options.out or Path("runs") / f"{config.name}-{digest(config)}"
    if not group.rank:
        check_run(folder, resume=options.resume, fresh=options.fresh)  # what is not ours shows before the data are read
    device = resolve_device(config.train.device)
    with group.first_before_others():
        dataset = data.load(**asdict(config.data))
    limits.check_run(config, images=len(dataset.train), classes=len(dataset.classes), device=device)
    # What is written can be handed on: it does not tell where the data lie.
    config = replace(config, data=replace(config.data, root=None, cache=None))
    if group.rank:
        trained_alone(config, dataset, progress=False)
        return 0
    trained, place = train_in(
        folder, config, dataset, resume=options.resume, fresh=options.fresh, progress=not options.no_progress
    )
    record, saved = place / RECORD, place / CHECKPOINT
    result = trained.record.result
    assert result is not None
    if trained.status == "diverged":
        kept = f"{saved} has the state before" if checkpoint.exists(saved) else "it had no checkpoint yet"
        raise UsageError(
            f"{record}: the run diverged after {result['steps']} steps, loss or weights are not finite: "
            f"lower optimizer.lr = {config.optimizer.lr:g}; {kept}"
        )
    print(f"{trained.status} after {result['steps']} steps, {result['seconds']:.1f} s of training")
    if result["final_loss"] is not None:
        print(f"mean loss of the last epoch {result['final_loss']:.4f}")
    for split in ("validation", "test"):
        if result[f"{split}_accuracy"] is not None:
            print(f"{split} accuracy {result[f'{split}_accuracy']:.2%}")
    print(f"record: {record}")
    return 0


def compare(options: argparse.Namespace) -> int:
    """Compare optimizers."""
    arguments.require_lab()
    arguments.import_matplotlib()
    from optizoo.lab import shipped
    from optizoo.lab.compare import compare as made
    from optizoo.lab.config import load_compare

    shared = {}
    if options.storage is not None:
        arguments.require_sweep()
        shared = {"storage": options.storage, "heartbeat": options.heartbeat}
    config = load_compare(shipped.find(options.config), options.overrides)
    if options.fresh:
        options.how_to_go_on = ": the same command without --fresh goes on from here"
    result = made(config, options.out, progress=not options.no_progress, fresh=options.fresh, **shared)
    print(result.table)
    print(f"report: {result.folder / 'report.html'}")
    return 0
