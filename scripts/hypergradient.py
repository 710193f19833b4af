"""Learn the learning rate and the momentum of SGD by differentiating through twenty of its steps.

``differentiable=True`` lets autograd see a step, so the loss at the end of a run is a function of the hyper-parameters
with which it was made (Maclaurin et al. 2015, https://arxiv.org/abs/1502.03492).
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import mse_loss

import optizoo


def problem() -> tuple[nn.Module, Tensor, Tensor]:
    """Return a small model with inputs and targets, in float64."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    with torch.no_grad():
        for param in model.parameters():
            param.copy_(torch.randn(param.shape, generator=generator, dtype=torch.float64) / 2)
    inputs = torch.randn(64, 4, generator=generator, dtype=torch.float64)
    return model, inputs, inputs.prod(1, keepdim=True)


def loss_after(lr: Tensor, momentum: Tensor, steps: int = 20) -> Tensor:
    """Return the loss after ``steps`` updates of SGD, a differentiable function of lr and momentum."""
    model, inputs, targets = problem()
    # Clones are no leaves, so autograd lets a step write into them.
    weights = {name: param.detach().clone().requires_grad_(True).clone() for name, param in model.named_parameters()}
    optimizer = optizoo.Momentum([*weights.values()], lr=lr, momentum=0.9, differentiable=True)
    optimizer.param_groups[0]["momentum"] = momentum
    for _ in range(steps):
        copies = {name: weight.clone() for name, weight in weights.items()}  # the step writes into the weights
        loss = mse_loss(functional_call(model, copies, (inputs,)), targets)
        grads = torch.autograd.grad(loss, [*weights.values()], create_graph=True)
        for weight, grad in zip(weights.values(), grads, strict=True):
            weight.grad = grad
        optimizer.step()
    return mse_loss(functional_call(model, weights, (inputs,)), targets)


def main() -> None:
    """Descend on the two hyper-parameters, in coordinates in which they stay in their range."""
    raw = torch.tensor([-5.0, 0.0], dtype=torch.float64, requires_grad=True)  # log lr, logit momentum
    outer = optizoo.Adam([raw], lr=0.2)
    for update in range(31):
        outer.zero_grad()
        lr, momentum = raw[0].exp(), raw[1].sigmoid()
        loss = loss_after(lr, momentum)
        loss.backward()
        if update % 5 == 0:
            print(f"update {update:2}: lr {lr.item():.4f}, momentum {momentum.item():.3f}, loss {loss.item():.4f}")
        outer.step()


if __name__ == "__main__":
    main()
