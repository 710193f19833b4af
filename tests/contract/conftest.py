"""What the tests of libraries share: two processes of one gloo group, and a model to train in each of them."""

import io
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

from tests.processes import context

SIZE = 2
PATIENCE = 120.0  # seconds for one call; a process that waits for another one gives up before


class Processes:
    """Two processes that call functions together, as the ranks of one gloo group on the CPU.

    Starting them takes seconds, so they serve many tests. After an error or a call that takes too long they are killed,
    and the next call starts others.
    """

    def __init__(self, folder: Callable[[], Path]):
        self._folder = folder
        self._workers: list[tuple[Any, Connection]] = []

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Return what ``function(rank, *arguments)`` returns in each process: tensors, numbers and containers of them.

        Raises:
            AssertionError: It raised, with the traceback, or a process hangs.
        """
        if not self._workers:
            self._start()
        for _, connection in self._workers:
            connection.send((function, arguments))
        answers: dict[int, tuple[bool, Any]] = {}
        connections = {connection: rank for rank, (_, connection) in enumerate(self._workers)}
        while connections and all(worked for worked, _ in answers.values()):
            ready = wait(list(connections), timeout=PATIENCE)
            if not ready:
                self.stop(kill=True)
                raise AssertionError(f"{function.__name__} hangs in rank {sorted(connections.values())}")
            for connection in ready:
                assert isinstance(connection, Connection)
                try:
                    answer = connection.recv()
                except (EOFError, OSError):
                    answer = False, "the process died"
                answers[connections.pop(connection)] = answer
        errors = [f"rank {rank}: {error}" for rank, (worked, error) in sorted(answers.items()) if not worked]
        if errors:
            self.stop(kill=True)
            raise AssertionError("\n".join(errors))
        return [torch.load(io.BytesIO(answers[rank][1])) for rank in range(SIZE)]

    def _start(self) -> None:
        new = context()
        meeting = f"file://{self._folder()}/meeting"
        for rank in range(SIZE):
            here, there = new.Pipe()
            process = new.Process(target=_serve, args=(rank, meeting, there), daemon=True)
            process.start()
            there.close()
            self._workers.append((process, here))

    def stop(self, *, kill: bool = False) -> None:
        """End the processes: ask them to, unless they are to be killed, and kill those that do not listen."""
        for process, connection in self._workers:
            if kill:
                process.kill()
            connection.close()  # which ends the loop of one that serves
        for process, _ in self._workers:
            process.join(timeout=30)
            if process.is_alive():
                process.kill()
                process.join()
        self._workers = []


def _serve(rank: int, meeting: str, connection: Connection) -> None:
    torch.set_num_threads(1)
    patience = timedelta(seconds=PATIENCE / 2)
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=SIZE, timeout=patience)
    try:
        while True:
            try:
                function, arguments = connection.recv()
            except EOFError:
                return
            try:
                saved = io.BytesIO()
                torch.save(function(rank, *arguments), saved)
                connection.send((True, saved.getvalue()))
            except Exception:
                connection.send((False, traceback.format_exc()))
    finally:
        distributed.destroy_process_group()


@pytest.fixture(scope="session")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Two processes of one gloo group; each fails with the others, and none is waited for without end."""
    if not distributed.is_available() or not distributed.is_gloo_available():
        pytest.skip("this build of torch has no gloo")
    started = Processes(lambda: tmp_path_factory.mktemp("group"))
    yield started
    started.stop()
