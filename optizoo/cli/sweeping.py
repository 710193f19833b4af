"""``optizoo sweep``."""

import argparse

from optizoo.cli import arguments


def sweep(options: argparse.Namespace) -> int:
    """Tune optimizers at equal budgets, and compare the best of each from new seeds."""
    arguments.require_lab()
    arguments.require_sweep()
    arguments.import_matplotlib()
    from optizoo.lab import shipped
    from optizoo.lab.sweep.config import load_sweep
    from optizoo.lab.sweep.storage import HEARTBEAT
    from optizoo.lab.sweep.worker import sweep as made

    config = load_sweep(shipped.find(options.config), options.overrides)
    result = made(
        config,
        options.out,
        storage=options.storage,
        progress=not options.no_progress,
        heartbeat=options.heartbeat or HEARTBEAT,
    )
    print(result.table)
    print(f"report: {result.folder / 'report.html'}")
    return 0
