"""Checkpoints: in torch's form, checked before anything changes, sharing no tensor."""

import sys
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from optizoo.core import loading
from optizoo.core.names import did_you_mean
from optizoo.core.state import StatefulOptimizer, counted, counts_on_device, share_equal

# What belongs to an option: kept together where a checkpoint is loaded.
_KEPT_WITH = {
    "lr": ("initial_lr", "max_lr", "min_lr"),
    "weight_decay_mode": ("decoupled_weight_decay", "max_lr"),
    "decoupled_weight_decay": ("weight_decay_mode",),
}

# How a step is executed, not what it computes: a checkpoint does not change these.
EXECUTION_OPTIONS = ("foreach", "fused")


class CheckpointedOptimizer(StatefulOptimizer):
    """A :class:`StatefulOptimizer` that saves and loads."""

    def state_dict(self) -> dict[str, Any]:
        """Return a checkpoint in torch's form. Counters that parameters share on a device are separate in it."""
        saved = super().state_dict()
        seen = set()
        for key, store in saved.get("state", {}).items():  # hooks may have changed the layout
            if not isinstance(store, Mapping):  # what its owner keeps beside the parameters
                continue
            counters = {name: store[name] for name in ("step", *self.numbers) if name in store}
            if isinstance(step := counters.get("step"), Tensor) and id(step) in seen:
                saved["state"][key] = {**store, **{name: value.clone() for name, value in counters.items()}}
            seen.add(id(step))
        return saved

    @torch._disable_dynamo  # pyright: ignore[reportPrivateImportUsage]
    def load_state_dict(self, state_dict: dict[str, Any], *, keep: Collection[str] = ()) -> None:
        """Load a checkpoint of this class or of its torch namesake; see :meth:`__setstate__` for what is kept.

        Where groups have names (``model.named_parameters()``) in the checkpoint and here, states find their parameters
        by name, in whatever order they were saved; else by position. States keep their type, and no tensor is shared
        with the checkpoint. All is checked first: where this raises, nothing has changed.

        Args:
            state_dict: The checkpoint.
            keep: Options that stay as they are here, such as ``("lr", "weight_decay")``. With ``"lr"`` stays what
                schedulers keep beside it: ``initial_lr``, ``max_lr``, ``min_lr``.

        Raises:
            TypeError: An option in the checkpoint has the wrong type.
            ValueError: The checkpoint is of another class or model; an option is out of range or unknown; or ``keep``
                names none. The message names the parameter or the option.
        """
        known = {*self._common_checks, *self.checks}
        for name in keep:
            if name not in known:
                raise ValueError(f"keep = {name!r} is no option of {type(self).__name__}; {did_you_mean(name, known)}")
        kept = {name for option in keep for name in (option, *_KEPT_WITH.get(option, ()))}
        state_dict = {**state_dict}
        for hook in self._optimizer_load_state_dict_pre_hooks.values():
            changed = hook(self, state_dict)
            state_dict = state_dict if changed is None else changed
        saved_groups = state_dict["param_groups"]
        owners = loading.matched(saved_groups, self.param_groups)
        needed = self.defaults.keys() - self.neutral_options().keys() - self._common_checks.keys()
        groups = []
        for index, (saved, group) in enumerate(zip(map(deepcopy, saved_groups), self.param_groups, strict=True)):
            where = f"{type(self).__name__}, loaded param group {index}"
            loading.check_same_class(saved, known | group.keys() | self._keys_of_others(saved), needed, owner=where)
            own = {name: group[name] for name in {"params", "param_names", *kept} & group.keys()}
            groups.append({**{name: value for name, value in saved.items() if name not in kept}, **own})
        state: defaultdict[Any, Any] = defaultdict(dict)
        for key, store in state_dict["state"].items():
            if key in owners:
                state[owners[key]] = store  # copied where it is checked
            else:
                state[key] = deepcopy(store)
        self.__setstate__({"state": state, "param_groups": groups})
        for hook in self._optimizer_load_state_dict_post_hooks.values():
            hook(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over groups and state; unpickling, ``deepcopy`` and ``load_state_dict`` all end here.

        A part that ``state`` leaves out stays as it is. All is checked before anything changes. Options that an older
        checkpoint or torch's does not have get the constructor's values, or the neutral ones where torch lacks them;
        ``foreach`` and ``fused`` stay as they are in this optimizer; tensors are never shared with the checkpoint.

        Raises:
            TypeError: An option in the checkpoint has the wrong type.
            ValueError: An option in the checkpoint is out of range or unknown.
        """
        is_load = "param_groups" in self.__dict__
        state = {**state}
        if "param_groups" in state:
            state["param_groups"] = self._loaded_groups(state["param_groups"], state.get("defaults"))
        if is_load and "state" in state:
            self._adopt(state["state"], state.get("param_groups", self.param_groups))
        super().__setstate__(state)
        self.forget()

    def _loaded_groups(
        self, saved_groups: Sequence[Mapping[str, Any]], saved_defaults: Mapping[str, Any] | None
    ) -> list[dict[str, Any]]:
        """Return loaded groups, checked, with the options that they lack."""
        is_load = "param_groups" in self.__dict__
        defaults = self.defaults if is_load or saved_defaults is None else saved_defaults
        groups = []
        for index, saved in enumerate(saved_groups):
            # A group that comes with its optimizer may have keys of its owner, and so may one that is loaded again.
            present = self.param_groups[index] if is_load else saved
            execution = {name: self.complete(present)[name] for name in EXECUTION_OPTIONS}
            where = f"{type(self).__name__}, loaded param group {index}"
            missing = {
                name: value for name, value in defaults.items() if name in saved or name not in self.neutral_options()
            }
            groups.append(self._checked({**missing, **saved, **execution}, where=where, known=present, loading=True))
        return groups

    def _adopt(self, loaded: dict[Any, Any], groups: Sequence[Mapping[str, Any]]) -> None:
        """Check all loaded stores, then put copies in their places, one after the other.

        What this optimizer holds of a parameter is dropped before its copy is made, so that both are never there.
        """
        found = [(group, param) for group in groups for param in group["params"] if param in loaded]
        named = loading.labels(groups)
        for group, param in found:
            self._check_store(loaded[param], param, group, named[param])
        self.forget()  # a plan holds states
        old = self.state if _is_held_once(self, "state") else {}
        for group, param in found:
            old.pop(param, None)
            loaded[param] = self._adopted(loaded[param], param, group)
        for group in groups:
            on_device = [param for param in group["params"] if param in loaded and counts_on_device(group, param)]
            share_equal([loaded[param] for param in on_device], ("step", *self.numbers))

    def _check_store(self, store: Mapping[str, Any], param: Tensor, own: Mapping[str, Any], label: str) -> None:
        group = self.complete(own)
        rule = self.select_rule(group)
        states, zeros, made = self._sorted_states(rule, group)
        # States that an option switches on may be new here; they start now.
        needed = [name for name in zeros if name not in self.state_switches]
        if needed and self.counts_steps:
            needed.append("step")
        counters = ("step", *self.numbers)
        shapes: dict[str, Any] = dict.fromkeys(states, param.shape)
        if isinstance(store, Mapping) and any(isinstance(store.get(name), Tensor) for name in made):
            shapes |= dict.fromkeys(made, ()) | self._made_shapes(rule, group, param)
        loading.check_state(store, param, shapes, needed, counters, label=label, owner=type(self).__name__)

    def _adopted(self, store: Mapping[str, Any], param: Tensor, group: Mapping[str, Any]) -> dict[str, Any]:
        """Return a copy of a loaded store on the device of ``param``; counters where this group wants them."""
        adopted = {
            name: value.to(param.device, copy=True) if isinstance(value, Tensor) else deepcopy(value)
            for name, value in store.items()
        }
        device = param.device if counts_on_device(group, param) else "cpu"
        for name in {"step", *self.numbers} & adopted.keys():
            value = store[name]
            if isinstance(value, Tensor):
                # torch may have cast all but the step to the type of the parameter.
                dtype = value.dtype if name == "step" else self._number_dtype()
                adopted[name] = value.detach().reshape(()).to(device, dtype, copy=True)
            else:
                adopted[name] = counted(value, device, None if name == "step" else self._number_dtype())
        return adopted


def _is_held_once(owner: Any, name: str) -> bool:
    """Return whether nobody but ``owner`` holds an attribute; judged against one that nobody else can hold."""
    alone = CheckpointedOptimizer.__new__(CheckpointedOptimizer)
    alone.__dict__[name] = {}
    return sys.getrefcount(owner.__dict__[name]) <= sys.getrefcount(alone.__dict__[name])
