"""Muon for matrices, AdamW for all else.

Muon (Jordan et al., 2024) replaces the momentum of a weight matrix by the nearest matrix with orthonormal rows or
columns; scaled as in Liu et al. (2025), eq. 4, its steps are as large as those of AdamW at the same learning rate.
"""

import torch

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # the odd polynomial that Jordan et al. iterate
ITERATIONS = 5


def orthogonal(matrix):
    """Approximates U V^T of the singular value decomposition of a matrix by Newton-Schulz iterations."""
    a, b, c = NEWTON_SCHULZ
    x = matrix.bfloat16()
    wide = x.shape[0] > x.shape[1]
    x = x.T if wide else x
    x = x / (x.norm() + 1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return (x.T if wide else x).to(matrix.dtype)


class MuonAdamW(torch.optim.Optimizer):
    """Groups with "muon": True hold weights of two or more dimensions; the others are left to AdamW."""

    def __init__(self, groups, momentum=0.95, betas=(0.9, 0.98), weight_decay=0.01):
        super().__init__(groups, {"lr": 1e-3, "muon": False, "momentum": momentum, "weight_decay": weight_decay})
        rest = [group for group in self.param_groups if not group["muon"]]
        self.adam = torch.optim.AdamW([{"params": g["params"], "lr": g["lr"]} for g in rest], betas=betas,
                                      weight_decay=weight_decay, fused=True)  # fmt: skip

    @torch.no_grad()
    def step(self, closure=None):
        rest = [group for group in self.param_groups if not group["muon"]]
        for own, given in zip(self.adam.param_groups, rest, strict=True):
            own["lr"] = given["lr"]
        self.adam.step()
        for group in self.param_groups:
            if group["muon"]:
                for p in group["params"]:
                    self.step_matrix(p, group)

    def step_matrix(self, p, group):
        if p.grad is None:
            return
        held = self.state[p].setdefault("momentum", torch.zeros_like(p))
        held.lerp_(p.grad, 1 - group["momentum"])
        update = p.grad.lerp(held, group["momentum"]).reshape(len(p), -1)
        scale = 0.2 * max(update.shape) ** 0.5
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.add_(orthogonal(update).view(p.shape), alpha=-group["lr"] * scale)

    def zero_grad(self, set_to_none=True):
        super().zero_grad(set_to_none)

    def state_dict(self):
        return {"muon": super().state_dict(), "adam": self.adam.state_dict()}

    def load_state_dict(self, state):
        super().load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])
