"""Data sets, the order of an epoch, batches, and the synthetic set."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy

from optizoo.lab import synthetic
from optizoo.lab.data import Batches, DataError, Dataset, Split, epoch_order, load, normalise

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PINNED_ORDER = [3, 5, 1, 8, 7, 10, 2, 6, 9, 11, 0, 4]
PINNED_DIGEST = "da6ad455fb3a736a2516458808a9c95d918e390443e0f2e2db3466392f682dc5"

MEAN, STD = (125.0, 120.0, 110.0), (60.0, 62.0, 64.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder of 40 train and 20 test images in two classes, every image another shade."""
    root = tmp_path_factory.mktemp("images")
    shades = iter(range(60))
    for part, count in (("train", 20), ("test", 10)):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for index in range(count):
                shade = next(shades)
                image = np.full((32, 32, 3), (shade, 2 * shade, 4 * shade), np.uint8)
                Image.fromarray(image).save(root / part / name / f"{index:04d}.png")
    return root


@pytest.fixture
def cifar10(folder: Path, tmp_path: Path) -> Callable[..., Dataset]:
    def loaded(**arguments: int) -> Dataset:
        return load("cifar10", root=folder, cache=tmp_path, **({"validation": 10} | arguments))  # type: ignore[arg-type]

    return loaded


def shades(split: Split) -> list[int]:
    """Return what tells the images of the folder apart."""
    return split.images[:, 0, 0, 0].tolist()


# Loading.


def test_a_data_set_is_split(cifar10: Callable[..., Dataset], folder: Path) -> None:
    """Train and validation share out the train images, labels stay with their images, and the test split is whole."""
    data = cifar10()
    assert (data.name, data.source, data.classes) == ("cifar10", f"image folder {folder.name}", ("cat", "dog"))
    assert (len(data.train), len(data.validation), len(data.test)) == (30, 10, 20)
    assert sorted(shades(data.train) + shades(data.validation)) == list(range(40))
    for split in (data.train, data.validation):
        assert split.labels.tolist() == [int(shade >= 20) for shade in shades(split)]
    assert shades(data.test) == list(range(40, 60))


def test_the_split_is_a_function_of_the_seed(cifar10: Callable[..., Dataset]) -> None:
    """One seed gives one split, another seed another; the digest is of the source, so it is the same."""
    first, second, other = cifar10(seed=3), cifar10(seed=3), cifar10(seed=4)
    assert shades(first.train) == shades(second.train)
    assert shades(first.validation) == shades(second.validation)
    assert sorted(shades(other.validation)) != sorted(shades(first.validation))
    assert first.digest == second.digest == other.digest


def test_a_smaller_train_split_keeps_the_validation_split(cifar10: Callable[..., Dataset]) -> None:
    """``train_size`` takes the first images of the train split; validation and test stay as they are."""
    whole, part = cifar10(), cifar10(train_size=7)
    assert shades(part.train) == shades(whole.train)[:7]
    assert shades(part.validation) == shades(whole.validation)
    assert shades(part.test) == shades(whole.test)


def test_a_smaller_test_split_is_drawn_by_the_seed(cifar10: Callable[..., Dataset]) -> None:
    """``test_size`` draws from all classes, without repetition, and the same for the same seed."""
    part = cifar10(test_size=12)
    assert len(set(shades(part.test))) == 12
    assert set(part.test.labels.tolist()) == {0, 1}
    assert shades(part.test) == shades(cifar10(test_size=12).test)


def test_no_validation(cifar10: Callable[..., Dataset]) -> None:
    """``validation=0`` trains on all train images and leaves an empty validation split."""
    data = cifar10(validation=0)
    assert (len(data.train), len(data.validation)) == (40, 0)


def test_mean_and_std_are_of_the_train_split(cifar10: Callable[..., Dataset]) -> None:
    """Mean and standard deviation are those of the train images alone, correct to the last bits of a float64."""
    data = cifar10()
    pixels = data.train.images.double()
    assert data.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), rel=1e-13)
    assert data.std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist(), rel=1e-13)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        pytest.param("cifar", {}, "unknown data set 'cifar': did you mean 'cifar10'", id="name"),
        pytest.param("cifar10", {"validation": 40}, "validation = 40 leaves 0 of 40 images to train on", id="all"),
        pytest.param("cifar10", {"validation": 50}, "validation = 50 leaves 0 of 40 images", id="validation too large"),
        pytest.param(
            "cifar10", {"train_size": 31}, "leaves 30 of 40 .* train_size = 31 asks for more", id="train_size"
        ),
        pytest.param("cifar10", {"test_size": 21}, "test_size = 21, but there are 20 test images", id="test_size"),
        pytest.param("cifar10", {"train_size": 0}, "train_size must be an integer, at least 1, got 0", id="no train"),
        pytest.param("synthetic", {"test_size": -1}, "test_size must be an integer, at least 1, got -1", id="negative"),
        pytest.param("synthetic", {"validation": 0.1}, "validation must be an integer, .* got 0.1", id="fraction"),
        pytest.param("synthetic", {"seed": True}, "seed must be an integer, at least 0, got True", id="bool seed"),
    ],
)
def test_bad_arguments_name_the_key(
    folder: Path, tmp_path: Path, name: str, arguments: dict[str, int], message: str
) -> None:
    """A size that does not fit, or a name that is not known, is an error that names it and tells what would do."""
    arguments = {"validation": 10} | arguments
    with pytest.raises(DataError, match=message):
        load(name, root=folder, cache=tmp_path, **arguments)  # type: ignore[arg-type]


def test_a_constant_channel_is_an_error(tmp_path: Path) -> None:
    """Images that cannot be standardised are refused, instead of turned into NaN."""
    for part in ("train", "test"):
        (tmp_path / part / "cat").mkdir(parents=True)
        for index in range(3):
            Image.new("RGB", (32, 32), (index, 7, index)).save(tmp_path / part / "cat" / f"{index}.png")
    with pytest.raises(DataError, match="the green channel of all 2 train images is one constant"):
        load("cifar10", root=tmp_path, cache=tmp_path / "cache", validation=1)


def test_where_cifar10_is_looked_for(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``root`` comes before OPTIZOO_DATA, that before ./data; the synthetic set never stands in for what is missing."""
    monkeypatch.setenv("OPTIZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OPTIZOO_DATA", str(tmp_path / "named"))
    with pytest.raises(DataError, match="named does not exist"):
        load("cifar10")
    assert len(load("cifar10", root=folder, validation=0).train) == 40
    monkeypatch.setenv("OPTIZOO_DATA", str(folder))
    assert len(load("cifar10", validation=0).train) == 40
    monkeypatch.delenv("OPTIZOO_DATA")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="data does not exist"):
        load("cifar10")
    (tmp_path / "data").symlink_to(folder)
    assert len(load("cifar10", validation=0).train) == 40


def test_download_is_torchvisions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``download=True`` asks torchvision for the original; its failure is one line with a remedy."""

    def offline(*arguments: object, **options: object) -> None:
        raise RuntimeError("no route\nto host")

    monkeypatch.setattr("torchvision.datasets.CIFAR10.download", offline)
    with pytest.raises(DataError, match=r"torchvision cannot read .*cifar-10-batches-py \(no route to host\): delete"):
        load("cifar10", root=tmp_path, download=True)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        pytest.param(torch.zeros(2, 3, 32, 32), torch.zeros(2, dtype=torch.int64), id="float images"),
        pytest.param(torch.zeros(2, 3072, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), id="flat images"),
        pytest.param(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.zeros(2), id="float labels"),
        pytest.param(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), id="lengths"),
    ],
)
def test_a_split_checks_its_tensors(images: Tensor, labels: Tensor) -> None:
    """Tensors of another kind than documented are refused."""
    with pytest.raises(ValueError, match="must be"):
        Split(images, labels)


def test_moving_a_data_set() -> None:
    """``to`` moves the images and labels of all three splits."""
    data = load("synthetic", train_size=8, validation=4, test_size=4).to("meta")
    for split in (data.train, data.validation, data.test):
        assert split.images.device.type == split.labels.device.type == "meta"


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("OPTIZOO_DATA"), reason="needs CIFAR-10; set OPTIZOO_DATA to its folder")
def test_real_cifar10() -> None:
    """CIFAR-10 has 50 000 and 10 000 images, as many of each class, and the channel means that are known of it."""
    data = load("cifar10", validation=0)
    assert data.classes == CIFAR10_CLASSES
    assert torch.bincount(data.train.labels).tolist() == [5000] * 10
    assert torch.bincount(data.test.labels).tolist() == [1000] * 10
    assert data.mean == pytest.approx((125.31, 122.95, 113.87), abs=0.1)
    assert data.std == pytest.approx((62.99, 62.09, 66.70), abs=0.5)
    assert len(load("cifar10").validation) == 5000


# The order of an epoch.


@pytest.mark.parametrize("n", [0, 1, 2, 1000])
def test_epoch_order_is_a_permutation(n: int) -> None:
    """Every image comes once in an epoch."""
    order = epoch_order(n, seed=1, epoch=2)
    assert order.dtype == torch.int64
    assert order.sort().values.tolist() == list(range(n))


def test_epoch_order_is_a_function_of_its_arguments() -> None:
    """The order depends on each argument and on nothing else: not on the version, nor on the global random state."""
    torch.manual_seed(0)
    before = torch.get_rng_state()
    orders = {(seed, epoch): epoch_order(50, seed=seed, epoch=epoch) for seed in range(5) for epoch in range(5)}
    assert torch.equal(torch.get_rng_state(), before)
    assert len({tuple(order.tolist()) for order in orders.values()}) == 25
    assert torch.equal(orders[2, 3], epoch_order(50, seed=2, epoch=3))
    assert not torch.equal(epoch_order(50, seed=0, epoch=0), epoch_order(50, seed=2**32, epoch=0))
    assert epoch_order(12, seed=5, epoch=7).tolist() == PINNED_ORDER


@pytest.mark.parametrize("arguments", [(-1, 0, 0), (8, -1, 0), (8, 0, -1)])
def test_epoch_order_refuses_negative_numbers(arguments: tuple[int, int, int]) -> None:
    """A negative number of images, seed or epoch raises."""
    n, seed, epoch = arguments
    with pytest.raises(ValueError, match="must be at least 0"):
        epoch_order(n, seed=seed, epoch=epoch)


# Batches.


def random_split(n: int) -> Split:
    generator = torch.Generator().manual_seed(n)
    images = torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return Split(images, torch.arange(n))


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        pytest.param(torch.float64, 1e-15, id="float64"),
        pytest.param(torch.float32, 1e-6, id="float32"),
        pytest.param(torch.bfloat16, 1e-2, id="bfloat16"),
        pytest.param(torch.float16, 1e-3, id="float16"),
    ],
)
def test_batches_are_standardised(dtype: torch.dtype, tolerance: float) -> None:
    """A batch is (image - mean) / std for each channel, in the given order and in the dtype asked for."""
    split = random_split(20)
    order = epoch_order(20, seed=0, epoch=0)
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (MEAN, STD))
    expected = ((split.images.double() - mean) / std).flatten(1)[order]
    batches = list(Batches(split, MEAN, STD, 8, dtype).epoch(order))
    assert [len(labels) for _, labels in batches] == [8, 8, 4]
    images = torch.cat([images for images, _ in batches])
    assert images.dtype == dtype
    torch.testing.assert_close(images.double(), expected, rtol=tolerance, atol=tolerance)
    assert torch.equal(torch.cat([labels for _, labels in batches]), order)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_one_image_has_one_value(dtype: torch.dtype) -> None:
    """Shuffled, in order, alone or by the function: an image is normalised to the same bits."""
    split = random_split(37)
    order = epoch_order(37, seed=0, epoch=0)
    batches = Batches(split, MEAN, STD, 10, dtype)
    expected = normalise(split.images, MEAN, STD, dtype)
    assert torch.equal(torch.cat([images for images, _ in batches.epoch(order)]), expected[order])
    assert torch.equal(torch.cat([images for images, _ in batches.sequential()]), expected)
    assert torch.equal(torch.cat([batches.normalise(image[None]) for image in split.images]), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_reused_batches_hold_the_same_values(dtype: torch.dtype) -> None:
    """With ``reuse`` every batch has the values of a fresh one; in float32 and float64 all live in one place."""
    split = random_split(25)
    order = torch.randperm(25)
    fresh = Batches(split, MEAN, STD, 10, dtype)
    reused = Batches(split, MEAN, STD, 10, dtype, reuse=True)
    for ours, expected in ((reused.epoch(order), fresh.epoch(order)), (reused.sequential(), fresh.sequential())):
        places = set()
        for (images, labels), (images_expected, labels_expected) in zip(ours, expected, strict=True):
            assert torch.equal(images, images_expected)
            assert torch.equal(labels, labels_expected)
            places.add(images.data_ptr())
        assert len(places) == 1 or dtype == torch.bfloat16


@pytest.mark.parametrize("drop_last", [False, True])
def test_a_resumed_epoch_goes_on_bit_identically(drop_last: bool) -> None:
    """Started at any batch, an epoch yields exactly the batches that an uninterrupted one has left."""
    batches = Batches(random_split(37), MEAN, STD, 10, drop_last=drop_last)
    order = epoch_order(37, seed=0, epoch=0)
    whole = list(batches.epoch(order))
    assert len(whole) == len(batches) == (3 if drop_last else 4)
    for start in range(len(batches) + 1):
        rest = list(batches.epoch(order, start))
        assert len(rest) == len(whole) - start
        for (images, labels), (expected_images, expected_labels) in zip(rest, whole[start:], strict=True):
            assert torch.equal(images, expected_images)
            assert torch.equal(labels, expected_labels)


def test_batches_do_not_share_memory() -> None:
    """A batch that autograd has kept is not overwritten by the next one."""
    batches = list(Batches(random_split(30), MEAN, STD, 10).epoch(torch.arange(30)))
    assert len({images.data_ptr() for images, _ in batches}) == 3
    assert torch.equal(torch.cat([images for images, _ in batches]), normalise(random_split(30).images, MEAN, STD))


def test_sequential_keeps_the_last_batch() -> None:
    """Evaluation sees every image once, in order, even where training drops the last batch."""
    split = random_split(25)
    labels = [labels for _, labels in Batches(split, MEAN, STD, 10, drop_last=True).sequential()]
    assert torch.equal(torch.cat(labels), split.labels)


def test_a_batch_size_beyond_the_split_gives_one_batch() -> None:
    """Full-batch gradient descent is a batch size of n or more."""
    for batch_size in (25, 1000):
        batches = Batches(random_split(25), MEAN, STD, batch_size)
        ((images, _),) = batches.epoch(torch.arange(25))
        assert len(batches) == 1
        assert len(images) == 25


def test_an_empty_split_has_no_batches() -> None:
    """A validation split of size 0 can be iterated over."""
    batches = Batches(random_split(0), MEAN, STD, 10)
    assert len(batches) == 0
    assert list(batches.epoch(torch.arange(0))) == list(batches.sequential()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"batch_size": 0}, "batch_size must be an integer, at least 1, got 0", id="zero"),
        pytest.param({"batch_size": 1.5}, "batch_size must be an integer, at least 1, got 1.5", id="fraction"),
        pytest.param({"batch_size": True}, "batch_size must be an integer, at least 1, got True", id="bool"),
        pytest.param({"batch_size": 30, "drop_last": True}, "leaves no batch of 25 images", id="nothing left"),
        pytest.param({"batch_size": 5, "dtype": torch.int64}, "dtype must be a floating-point dtype", id="dtype"),
    ],
)
def test_batches_refuse_bad_options(options: dict[str, object], message: str) -> None:
    """An option that cannot work raises when the batches are made."""
    with pytest.raises(ValueError, match=message):
        Batches(random_split(25), MEAN, STD, **options)  # type: ignore[arg-type]


def test_an_epoch_refuses_a_wrong_order_or_start_at_once() -> None:
    """The error comes from ``epoch`` itself, before the first batch."""
    batches = Batches(random_split(25), MEAN, STD, 10)
    with pytest.raises(ValueError, match="order must name 25 images, one for each of the split, got 24"):
        batches.epoch(torch.arange(24))
    for start in (-1, 4):
        with pytest.raises(ValueError, match=f"start must be from 0 to 3, the number of batches, got {start}"):
            batches.epoch(torch.arange(25), start)


@pytest.mark.parametrize("reuse", [False, True])
def test_standardised_values_are_gathered_as_they_are(reuse: bool) -> None:
    """A split of standardised values, of any number, gives batches of them, bit for bit, and stays as it is."""
    values = torch.randn(5, 12)
    split = Split(values.clone(), torch.arange(5))
    batches = Batches(split, MEAN, STD, 2, reuse=reuse)
    order = torch.tensor([3, 0, 4, 1, 2])
    seen = [images.clone() for images, _ in batches.epoch(order)]
    assert torch.equal(torch.cat(seen), values[order])
    assert torch.equal(torch.cat([images.clone() for images, _ in batches.sequential()]), values)
    assert next(Batches(split, MEAN, STD, 5, torch.float64).epoch(order))[0].dtype is torch.float64
    assert torch.equal(split.images, values)


def test_float_images_are_not_normalised_again() -> None:
    """Images that are no longer grey levels raise, and stay as they are."""
    images = torch.ones(2, 3072)
    with pytest.raises(ValueError, match=r"images must be uint8, grey levels from 0 to 255, got torch.float32"):
        normalise(images, MEAN, STD)
    assert torch.equal(images, torch.ones(2, 3072))


@pytest.mark.gpu
def test_batches_on_the_gpu() -> None:
    """On a GPU the batches stay there, and differ from the CPU's in no bit."""
    split, order = random_split(37), epoch_order(37, seed=0, epoch=0)
    there = Batches(split.to("cuda"), MEAN, STD, 10).epoch(order)
    for (images, labels), (expected, _) in zip(there, Batches(split, MEAN, STD, 10).epoch(order), strict=True):
        assert images.device.type == labels.device.type == "cuda"
        assert torch.equal(images.cpu(), expected)


# The synthetic set.


def test_the_synthetic_set_is_the_same_everywhere() -> None:
    """Seed and sizes fix every byte, on every machine and with every version of the libraries."""
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert synthetic.make(600, 100, seed=0).digest() == PINNED_DIGEST
    assert torch.equal(torch.get_rng_state(), before)
    assert synthetic.make(600, 100, seed=1).digest() != PINNED_DIGEST


def test_the_synthetic_set_by_default() -> None:
    """5000 train, 1000 validation and 2000 test images in ten classes; a larger validation split adds to them."""
    data = load("synthetic")
    assert (len(data.train), len(data.validation), len(data.test)) == (5000, 1000, 2000)
    assert data.source == "generated from seed 0"
    assert len(data.classes) == 10
    assert torch.bincount(data.train.labels).min() > 400
    more = load("synthetic", validation=2000, train_size=500, test_size=50)
    assert (len(more.train), len(more.validation), len(more.test)) == (500, 2000, 50)


def test_synthetic_parts_are_independent() -> None:
    """Train and test images of one seed share no image, and the test part does not depend on the train size."""
    small, large = synthetic.make(50, 50), synthetic.make(80, 50)
    assert torch.equal(small.test.images, large.test.images)
    assert not (small.train.images[:, None] == small.test.images[None]).flatten(2).all(2).any()


def fit(data: Dataset, optimizer: type[torch.optim.Optimizer], lr: float, **options: float) -> tuple[float, float]:
    """Train a softmax classifier for three epochs; return its train loss and test accuracy."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3072, 10)
    steps = optimizer(model.parameters(), lr=lr, **options)  # type: ignore[call-arg]
    batches = Batches(data.train, data.mean, data.std, 128)
    for epoch in range(3):
        for images, labels in batches.epoch(epoch_order(len(data.train), seed=0, epoch=epoch)):
            loss = cross_entropy(model(images), labels)
            steps.zero_grad()
            loss.backward()
            steps.step()
    with torch.no_grad():
        loss = cross_entropy(model(batches.normalise(data.train.images)), data.train.labels)
        scores = model(normalise(data.test.images, data.mean, data.std))
    return loss.item(), (scores.argmax(1) == data.test.labels).double().mean().item()


def test_the_synthetic_set_tells_optimizers_apart() -> None:
    """In three epochs a line learns it in part, and momentum and Adam get much further than plain SGD."""
    data = load("synthetic")
    sgd, _ = fit(data, torch.optim.SGD, 3e-3)
    momentum, accuracy = fit(data, torch.optim.SGD, 3e-3, momentum=0.9)
    adam, _ = fit(data, torch.optim.Adam, 1e-3)
    assert max(momentum, adam) < 0.75 * sgd
    assert 0.5 < accuracy < 0.75
