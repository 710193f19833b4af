"""Configs with mistakes: an unknown key, a wrong type, an impossible value, a broken file.

What each check says is tested beside the config (``tests/lab/test_config.py``); here is what the user sees of it.
"""

from pathlib import Path

import pytest

from tests.faults.conftest import CONFIG, Told

MISTAKES = [
    pytest.param("[train]", "[train]\nepoch = 3", "key train.epoch is unknown; did you mean 'epochs'?", id="key"),
    pytest.param("[train]", "[trian]", "key trian is unknown; did you mean 'train'?", id="section"),
    pytest.param("epochs = 3", "epochs = 'three'", "key train.epochs = 'three'; must be a valid integer", id="type"),
    pytest.param("lr = 0.001", "lr = true", "key optimizer.lr = True; must be a valid number", id="bool-for-number"),
    pytest.param("lr = 0.001", "lr = 0.001\nbetas = 'x'", "Invalid betas value: 'x'; betas must be", id="option"),
    pytest.param("epochs = 3", "epochs = -3", "key train.epochs = -3; must be greater than or equal to 1", id="value"),
    pytest.param("lr = 0.001", "lr = nan", "key optimizer.lr = nan; must be a finite number", id="nan"),
    pytest.param(
        "lr = 0.001", "lr = 0.001\nbetas = [2, 3]", "Invalid betas[0] value: 2.0; betas[0]", id="option-range"
    ),
    pytest.param("dropout = 0.5", "dropout = 1", "key model.dropout = 1; must be less than 1", id="dropout"),
    pytest.param('"adam"', '"adm"', "did you mean 'adam'?", id="optimizer"),
    pytest.param(
        "train_size = 64", "train_size = 0", "key data.train_size = 0; must be greater than or equal to 1", id="no-data"
    ),
    pytest.param("[train]", "[schedule]\nwarmup_steps = 99\n[train]", "key schedule.warmup_steps = 99", id="warm-up"),
    pytest.param('device = "cpu"', 'device = "cuda:99"', "key train.device = 'cuda:99'; must be", id="device"),
    pytest.param("epochs = 3", "epochs = ", "small.toml: is not valid TOML", id="syntax"),
    pytest.param("epochs = 3", "epochs = 3\nepochs = 4", "small.toml: is not valid TOML", id="key-twice"),
]


@pytest.mark.parametrize(("old", "new", "message"), MISTAKES)
def test_mistake_in_a_config(config: Path, told: Told, old: str, new: str, message: str):
    """A mistake in a config is told in one line that names the key and what it must be; nothing is begun."""
    assert old in CONFIG
    config.write_text(CONFIG.replace(old, new), encoding="utf-8")
    assert message in told("train", str(config), "--out", "here")
    assert not Path("here/record.jsonl").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "No such file", id="missing"),
        pytest.param(b"\xff\xfe\x00", "is not valid TOML", id="binary"),
        pytest.param("folder", "Is a directory", id="folder"),
    ],
)
def test_file_that_is_no_config(config: Path, told: Told, content: bytes | str | None, message: str):
    """What cannot be read as a config is told by its name."""
    config.unlink()
    if content == "folder":
        config.mkdir()
    elif isinstance(content, bytes):
        config.write_bytes(content)
    error = told("train", str(config))
    assert "small.toml" in error
    assert message in error
