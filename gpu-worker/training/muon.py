"""Muon (momentum, then the nearest orthogonal matrix by Newton-Schulz steps) for matrices and convolution kernels, which
learn in fewer steps so than with Adam; all other parameters are left to AdamW."""
import torch


def orthogonal(m: torch.Tensor, steps: int = 5) -> torch.Tensor:
    x = (m / (m.norm() + 1e-7)).bfloat16()
    is_tall = x.shape[0] > x.shape[1]
    x = x.T if is_tall else x
    for _ in range(steps):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return (x.T if is_tall else x).to(m.dtype)


class Muon(torch.optim.Optimizer):
    def __init__(self, params, lr: float, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                buffer = state.setdefault("momentum", torch.zeros_like(p))
                buffer.lerp_(p.grad, 1 - group["momentum"])
                update = orthogonal(p.grad.lerp(buffer, group["momentum"]).flatten(1)).view_as(p)
                rows, columns = p.flatten(1).shape
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)


def split(named_parameters, is_matrix) -> tuple[list, list]:
    matrices, others = [], []
    for name, p in named_parameters:
        (matrices if is_matrix(name, p) else others).append(p)
    return matrices, others
