"""The storage of a sweep: no trial is lost and none counted twice, whatever happens to workers and to the server."""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna", reason="needs the extra sweep")
pytest.importorskip("psycopg", reason="needs the extra sweep")

from optizoo import cli
from optizoo.lab import compare as comparisons
from optizoo.lab import data
from optizoo.lab.compare import compare
from optizoo.lab.config import compare_from_dict, digest, from_dict
from optizoo.lab.sweep import storage as storages
from optizoo.lab.sweep import worker
from optizoo.lab.sweep.analysis import Trial
from optizoo.lab.sweep.config import SweepConfig
from optizoo.lab.sweep.storage import Storage, StorageError, embedded
from optizoo.lab.sweep.worker import work
from tests.postgres import Postgres, binaries
from tests.processes import Started

KEYS = [f"tuning/sgd/{index}" for index in range(4)]
TABLE: dict[str, Any] = {
    "name": "tiny",
    "trials": 4,
    "reruns": 2,
    "population": 2,
    "data": {"name": "synthetic", "validation": 50, "train_size": 200, "test_size": 50},
    "train": {"epochs": 1, "batch_size": 50, "device": "cpu", "threads": 1},
    "optimizers": [
        {"name": "sgd", "lr": {"log_uniform": [0.001, 0.1]}},
        {"name": "adam", "lr": {"log_uniform": [0.0001, 0.01]}},
    ],
}
# A worker; one that is stuck takes a batch, says so, and never ends it.
WORKER = """
import sys, time
from pathlib import Path
from tests.lab import test_sweep_storage as here
from optizoo.lab.sweep import worker

def stuck(*_):
    Path("held").touch()
    time.sleep(600)

if sys.argv[3] == "stuck":
    worker._train_all = stuck
config = here.tiny(sys.argv[1])
trials = worker.work(config, here.images(config), sys.argv[2], progress=False, heartbeat=1)
print(here.results(trials))
"""


def tiny(name: str) -> SweepConfig:
    return from_dict(SweepConfig, {**TABLE, "name": name})


def images(config: SweepConfig) -> data.Dataset:
    return data.load(**asdict(config.data))


def results(trials: Sequence[Trial]) -> list[tuple[Any, ...]]:
    """Return which runs there were and what their losses were, to the bit."""
    keys = ("phase", "optimizer", "index", "seed", "point")
    return [(*(run[key] for key in keys), run["result"]["loss_digest"]) for run in trials]


def waited(done: Callable[[], bool], process: Started | None = None) -> None:
    deadline = time.monotonic() + 90
    while not done():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """A PostgreSQL, where the machine has one."""
    if binaries() is None:
        pytest.skip("needs PostgreSQL's initdb and postgres (Debian: apt-get install postgresql)")
    found = Postgres()
    yield found
    found.stop()


@pytest.fixture(params=["file", "server"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A storage: a file, or a server."""
    if request.param == "file":
        return embedded(tmp_path).render_as_string()
    return request.getfixturevalue("server").url


@pytest.fixture
def name(tmp_path: Path) -> str:
    """A name that no other test has, for a sweep."""
    return "t" + hashlib.sha256(str(tmp_path).encode()).hexdigest()[:12]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, ...]]:
    """What one worker alone comes to."""
    config = tiny("alone")
    return results(work(config, images(config), embedded(tmp_path_factory.mktemp("alone")), progress=False))


def test_a_trial_is_claimed_once(url: str, name: str):
    """Of two workers one gets a trial; what it tells both see; what is done nobody gets again."""
    one, two = (Storage(url, name, {}) for _ in range(2))
    one.put(KEYS)
    two.put(KEYS)
    (claim,) = one.claim(KEYS[:1])
    assert two.claim(KEYS[:2]) == []  # one of them runs
    assert [each.key for each in two.claim(KEYS[1:2])] == KEYS[1:2]
    one.tell(claim, 0.5, {"value": 0.5}, {}, {})
    assert two.results() == {KEYS[0]: {"value": 0.5}}
    assert two.claim(KEYS[:1]) == []
    for each in (one, two):
        each.close()


def test_trials_are_put_in_once(url: str, name: str):
    """However many workers begin at the same time, and however often, every key has one trial that waits."""
    workers = [Storage(url, name, {}) for _ in range(3)]
    threads = [threading.Thread(target=each.put, args=(KEYS,)) for each in workers]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(trial.user_attrs["key"] for trial in workers[0].study.trials) == KEYS
    for each in workers:
        each.close()


def test_workers_that_begin_together_share_the_tables(tmp_path: Path):
    """Two workers that make the tables of a new storage at the same time do not get into each other's way."""
    made: list[Storage] = []
    threads = [threading.Thread(target=lambda: made.append(Storage(embedded(tmp_path), "new", {}))) for _ in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(made) == 3
    for each in made:
        each.close()


def test_what_a_worker_gives_back_is_taken_by_another(url: str, name: str):
    """A worker that is interrupted gives back what it holds: it is put in again, under the same key."""
    one, two = (Storage(url, name, {}) for _ in range(2))
    one.put(KEYS)
    one.claim(KEYS[:2])
    one.close()
    two.put(KEYS)
    assert [each.key for each in two.claim(KEYS[:2])] == KEYS[:2]
    two.close()


@pytest.mark.parametrize("url", ["file", pytest.param("server", marks=pytest.mark.slow)], indirect=True)
def test_a_worker_that_was_given_up_does_not_count(url: str, name: str):
    """A worker that was silent for too long and then tells a result is not counted beside the one that took over."""
    slow, other = (Storage(url, name, {}, heartbeat=1) for _ in range(2))
    slow.put(KEYS[:1])
    (claim,) = slow.claim(KEYS[:1])
    slow._stop.set()  # its heart does not beat
    deadline = time.monotonic() + 30
    while not (taken := other.claim(KEYS[:1])):
        assert time.monotonic() < deadline
        time.sleep(0.2)
        other.put(KEYS[:1])
    slow.tell(claim, 0.1, {"value": 0.1}, {}, {})
    assert other.results() == {}
    other.tell(taken[0], 0.2, {"value": 0.2}, {}, {})
    slow.tell(claim, 0.1, {"value": 0.1}, {}, {})
    assert slow.results() == other.results() == {KEYS[0]: {"value": 0.2}}
    for each in (slow, other):
        each.close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        pytest.param("postgresql://me:secret@127.0.0.1:1/x", "me:***@127.0.0.1:1/x cannot be used", id="no-server"),
        pytest.param("nonsense", "--storage nonsense cannot be used (Could not parse", id="no-url"),
        pytest.param("nobase://x/y", "mend the URL", id="unknown-database"),
        pytest.param("sqlite:////nowhere/at/all.db", "(unable to open database file)", id="no-folder"),
    ],
)
@pytest.mark.parametrize("command", ["sweep sweep_quickstart", "compare quickstart"])
def test_a_storage_that_cannot_be_used_is_told(
    url: str, message: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    """The line names the URL, without its password, and the remedy; nothing has been made."""
    monkeypatch.chdir(tmp_path)
    assert cli.main([*command.split(), "--storage", url]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --storage ")
    assert message in error
    assert error.count("\n") == 1
    assert "secret" not in error
    assert [*tmp_path.iterdir()] == []


def test_workers_must_have_the_same_data(url: str, name: str):
    """A worker with other images is refused."""
    Storage(url, name, {"data": "these"}).close()
    with pytest.raises(StorageError, match="with other data: give all workers the same"):
        Storage(url, name, {"data": "those"})


@pytest.mark.parametrize("url", [pytest.param("file", marks=pytest.mark.slow), "server"], indirect=True)
def test_a_killed_worker_loses_nothing(
    url: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Any
):
    """After ``kill -9`` in the middle of a batch another worker does it again: same trials, same results, each once."""
    monkeypatch.chdir(tmp_path)
    stuck = Started(WORKER, tmp_path, name, url, "stuck")
    waited(Path("held").exists, stuck)
    stuck.kill()
    config = tiny(name)
    assert results(work(config, images(config), url, progress=False, heartbeat=1)) == undisturbed


def test_two_workers_share_a_sweep(server: Postgres, name: str, tmp_path: Path, undisturbed: Any):
    """Two workers at the same time do every trial once, and come to the same."""
    other = Started(WORKER, tmp_path, name, server.url, "working")
    config = tiny(name)
    assert results(work(config, images(config), server.url, progress=False)) == undisturbed
    output, errors = other.communicate(90)
    assert (output.strip(), other.returncode) == (str(undisturbed), 0), errors
    storage = Storage(server.url, f"{name}-{digest(config)}", {"data": images(config).digest})
    assert len(storage.study.trials) == 2 * (4 + 2)
    storage.close()


def test_a_server_that_is_away_is_waited_for(
    server: Postgres, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], undisturbed: Any
):
    """The server dies in the middle of a sweep and comes back: the worker goes on, and nothing is lost."""
    train_all, away = worker._train_all, iter([True])

    def dying(*arguments: Any) -> Any:
        if next(away, False):
            server.kill()
            threading.Timer(1.0, server.start).start()
        return train_all(*arguments)

    monkeypatch.setattr(worker, "_train_all", dying)
    config = tiny(name)
    assert results(work(config, images(config), server.url, progress=False)) == undisturbed
    assert capsys.readouterr().err.count("waiting for postgresql") == 1


def test_a_server_that_stays_away_is_told(server: Postgres, name: str, monkeypatch: pytest.MonkeyPatch):
    """A worker does not wait for ever."""
    shared = Storage(server.url, name, {})
    monkeypatch.setattr(storages, "PATIENCE", 0.2)
    server.kill()
    with pytest.raises(StorageError, match=r"is away .*start its server"):
        shared.put(KEYS)
    server.start()
    shared.close()


@pytest.mark.usefixtures("unpainted")
def test_comparisons_run_on_workers(url: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs of a comparison that one worker has made come to another through the storage, which makes the rest."""
    table = {"name": name, "seeds": [0, 1], "data": TABLE["data"], "train": {**TABLE["train"], "foreach": False}}
    config = compare_from_dict({**table, "optimizers": [{"name": "sgd"}, {"name": "adam"}]})
    alone = compare(config, tmp_path / "alone", progress=False)
    run_pair, calls = comparisons._run_pair, iter(range(2))

    def interrupted(*arguments: Any, **options: Any) -> None:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        run_pair(*arguments, **options)

    monkeypatch.setattr(comparisons, "_run_pair", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compare(config, tmp_path / "one", storage=url, progress=False)
    made: list[Any] = []
    monkeypatch.setattr(comparisons, "_run_pair", lambda *a, **o: (made.append(a[1]), run_pair(*a, **o)))
    result = compare(config, tmp_path / "two", storage=url, progress=False)
    assert len(made) == 2  # of four pairs
    assert {run.result["loss_digest"] for run in result.records if run.result} == {
        run.result["loss_digest"] for run in alone.records if run.result
    }
    assert [row["test_accuracies"] for row in result.rows] == [row["test_accuracies"] for row in alone.rows]
