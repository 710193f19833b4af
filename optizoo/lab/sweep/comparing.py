"""Comparisons on many workers: a run with its twin is a trial, and the records travel through the storage."""

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from optizoo.lab.checkpoint import Interruption
from optizoo.lab.config import CompareConfig, digest
from optizoo.lab.files import write
from optizoo.lab.grid import Cell
from optizoo.lab.records import is_finished
from optizoo.lab.sweep.storage import HEARTBEAT, Batch, Claim, Storage, pull

__all__ = ["run_pairs"]

Pair = tuple[Cell, ...]


def run_pairs(
    config: CompareConfig,
    runs: Sequence[Pair],
    folder: Path,
    run: Callable[[Pair], None],
    *,
    url: str,
    data: str,
    progress: bool,
    heartbeat: int = HEARTBEAT,
) -> None:
    """Run pairs until all of them are done, by whomever, and gather their records in the folder.

    Args:
        config: The comparison.
        runs: Its pairs.
        folder: Where the records of this worker lie.
        run: Runs a pair, and leaves its records in the folder.
        url: URL of the storage.
        data: Digest of the data.
        progress: Show a progress bar, on a terminal.
        heartbeat: Seconds between two signs of life.

    Raises:
        StorageError: The storage cannot be reached, or holds a comparison of other data.
    """
    pairs = {pair[0].stem: pair for pair in runs}
    name = f"compare-{config.name}-{digest(config)}"
    with Interruption() as interruption, closing(Storage(url, name, {"data": data}, heartbeat)) as storage:

        def do(batch: Batch, claims: Sequence[Claim]) -> None:
            pair = pairs[batch[0]]
            run(pair)
            records = {cell.stem: cell.record_path(folder).read_text(encoding="utf-8") for cell in pair}
            storage.tell(claims[0], 0.0, {"records": records}, {}, {})

        pull(storage, [[key] for key in pairs], do, config.name, interruption=interruption, progress=progress)
        results = storage.results()
    for key, pair in pairs.items():
        for cell in pair:
            path = cell.record_path(folder)
            if not is_finished(path):
                write(path, results[key]["records"][cell.stem])
