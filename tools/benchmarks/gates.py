"""S2AM2's sparse gate, scaling and residual in a trained model: whether the gate is saturated.

    python -m tools.benchmarks.gates MODEL_FOLDER SHARD_FOLDER [--fold 5]

The gate M_t = sigmoid(MLP(h_{t-1})) and the residual sigmoid(W_r h) * relu(U_r h) of equations (2)
to (5) follow from the states h that S2AM2 returns, so they are computed from those, over the test
clips of the fold.
"""

import argparse
from pathlib import Path

import torch

from safe.models.safe import S2AM2Cell
from safe.saved import load_model
from safe.shards.folder import open_shards
from safe.shards.loader import load_batches
from safe.shards.order import in_order
from safe.training.transforms import center_crop, normalize


@torch.inference_mode()
def main() -> None:
    """Print one line a direction of time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("shards", type=Path)
    parser.add_argument("--fold", type=int, default=5)
    args = parser.parse_args()
    model, info = load_model(args.model)
    states: list[torch.Tensor] = []
    model.temporal.register_forward_hook(lambda _, __, found: states.append(found))
    folder = open_shards(args.shards)
    for batch in load_batches(folder, in_order(folder.split(args.fold)[1], 32), workers=0):
        model(normalize(center_crop(batch["faces"], info["crop"])))
    ahead, back = torch.cat(states).chunk(2, dim=2)  # [n, N, hidden]
    for name, cell, h in (
        ("forward", model.temporal.ahead, ahead),
        ("backward", model.temporal.back, back.flip(1)),
    ):
        print(f"{name}: {describe(cell, h[:, :-1].flatten(0, 1))}")


def describe(cell: S2AM2Cell, h: torch.Tensor) -> str:
    """Say what the gate, the scaling and the residual of a cell do after states h [n, hidden]."""
    hidden = (h @ cell.mlp_weight_1.T + cell.mlp_bias_1).relu()
    gate = (hidden @ cell.mlp_weight_2.T + cell.mlp_bias_2).sigmoid()
    residual = (h @ cell.w_r.T).sigmoid() * (h @ cell.u_r.T).relu()
    quantiles = torch.quantile(gate.flatten()[:1_000_000], torch.tensor([0.05, 0.5, 0.95]))
    low, middle, high = quantiles.tolist()
    shares = [
        (gate < 0.1).float().mean(),
        (gate > 0.9).float().mean(),
        (residual == 0).float().mean(),
    ]
    closed, opened, silent = (f"{share:.1%}" for share in shares)
    return (
        f"gate M 5 % {low:.2f}, median {middle:.2f}, 95 % {high:.2f}, below 0.1: {closed}, "
        f"above 0.9: {opened}; w_a {cell.w_a.min():.2f} to {cell.w_a.max():.2f}, mean "
        f"{cell.w_a.mean():.2f}; residual mean {residual.mean():.3f}, zero in {silent}"
    )


if __name__ == "__main__":
    main()
