"""The trials of a sweep in an Optuna storage, from which any number of workers on any machines pull.

Every trial has a key. All trials are put in at once as ones that wait; a worker claims some, is heard of as long as it
works on them, and tells their results. What a worker held that was killed is put in again, by whoever notices.

That no trial is lost and none counted twice stands on this: a result is told of a trial that runs, which can be done
once; a key whose trials have all failed is put in again; and of a key that was told twice the first counts.
"""

import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import optuna
import sqlalchemy
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from tqdm import tqdm

from optizoo.lab.checkpoint import Interruption
from optizoo.lab.sweep.spaces import Point, Range, shown

try:
    import fcntl
except ImportError:  # not on Windows, where SQLite serves one worker
    fcntl = None

__all__ = ["Batch", "Claim", "Key", "Storage", "StorageError", "embedded", "pull"]

POLL = 0.5  # seconds from one look at what others do to the next
HEARTBEAT = 10  # seconds from one sign of life to the next
PATIENCE = 90.0  # seconds for which a server may be away
Key = str
Batch = list[Key]
_T = TypeVar("_T")


class StorageError(RuntimeError):
    """The storage of a sweep cannot be used; the message names it and the remedy."""


@dataclass(frozen=True)
class Claim:
    """A trial that this worker holds.

    Attributes:
        key: Its key.
        number: Its number in the storage.
    """

    key: str
    number: int


def embedded(folder: Path) -> sqlalchemy.URL:
    """Return the URL of the storage in a folder: an SQLite file."""
    return sqlalchemy.URL.create("sqlite", database=str(folder.absolute() / "sweep.db"))


@contextmanager
def _telling(shown: str) -> Iterator[None]:
    """Tell in a line why a storage cannot be used."""
    try:
        yield
    except (ImportError, SQLAlchemyError, StorageInternalError, ValueError) as error:
        reason = str(getattr(error, "orig", None) or error.__cause__ or error).strip().partition("\n")[0]
        remedy = "start the server, or mend the URL"
        if isinstance(error, ImportError):
            remedy = "install the driver of this database; pip install 'optizoo[sweep]' has PostgreSQL's"
        raise StorageError(f"--storage {shown} cannot be used ({reason}): {remedy}") from None


def reach(url: str | sqlalchemy.URL) -> tuple[sqlalchemy.Engine, dict[str, Any]]:
    """Return an engine for a URL whose database has answered, and the options that it was made with.

    Raises:
        StorageError: There is none, or it cannot be reached.
    """
    with _telling(str(url)):
        parsed = sqlalchemy.make_url(url)
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    is_file = parsed.drivername.startswith("sqlite")
    waits = {"timeout": 60} if is_file else {"connect_timeout": 10} if "postgres" in parsed.drivername else {}
    options = {"connect_args": waits, "pool_pre_ping": not is_file}
    with _telling(parsed.render_as_string(hide_password=True)):
        engine = sqlalchemy.create_engine(parsed, **options)
        engine.connect().close()
    return engine, options


class Storage:
    """The trials of one sweep.

    Args:
        url: Where they are, as SQLAlchemy takes it: ``postgresql://user@host/database``.
        name: Name of the sweep: workers with the same name share its trials.
        about: What all of them must agree on; it is written by the first.
        heartbeat: Seconds between two signs of life. A worker that was silent for three times as long has died.

    Raises:
        StorageError: The storage cannot be reached, or holds another sweep of this name.
    """

    def __init__(
        self, url: str | sqlalchemy.URL, name: str, about: Mapping[str, Any], heartbeat: int = HEARTBEAT
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        self.name, self.heartbeat = name, heartbeat
        self._engine, options = reach(url)
        self.shown = self._engine.url.render_as_string(hide_password=True)
        self._file = self._engine.url.database if self._engine.dialect.name == "sqlite" else None
        with _telling(self.shown), self._alone():  # or two of them would make the same tables
            self._storage = RDBStorage(
                self._engine.url.render_as_string(hide_password=False),
                engine_kwargs=options,
                heartbeat_interval=heartbeat,
                grace_period=3 * heartbeat,
            )
        self._held: set[int] = set()
        self._stop = threading.Event()
        self._beats: threading.Thread | None = None
        try:
            self.study = patiently(lambda: self._join(about), self.shown)
        except BaseException:
            self.close()
            raise

    def _join(self, about: Mapping[str, Any]) -> optuna.Study:
        with self._alone():
            study = optuna.create_study(
                study_name=self.name, storage=self._storage, direction="maximize", load_if_exists=True
            )
            theirs = study.user_attrs.get("about")
            if theirs is None:
                study.set_user_attr("about", dict(about))
            elif theirs != dict(about):
                which = next(key for key in {**about, **theirs} if about.get(key) != theirs.get(key))
                raise StorageError(
                    f"{self.shown} holds the sweep {self.name} with other {which}: give all workers the same, "
                    "or give the sweep another name"
                )
        return study

    # Trials ---------------------------------------------------------------------------------------------------------

    def put(self, keys: Iterable[str]) -> None:
        """Let the trials of these keys wait, except those that do already, that run or are done; notice who died."""

        def missing() -> list[str]:
            known = self._by_key()
            return [key for key in keys if key not in known]

        def put() -> None:
            optuna.storages.fail_stale_trials(self.study)
            if not missing():
                return
            with self._alone():
                for key in missing():
                    self.study.enqueue_trial({}, user_attrs={"key": key})

        patiently(put, self.shown)

    def results(self, prefix: str = "") -> dict[str, dict[str, Any]]:
        """Return what was told of the trials that are done, by their keys."""
        return {
            key: trial.user_attrs["result"]
            for key, trial in patiently(self._by_key, self.shown).items()
            if trial.state == TrialState.COMPLETE and key.startswith(prefix)
        }

    def running(self, prefix: str = "") -> dict[str, dict[str, Any]]:
        """Return what was noted of the trials that run, by their keys."""
        return {
            key: trial.user_attrs
            for key, trial in patiently(self._by_key, self.shown).items()
            if trial.state == TrialState.RUNNING and key.startswith(prefix)
        }

    def claim(self, keys: Sequence[str]) -> list[Claim]:
        """Take those of the keys that wait, all or none: none if another worker has any of them."""

        def claim() -> list[FrozenTrial]:
            with self._alone():
                known = self._by_key()
                trials = [known[key] for key in keys if key in known]
                if any(trial.state == TrialState.RUNNING for trial in trials):
                    return []
                taken: list[FrozenTrial] = []
                for trial in trials:
                    if trial.state != TrialState.WAITING:
                        continue
                    self._storage.record_heartbeat(trial._trial_id)  # first: without one it would never be missed
                    if self._storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING):
                        taken.append(trial)
                    elif not taken:
                        return []
                return taken

        taken = patiently(claim, self.shown)
        self._held |= {trial._trial_id for trial in taken}
        if taken and self._beats is None:
            self._beats = threading.Thread(target=self._beat, daemon=True)
            self._beats.start()
        return [Claim(trial.user_attrs["key"], trial._trial_id) for trial in taken]

    def note(self, claim: Claim, name: str, value: Any) -> None:
        """Write something about a trial that this worker holds, for others to see."""
        with suppress(UpdateFinishedTrialError):
            patiently(lambda: self._storage.set_trial_user_attr(claim.number, name, value), self.shown)

    def tell(
        self, claim: Claim, value: float, result: Mapping[str, Any], point: Point, spaces: Mapping[str, Range]
    ) -> None:
        """Write the result of a trial, with its point as Optuna's own tools see it; unless it was given to another."""

        def tell() -> None:
            for name, space in spaces.items():
                distribution = space.distribution()
                with suppress(ValueError):  # a grid of another type of values
                    internal = distribution.to_internal_repr(shown(point[name]))
                    self._storage.set_trial_param(claim.number, name, internal, distribution)
            self._storage.set_trial_user_attr(claim.number, "result", dict(result))
            self._storage.set_trial_state_values(claim.number, TrialState.COMPLETE, [value])

        with suppress(UpdateFinishedTrialError):
            patiently(tell, self.shown)
        self._held.discard(claim.number)

    def release(self) -> None:
        """Give back what this worker holds: others take it at once."""
        held, self._held = self._held, set()
        for number in held:
            with suppress(UpdateFinishedTrialError, SQLAlchemyError, StorageInternalError):
                self._storage.set_trial_state_values(number, TrialState.FAIL)

    def close(self) -> None:
        """Give back what is held, and end the connections."""
        self._stop.set()
        if self._beats is not None:
            self._beats.join()
        self.release()
        self._storage.remove_session()
        self._storage.engine.dispose()
        self._engine.dispose()

    def _by_key(self) -> dict[str, FrozenTrial]:
        """Return for each key the trial that counts: one that is done before one that runs, and that before others."""
        order = [TrialState.COMPLETE, TrialState.RUNNING, TrialState.WAITING]
        found: dict[str, FrozenTrial] = {}
        for trial in self.study.get_trials(deepcopy=False, states=order):
            key = trial.user_attrs.get("key")
            if key is not None and (key not in found or order.index(trial.state) < order.index(found[key].state)):
                found[key] = trial
        return found

    def _beat(self) -> None:
        while not self._stop.wait(self.heartbeat):
            for number in [*self._held]:
                with suppress(SQLAlchemyError, StorageInternalError):  # the next one may be heard
                    self._storage.record_heartbeat(number)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other workers from claiming or putting in trials meanwhile, where the database has a lock for that.

        Where it has none, a trial may be put in twice; then one of the two is never claimed, or its result not counted.
        """
        if self._file and self._file != ":memory:" and fcntl is not None:
            with open(f"{self._file}.lock", "w") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                yield
        elif self._engine.dialect.name == "postgresql":
            with self._engine.begin() as connection:
                connection.execute(sqlalchemy.text("SET LOCAL lock_timeout = '30s'"))
                lock = sqlalchemy.text("SELECT pg_advisory_xact_lock(hashtext(:name))")
                connection.execute(lock, {"name": self.name})
                yield
        else:
            yield


def pull(
    storage: Storage,
    batches: Sequence[Batch],
    do: Callable[[Batch, Sequence[Claim]], None],
    what: str,
    *,
    interruption: Interruption,
    progress: bool,
) -> None:
    """Claim batches and do them, until all of them are done, by whomever.

    Args:
        storage: Where their trials are.
        batches: The keys of each; a batch goes to one worker.
        do: Does a batch and tells the results of what is claimed of it.
        what: What they are, on the progress bar.
        interruption: Is looked at before each batch.
        progress: Show a progress bar, on a terminal.
    """
    keys = [key for batch in batches for key in batch]
    with tqdm(total=len(keys), desc=what, unit="trial", disable=None if progress else True) as bar:
        while True:
            interruption.raise_if_requested()
            storage.put(keys)
            done = {*storage.results()} & {*keys}
            bar.n = len(done)
            bar.refresh()
            if len(done) == len(keys):
                return
            for batch in batches:
                if not done.issuperset(batch) and (claims := storage.claim(batch)):
                    do(batch, claims)
                    break
            else:
                time.sleep(POLL)


def patiently(action: Callable[[], _T], where: str) -> _T:
    """Do what may be done twice, and again while the server is away, for up to :data:`PATIENCE` seconds."""
    begin, told = time.monotonic(), False
    while True:
        try:
            return action()
        except (StorageInternalError, DBAPIError) as error:
            if time.monotonic() - begin > PATIENCE:
                reason = str(error.__cause__ or error).strip().partition("\n")[0]
                raise StorageError(f"{where} is away ({reason}): start its server, and this command again") from None
            if not told:
                print(f"waiting for {where}", file=sys.stderr)
                told = True
            time.sleep(0.5)
