"""Models of one shape, stacked: forward, loss and backward are one product for all of them.

The parameters of every model become slices of one tensor, and their gradients slices of another, so that optimizers of
any kind update them where they are. What a model computes depends on its own slices alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax

from optizoo.lab.data import Batches
from optizoo.lab.models import Linear, TwoLayer


class Stack(ABC):
    """Models that train together.

    Args:
        models: At least one, of one kind and shape. Their parameters move into the stack, with gradients beside them.
        l1: Strength of the penalty of each; see :func:`~optizoo.lab.train.objective.penalty`.
        l2: Likewise.
        generators: For each what its dropout draws from.
    """

    def __init__(
        self, models: Sequence[nn.Module], l1: Sequence[float], l2: Sequence[float], generators: Sequence[Generator]
    ) -> None:
        self.models = models
        self.generators = generators
        self.params: list[Tensor] = []
        self.grads: list[Tensor] = []
        self._rooms: dict[str, Tensor] = {}
        for same in zip(*(model.parameters() for model in models), strict=True):
            values = torch.stack([param.detach() for param in same])
            grads = torch.zeros_like(values)
            for param, value, grad in zip(same, values, grads, strict=True):
                param.data, param.grad = value, grad
            self.params.append(values)
            self.grads.append(grads)
        weight = self.params[0]
        self.l1, self.l2 = (weight.new_tensor(each).view(-1, 1, 1) if any(each) else None for each in (l1, l2))

    @abstractmethod
    def scores(self, images: Tensor, *, training: bool) -> Tensor:
        """Return the scores of every model: (b, models, classes)."""

    @abstractmethod
    def spread(self, images: Tensor, slopes: Tensor) -> None:
        """Make the gradients of all parameters from those of the last scores."""

    def losses(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross-entropy of every model on a batch, and get ready for :meth:`backward`."""
        logs = log_softmax(self.scores(images, training=True), -1)
        rows = labels.view(-1, 1, 1).expand(-1, logs.shape[1], 1)
        self._batch = images, logs, rows
        return -logs.gather(2, rows).mean(0).flatten()

    def backward(self) -> None:
        """Make the gradients of all models on the batch of :meth:`losses`, penalties included."""
        images, logs, rows = self._batch
        slopes = logs.exp_()  # of the sum over all models: softmax less the label, for each alone
        slopes.scatter_add_(2, rows, slopes.new_full((), -1.0).expand(rows.shape)).div_(len(images))
        self.spread(images, slopes)
        for param, grad in zip(self.params, self.grads, strict=True):
            if param.dim() > 2 and self.l1 is not None:
                grad.addcmul_(param.sign(), self.l1)
            if param.dim() > 2 and self.l2 is not None:
                grad.addcmul_(param, self.l2, value=2.0)

    def penalties(self) -> Tensor | None:
        """Return the penalty of every model; ``None`` where all are zero for certain."""
        if self.l1 is None and self.l2 is None:
            return None
        total = self.params[0].new_zeros(len(self.models))
        for param in self.params:
            if param.dim() > 2 and self.l1 is not None:
                total += (self.l1 * param.abs()).sum((1, 2))
            if param.dim() > 2 and self.l2 is not None:
                total += (self.l2 * param.square()).sum((1, 2))
        return total

    def evaluate(self, batches: Batches) -> list[tuple[float, float]] | list[tuple[None, None]]:
        """Return of every model what :func:`~optizoo.lab.train.evaluation.evaluate` does."""
        count, models = len(batches.split), len(self.models)
        if not count:
            return [(None, None)] * models
        total, correct = self.params[0].new_zeros((2, models), dtype=torch.float64)
        for images, labels in batches.sequential():
            scores = self.scores(images, training=False)
            all_labels = labels.view(-1, 1).expand(-1, models)
            losses = cross_entropy(scores.flatten(0, 1), all_labels.flatten(), reduction="none").view(-1, models)
            total += losses.sum(0)
            correct += (scores.argmax(2) == all_labels).sum(0)
        return list(zip((total / count).tolist(), (correct / count).tolist(), strict=True))

    def room(self, name: str, *shape: int) -> Tensor:
        """Return memory that is written anew at every step: fresh memory would cost page faults."""
        found = self._rooms.get(name)
        if found is None or found.shape != shape:
            found = self._rooms[name] = self.params[0].new_empty(shape)
        return found


class LinearStack(Stack):
    """Softmax classifiers: one product with all weights."""

    def scores(self, images: Tensor, *, training: bool) -> Tensor:  # noqa: ARG002
        """Return the scores of every model: (b, models, classes)."""
        weight, bias = self.params
        scores = self.room("scores", len(images), bias.numel())
        torch.addmm(bias.flatten(), images, weight.flatten(0, 1).T, out=scores)
        return scores.view(len(images), *bias.shape)

    def spread(self, images: Tensor, slopes: Tensor) -> None:
        """Make the gradients of weights and biases."""
        weight, bias = self.grads
        torch.mm(slopes.flatten(1).T, images, out=weight.flatten(0, 1))
        torch.sum(slopes, 0, out=bias)


class TwoLayerStack(Stack):
    """Networks with one hidden layer: one product with all first layers, and one of each with its second."""

    def scores(self, images: Tensor, *, training: bool) -> Tensor:
        """Return the scores of every model: (b, models, classes)."""
        weight, bias, output, output_bias = self.params
        hidden = self.room("hidden", len(images), bias.numel())
        torch.addmm(bias.flatten(), images, weight.flatten(0, 1).T, out=hidden).relu_()
        self._active = hidden.view(len(images), *bias.shape).transpose(0, 1)
        self._kept = self._drawn(self._active.shape) if training else None
        if self._kept is not None:
            self._active.mul_(self._kept)
        return torch.baddbmm(output_bias.unsqueeze(1), self._active, output.transpose(1, 2)).transpose(0, 1)

    def spread(self, images: Tensor, slopes: Tensor) -> None:
        """Make the gradients of both layers."""
        weight, bias, output, output_bias = self.grads
        slopes = slopes.transpose(0, 1)
        torch.bmm(slopes.transpose(1, 2), self._active, out=output)
        torch.sum(slopes, 1, out=output_bias)
        back = torch.bmm(slopes, self.params[2], out=self.room("back", *self._active.shape))
        if self._kept is not None:
            back.mul_(self._kept)
        inner = self.room("inner", len(images), *bias.shape)  # images first, as the one product wants it
        torch.mul(back.transpose(0, 1), (self._active > 0).transpose(0, 1), out=inner)
        torch.mm(inner.flatten(1).T, images, out=weight.flatten(0, 1))
        torch.sum(inner, 0, out=bias)

    def _drawn(self, shape: torch.Size) -> Tensor | None:
        """Return what dropout multiplies by, as every model alone would draw it; ``None`` without dropout."""
        model = self.models[0]
        assert isinstance(model, TwoLayer)
        keep = 1 - model.dropout.p
        if keep == 1:
            return None
        kept = self.room("kept", *shape)
        for own, generator in zip(kept, self.generators, strict=True):
            own.bernoulli_(keep, generator=generator)
        return kept.div_(keep)


STACKS: dict[type[nn.Module], type[Stack]] = {Linear: LinearStack, TwoLayer: TwoLayerStack}
"""The kinds of models that can be stacked."""
