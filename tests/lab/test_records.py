"""Records: what is written is what is read, whatever an interruption did to the file."""

import json
import math
import re
from pathlib import Path

import pytest

import optizoo
from optizoo.lab import rows
from optizoo.lab.config import digest
from optizoo.lab.records import Record, Recorder, RecordError, environment, frame

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


def test_start_has_schema_and_digests(path: Path):
    """A record says in which schema it is written, and of which config, code and data it is."""
    record = Record.read(path)
    assert record.schema == rows.SCHEMA
    assert record.digests == {"config": digest({"name": "x"}), "code": "", "data": "d"}


def test_older_record_still_reads(path: Path):
    """A record of the schema before, which had neither version nor digests, reads as ever."""
    start, rest = path.read_text(encoding="utf-8").split("\n", 1)
    old = {key: value for key, value in json.loads(start).items() if key not in ("schema", "digests")}
    path.write_text(json.dumps(old) + "\n" + rest, encoding="utf-8")
    record = Record.read(path)
    assert record == Record(*START, epochs=[epoch(1), epoch(2)], result={"status": "finished", "steps": 20})
    assert (record.schema, record.digests) == (1, {})


@pytest.mark.parametrize(
    ("line", "event", "message"),
    [
        pytest.param(0, {"schema": 99}, f"has schema 99, and this optizoo knows {rows.SCHEMA}: update", id="newer"),
        pytest.param(1, {"step": "ten"}, "line 2: the epoch event has step = 'ten': Input should be", id="type"),
        pytest.param(3, {"losses": 3}, "line 4: the result event has losses = 3: Input should be", id="list"),
    ],
)
def test_event_of_another_shape_is_told(path: Path, line: int, event: dict, message: str):
    """A value of another type than the schema has is told with line and key; so is a schema of the future."""
    lines = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]
    lines[line] |= event
    path.write_text("".join(json.dumps(each) + "\n" for each in lines), encoding="utf-8")
    with pytest.raises(RecordError, match=re.escape(message)):
        Record.read(path)


def test_frame_of_a_record(path: Path):
    """A table of a record has one row, with dots in the names of its columns; or one for each epoch."""
    runs = frame(path)
    assert runs.loc[0, ["config.name", "result.status", "result.steps"]].tolist() == ["x", "finished", 20]
    epochs = frame(path, "epochs")
    assert epochs[["config.name", "epoch", "step"]].to_numpy().tolist() == [["x", 1, 10], ["x", 2, 20]]


def test_frame_of_a_folder(path: Path):
    """A table of a folder has a row for each record in it, and says where they lie."""
    other = path.with_name("other.jsonl")
    other.write_bytes(path.read_bytes())
    path.with_name("results.jsonl").write_text('{"optimizer": "sgd"}\n', encoding="utf-8")  # a comparison's table
    assert frame(path.parent)["file"].tolist() == [str(other), str(path)]


def test_frame_of_nothing_is_told(tmp_path: Path):
    """A folder without records is told."""
    with pytest.raises(RecordError, match="holds no record"):
        frame(tmp_path)


def test_page_of_the_schema_is_that_of_the_types():
    """The tables of docs/records.md are those of the types."""
    page = (Path(__file__).parents[2] / "docs" / "records.md").read_text(encoding="utf-8")
    assert page.endswith("\n" + rows.markdown())
