"""Records: what is written is what is read, whatever an interruption did to the file."""

import json
import math
from pathlib import Path

import pytest

import optizoo
from optizoo.lab.records import Record, Recorder, RecordError, environment

START = ({"name": "x"}, {"torch": "2"}, {"name": "tiny", "digest": "d"})


def epoch(number: int) -> dict:
    return {"epoch": number, "step": 10 * number, "train_loss": 1 / number}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A record of two epochs and a result, in a folder that the recorder had to make."""
    path = tmp_path / "new" / "record.jsonl"
    recorder = Recorder(path)
    recorder.start(*START)
    recorder.epoch(**epoch(1))
    recorder.epoch(**epoch(2))
    recorder.result(status="finished", steps=20)
    return path


def test_record_reads_as_written(path: Path):
    """A record holds its start, its epochs and its result."""
    assert Record.read(path) == Record(*START, epochs=[epoch(1), epoch(2)], result={"status": "finished", "steps": 20})


def test_recorder_holds_what_the_file_says(tmp_path: Path):
    """After every event the recorder's record equals the file, which an interruption would leave behind."""
    recorder = Recorder(tmp_path / "r.jsonl")
    recorder.start(*START)
    for event in [{"event": "epoch", **epoch(1)}, {"event": "resume", "step": 10}, {"event": "result", "status": "x"}]:
        recorder.add(event)
        assert recorder.record == Record.read(tmp_path / "r.jsonl")


def test_memory_only_record_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Without a path there is a record but no file."""
    monkeypatch.chdir(tmp_path)
    recorder = Recorder(None)
    recorder.start(*START)
    recorder.epoch(**epoch(1))
    assert recorder.record.epochs == [epoch(1)]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keep", range(0, 40, 7))
def test_cut_last_line_is_left_out(path: Path, keep: int):
    """However much of the last line was written, reading gives the events before it."""
    *before, last = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(before) + last[:keep])
    assert Record.read(path) == Record(*START, epochs=[epoch(1), epoch(2)])


def test_resume_goes_on_behind_a_cut_line(path: Path):
    """What a crash half wrote is cut off, so that the next event begins its own line."""
    path.write_bytes(path.read_bytes()[:-5])
    recorder = Recorder(path, resume=True)
    recorder.result(status="finished", steps=20)
    assert Record.read(path).result == {"status": "finished", "steps": 20}


def test_epochs_behind_the_point_of_resumption_are_void(path: Path):
    """A run that goes on from step 10 repeats what came later: those epochs and the result do not count."""
    Recorder(path, resume=True).resume(10)
    record = Record.read(path)
    assert record.epochs == [epoch(1)]
    assert record.result is None
    assert record.resumes == [10]


def test_new_recorder_replaces_the_file(path: Path):
    """Without ``resume`` a record begins anew."""
    Recorder(path).start(*START)
    assert Record.read(path) == Record(*START)


def test_other_events_are_kept(path: Path):
    """Tools may add events of their own; the last ``twin`` is at hand."""
    assert Record.read(path).twin is None
    verdicts = [{"event": "twin", "losses_identical": value} for value in (False, True)]
    for verdict in verdicts:
        Recorder(path, resume=True).add(verdict)
    record = Record.read(path)
    assert record.others == verdicts
    assert record.twin == verdicts[1]
    assert record.result == {"status": "finished", "steps": 20}


def test_numbers_survive_exactly(tmp_path: Path):
    """Floats read back bit for bit; NaN and infinity become null, so every line is JSON for any reader."""
    values = [0.1, 1e-300, math.pi, 5e-324]
    recorder = Recorder(tmp_path / "r.jsonl")
    recorder.start(*START)
    recorder.result(losses=[*values, math.nan, math.inf], final_loss=-math.inf)
    result = Record.read(tmp_path / "r.jsonl").result
    assert result == {"losses": [*values, None, None], "final_loss": None} == recorder.record.result


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        pytest.param([], "line 1: a record begins with a start event", id="empty"),
        pytest.param([{"event": "epoch", "epoch": 1}], "line 1: a record begins with a start event", id="no-start"),
        pytest.param(
            [{"event": "start", "config": {}}], "line 1: the start event lacks 'environment'", id="half-start"
        ),
        pytest.param(["start", "{"], "line 2: is not JSON", id="no-json"),
        pytest.param(["start", [1]], "line 2: is no event", id="list"),
        pytest.param(["start", {"a": 1}], "line 2: is no event", id="no-event"),
        pytest.param(["start", {"event": "resume"}], "line 2: the resume event lacks 'step'", id="half-resume"),
    ],
)
def test_corrupt_records_are_told(tmp_path: Path, lines: list, message: str):
    """Anything but a cut last line raises, with file and line."""
    start = {"event": "start", "config": {}, "environment": {}, "dataset": {}}
    texts = [json.dumps(start) if line == "start" else line if line == "{" else json.dumps(line) for line in lines]
    path = tmp_path / "bad.jsonl"
    path.write_text("".join(text + "\n" for text in texts), encoding="utf-8")
    with pytest.raises(RecordError) as caught:
        Record.read(path)
    assert str(caught.value).startswith(f"{path}, {message}")


@pytest.mark.parametrize("content", [None, b"\xff\xfe\n"], ids=["missing", "binary"])
def test_unreadable_records_are_told(tmp_path: Path, content: bytes | None):
    """A file that cannot be read as text is told with its path."""
    path = tmp_path / "bad.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RecordError, match=r"bad\.jsonl: (cannot be read|is not text)"):
        Record.read(path)


def test_record_without_start_is_refused():
    """Events need a start before them."""
    with pytest.raises(RecordError, match=r"call Recorder\.start first"):
        Recorder(None).epoch(**epoch(1))


def test_environment_is_plain():
    """The environment is short text and numbers, without a path of this machine."""
    found = environment()
    assert found["optizoo"] == optizoo.__version__
    assert found["device"] == "cpu"
    assert str(Path(optizoo.__file__).parents[1]) not in json.dumps(found)
