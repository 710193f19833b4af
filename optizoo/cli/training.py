"""``optizoo train`` and ``optizoo compare``."""

import argparse
import sys
from dataclasses import asdict, replace
from pathlib import Path

from optizoo.cli import arguments
from optizoo.cli.errors import UsageError


def train(options: argparse.Namespace) -> int:
    """Train one model."""
    arguments.require_lab()
    from optizoo.lab import checkpoint, data, limits, shipped
    from optizoo.lab.config import digest, load_run, to_dict
    from optizoo.lab.folder import locked, write_json
    from optizoo.lab.train import resolve_device
    from optizoo.lab.train import train as run

    config = load_run(shipped.find(options.config), options.overrides)
    folder = options.out or Path("runs") / f"{config.name}-{digest(config)}"
    record, saved = folder / "record.jsonl", folder / "checkpoint.pt"
    if record.exists() and not (options.resume or options.fresh):
        raise UsageError(f"{folder} holds a run: go on with it (--resume), start over (--fresh), or give another --out")
    device = resolve_device(config.train.device)  # what cannot be had shows before the data are read
    dataset = data.load(**asdict(config.data))
    limits.check_run(config, images=len(dataset.train), classes=len(dataset.classes), device=device)
    # What is written can be handed on: it does not tell where the data lie.
    config = replace(config, data=replace(config.data, root=None, cache=None))
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        written = folder / "config.json"
        if options.resume and written.exists() and digest(load_run(written)) != digest(config):
            raise UsageError(f"{folder} holds a run with another config ({written}): restore it, or give another --out")
        if options.resume and not checkpoint.exists(saved):
            print(f"no checkpoint in {folder}: beginning the run", file=sys.stderr)
        if options.fresh:
            record.unlink(missing_ok=True)
            checkpoint.remove(saved)
        write_json(written, to_dict(config))
        trained = run(
            config,
            dataset,
            record=record,
            checkpoint=saved,
            resume=options.resume,
            progress=not options.no_progress,
        )
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
    from optizoo.lab import shipped
    from optizoo.lab.compare import compare as made
    from optizoo.lab.config import load_compare

    config = load_compare(shipped.find(options.config), options.overrides)
    result = made(config, options.out, progress=not options.no_progress, fresh=options.fresh)
    print(result.table)
    print(f"report: {result.folder / 'report.html'}")
    return 0
