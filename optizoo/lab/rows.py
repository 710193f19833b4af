"""The schema of records: what stands in each event, as types that reading checks and ``docs/records.md`` shows.

A key that is not listed is kept as it is: tools may add their own.
"""

from typing import Annotated, Any, Required, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter
from typing_extensions import TypedDict  # pydantic cannot read that of Python 3.11

__all__ = ["EVENTS", "SCHEMA", "Digests", "Epoch", "Result", "Resume", "Start", "Trial", "Twin", "markdown"]

SCHEMA = 2  # 1: records without "schema" and "digests"

_OPEN = ConfigDict(extra="allow")


class Digests(TypedDict, total=False):
    """What tells one result's origin from another's."""

    config: Annotated[str | None, "ten hexadecimal digits of the config, without what does not change the result"]
    code: Annotated[str, "version of optizoo and commit of its checkout, `+` behind it where files differ"]
    data: Annotated[str | None, "sha256 of the images and labels of all splits"]


class Start(TypedDict, total=False):
    """The first event."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    schema: Annotated[int, "version of this schema; 1 where it is left out"]
    digests: Annotated[Digests, "of config, code and data"]
    config: Required[Annotated[dict[str, Any], "the config, all defaults written out"]]
    environment: Required[Annotated[dict[str, Any], "versions, machine, device, threads, commit, date, population"]]
    dataset: Required[Annotated[dict[str, Any], "name, source, digest, and sizes of train, validation and test"]]


class Epoch(TypedDict, total=False):
    """The end of an epoch. Losses and accuracies are `null` where they are not finite, or were not measured."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    epoch: Required[Annotated[int, "epochs that have ended"]]
    step: Required[Annotated[int, "updates made"]]
    train_loss: Annotated[float | None, "mean over the epoch's batches, without the penalty"]
    penalty: Annotated[float | None, "the penalty at the end of the epoch"]
    validation_loss: Annotated[float | None, "mean over the validation images"]
    validation_accuracy: Annotated[float | None, "fraction of the validation images"]
    test_accuracy: Annotated[float | None, "fraction of the test images, which are looked at once, when the run ends"]
    lr: Annotated[list[float | None], "learning rate of each group, for the next update"]
    seconds: Annotated[float, "training time so far, evaluation left out"]


class Resume(TypedDict, total=False):
    """The run went on after an interruption. Epochs behind that step are void and come again."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    step: Required[Annotated[int, "updates that had been made"]]


class Result(TypedDict, total=False):
    """How the run ended: the last event of the training itself."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    status: Annotated[str, "`finished`, `max_steps`, `tolerance` or `diverged`"]
    steps: Annotated[int, "updates made"]
    final_loss: Annotated[float | None, "`train_loss` of the last epoch"]
    test_accuracy: Annotated[float | None, "at the end"]
    validation_accuracy: Annotated[float | None, "at the end"]
    best_validation_accuracy: Annotated[float | None, "the largest of all epochs"]
    seconds: Annotated[float, "training time, evaluation left out"]
    loss_digest: Annotated[str, "sha256 of the losses of all steps, as raw bytes"]
    steps_losses_every: Annotated[int, "every so many steps, a loss is in `losses`"]
    losses: Annotated[list[float | None], "losses of the batches, before their updates"]


class Twin(TypedDict, total=False):
    """A comparison held the run against its twin in `torch.optim`."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    losses_identical: Annotated[bool, "whether the losses of all steps are the same, bit for bit"]
    max_param_difference: Annotated[
        float | None, "largest difference of a parameter at the end; `null` where it is not finite"
    ]
    loops_identical: Annotated[
        bool, "whether the loops of both, run beside them, made the same steps, bit for bit; where other backends ran"
    ]
    loops_steps: Annotated[int, "updates of these loops"]


class Trial(TypedDict, total=False):
    """A run of a sweep; they stand in the sweep's `trials.jsonl`, behind no start event."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    phase: Required[Annotated[str, "`tuning`, or `rerun` of a winner from a new seed"]]
    optimizer: Required[Annotated[str, "label of the optimizer"]]
    index: Required[Annotated[int, "number of the point in the optimizer's search space, from 0"]]
    seed: Required[Annotated[int, "seed of the run"]]
    point: Required[Annotated[dict[str, Any], "the values that were searched, by their dotted names"]]
    digests: Annotated[Digests, "of config, code and data"]
    environment: Annotated[dict[str, Any], "as in the start event"]
    epochs: Annotated[list[Epoch], "as in the epoch events"]
    result: Required[Annotated[Result, "as in the result event, without its losses"]]
    step_seconds: Annotated[float | None, "time of an update of the run alone; of the first rerun"]


EVENTS: dict[str, Any] = {
    "start": Start,
    "epoch": Epoch,
    "resume": Resume,
    "result": Result,
    "twin": Twin,
    "trial": Trial,
}
CHECKS = {name: TypeAdapter(kind) for name, kind in EVENTS.items()}


def markdown() -> str:
    """Return the schema as tables for the documentation: a section for each event.

    >>> print(markdown()[:9])
    ## start
    """
    parts = []
    for name, kind in [*EVENTS.items(), ("digests", Digests)]:
        lines = [f"## {name}", "", " ".join(kind.__doc__.split()), "", "| key | type | meaning |", "|---|---|---|"]
        for key, hint in get_type_hints(kind, include_extras=True).items():
            if get_origin(hint) is Required:
                (hint,) = get_args(hint)
            of, meaning = get_args(hint)
            lines.append(f"| `{key}` | {_words(of)} | {meaning} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _words(kind: Any) -> str:
    names = {int: "integer", float: "number", str: "text", bool: "true or false", type(None): "null"}
    if kind in names:
        return names[kind]
    arguments = get_args(kind)
    if get_origin(kind) is list:
        return f"list of {_words(arguments[0])}"
    if get_origin(kind) is dict or not arguments:
        return "table"
    return " or ".join(map(_words, arguments))
