"""Loading a checkpoint: which saved entry belongs to which parameter, and whether it can be its state."""

from collections.abc import Collection, Mapping, Sequence
from numbers import Real
from typing import Any

from torch import Tensor

Group = Mapping[str, Any]


def labels(groups: Sequence[Group]) -> dict[Tensor, str]:
    """Return for every parameter how messages call it: by its name if it has one, else by its place."""
    found = {}
    for index, group in enumerate(groups):
        names = group.get("param_names", ())
        for place, param in enumerate(group["params"]):
            name = f"parameter {names[place]!r}" if place < len(names) else f"parameter {place}"
            found[param] = f"{name} of group {index}"
    return found


def matched(saved_groups: Sequence[Group], groups: Sequence[Group]) -> dict[Any, Tensor]:
    """Return for every key of the checkpoint the parameter that it belongs to.

    Where a group has names in the checkpoint and in the optimizer, each name once, names decide; else the order does.

    Raises:
        ValueError: Groups, parameters or names do not match.
    """
    if len(saved_groups) != len(groups):
        raise ValueError(
            f"loaded state dict has a different number of parameter groups: {len(saved_groups)}, "
            f"the optimizer has {len(groups)}; give it the groups that it was saved with"
        )
    owners: dict[Any, Tensor] = {}
    for index, (saved, group) in enumerate(zip(saved_groups, groups, strict=True)):
        keys, params = saved["params"], group["params"]
        saved_names, names = saved.get("param_names"), group.get("param_names")
        if saved_names and names and set(saved_names) != set(names):  # one of the two may have been wrapped
            plain = [[*map(unwrapped, each)] for each in (saved_names, names)]
            saved_names, names = plain if all(map(_distinct, plain)) else (saved_names, names)
        if saved_names and names and _distinct(saved_names) and _distinct(names):
            _require_same_names(saved_names, names, index)
            places = dict(zip(saved_names, keys, strict=True))
            keys = [places[name] for name in names]
        elif len(keys) != len(params):
            raise ValueError(
                f"loaded state dict contains a parameter group that doesn't match the size of optimizer's group: "
                f"group {index} has {len(keys)} parameters in the checkpoint and {len(params)} here"
            )
        owners |= zip(keys, params, strict=True)
    return owners


def unwrapped(name: str) -> str:
    """Return the name of a parameter without what DistributedDataParallel and torch.compile put into it.

    >>> unwrapped("module._orig_mod.layer.module.weight")
    'layer.module.weight'
    """
    parts = [part for part in name.split(".") if part != "_orig_mod"]
    while parts[0] == "module" and len(parts) > 1:
        parts = parts[1:]
    return ".".join(parts)


def _distinct(names: Sequence[str]) -> bool:
    return len(set(names)) == len(names)


def _require_same_names(saved: Sequence[str], names: Sequence[str], index: int) -> None:
    there_is, here_is = set(saved), set(names)
    for missing, here, there in (
        ([name for name in names if name not in there_is], "optimizer", "checkpoint"),
        ([name for name in saved if name not in here_is], "checkpoint", "optimizer"),
    ):
        if missing:
            shown = ", ".join(map(repr, missing[:5])) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            raise ValueError(
                f"group {index} of the {here} has {shown}, which group {index} of the {there} lacks; "
                "load the checkpoint into the model that it was saved with"
            )


def check_same_class(saved: Group, known: Collection[str], needed: Collection[str], *, owner: str) -> None:
    """Raise ``ValueError`` where a saved group has options that ``owner`` does not know and lacks some that it needs.

    Either alone may be an older version, or a key of the checkpoint's owner; both together are another class.
    """
    foreign = sorted(str(name) for name in saved if name not in known)
    missing = sorted(name for name in needed if name not in saved)
    if foreign and missing:
        raise ValueError(
            f"the checkpoint is of another optimizer: it has {', '.join(foreign)} and lacks {', '.join(missing)}; "
            f"load it into the class that saved it ({owner})"
        )


def check_state(
    store: Any,
    param: Tensor,
    shapes: Mapping[str, Sequence[int] | None],
    needed: Collection[str],
    counters: Collection[str] = (),
    *,
    label: str,
    owner: str,
) -> None:
    """Raise ``ValueError`` unless a saved store can be the state of ``param``.

    Args:
        store: What was saved.
        param: The parameter.
        shapes: For every state that the optimizer knows the shape that it has here, or ``None`` if only the rule can
            tell: then it is one that can stand beside the parameter's.
        needed: Those that it cannot do without.
        counters: What is one number, as a tensor or, in old checkpoints, as it is.
        label: How messages call the parameter.
        owner: How they call the optimizer.
    """
    if not isinstance(store, Mapping):
        raise ValueError(f"the state of {label} is {store!r} and no dict; the checkpoint is damaged ({owner})")
    for name in counters:
        value = store.get(name, 0)
        if not isinstance(value, Real) if not isinstance(value, Tensor) else value.numel() != 1:
            raise ValueError(f"{name!r} of {label} is {value!r} and no number; the checkpoint is damaged ({owner})")
    missing = [name for name in needed if name not in store]
    foreign = [
        name for name, value in store.items() if isinstance(value, Tensor) and value.dim() and name not in shapes
    ]
    if missing and foreign:
        raise ValueError(
            f"the checkpoint is of another optimizer: its state of {label} has {', '.join(foreign)} and lacks "
            f"{', '.join(missing)}; load it into the class that saved it ({owner})"
        )
    if missing and len(missing) < len(needed):
        raise ValueError(f"the state of {label} lacks {', '.join(missing)}; the checkpoint is damaged ({owner})")
    for name, shape in shapes.items():
        value = store.get(name)
        if isinstance(value, Tensor) and not _has_shape(value, shape, param):
            expected = f"the parameter has {tuple(param.shape)}"
            if shape not in (None, param.shape):
                expected += f", whose state has {tuple(shape)}" if shape else " and no such state"
            raise ValueError(
                f"the state {name!r} of {label} has shape {tuple(value.shape)} in the checkpoint, {expected}; load the "
                f"checkpoint into the model that it was saved with ({owner})"
            )


def _has_shape(value: Tensor, shape: Sequence[int] | None, param: Tensor) -> bool:
    if shape is not None:
        return tuple(value.shape) == tuple(shape)
    sizes = zip(reversed(value.shape), reversed(param.shape), strict=False)
    return value.dim() <= param.dim() and all(size in (1, own) for size, own in sizes)
