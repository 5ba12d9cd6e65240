"""What each process of tests/test_devices.py runs, alone or under torchrun: steps and predictions of a tiny training.

python tests/distributed_worker.py OUT.npz BATCH_SIZE [BROKEN [NORMS]]

NORMS: without it BatchNorm is as in evaluation. `device` or `synchronised`: it is as in training, of each process or of
all; then one step is taken, and the running statistics are found, too. `frozen`: as with that recipe key; 20 steps.
"""

import sys

import numpy as np
import torch
from torch.distributed.nn.functional import all_reduce
from torch.nn import functional as F

from psla.data.clips import Clips
from psla.data.source import open_source
from psla.synth.scene import SoundscapeConfig, table, vocabulary
from psla.training.batch_norm import freeze
from psla.training.devices import Runtime, open_fabric, predict_together
from psla.training.loader import Loader
from psla.training.recipe import Recipe
from psla.training.session import build_network
from psla.training.trainer import Trainer

CLIPS = 7  # to predict: not a multiple of the processes


def tiny(batch_size: int, batch_norm: str = "device", epochs: int = 3) -> Recipe:
    return Recipe.from_dict(
        {
            "front_end": {"frames": 64, "mel_bins": 32},
            "backbone": {"name": "efficientnet_lite0", "drop_connect": 0.0, "batch_norm": batch_norm},
            "pooling": {"heads": 2},
            "masking": {"frequency": 12, "time": 16},
            "optimizer": {"batch_size": batch_size, "epochs": epochs, "warmup_steps": 0},
            "averaging": {"first_epoch": 1},
        }
    )


class OfAllProcesses(torch.nn.modules.batchnorm._BatchNorm):
    """What `torch.nn.SyncBatchNorm` computes, from its definition, for processes on CPUs, where torch refuses it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        count = x.numel() / x.shape[1] * torch.ones((), dtype=x.dtype)
        sums = torch.cat([x.sum((0, 2, 3)), (x**2).sum((0, 2, 3)), count[None]])
        mean, square, count = all_reduce(sums).split([x.shape[1], x.shape[1], 1])
        mean, square = mean / count, square / count
        variance = square - mean**2
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        factor = self.weight / torch.sqrt(variance + self.eps)
        return x * factor[:, None, None] + (self.bias - mean * factor)[:, None, None]


def of_all_processes(network: torch.nn.Module) -> torch.nn.Module:
    """The network as torch converts it, with norms that run on a CPU in the place of its own."""
    network = torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)
    norms = [module for module in network.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    assert len(norms) > 40
    for norm in norms:
        assert type(norm) is torch.nn.SyncBatchNorm
        norm.__class__ = OfAllProcesses
    return network


def run(out: str, batch_size: int, broken: str = "", norms: str = "") -> None:
    torch.set_num_threads(1)
    recipe = tiny(batch_size)
    rows = table(SoundscapeConfig(seconds=0.3, clips=20), "train")
    for index in [int(i) for i in broken.split(",") if i]:
        rows[index] = {**rows[index], "path": "absent.wav"}
    clips = Clips.from_rows(rows, vocabulary())
    fabric = open_fabric(Runtime(accelerator="cpu"), "float64")
    network, _ = build_network(recipe, clips.vocabulary)
    if norms == "synchronised":
        network = of_all_processes(network)
    wrapped, optimizer = fabric.setup(network, torch.optim.SGD(network.parameters(), lr=0.02))
    loader = Loader(open_source(clips, 16000), network.config.front_end.window_samples)
    trainer = Trainer(recipe, wrapped, optimizer, fabric, clips.labels(), loader)
    gradients, steps, losses, most_steps = None, 0, [], 1 if norms in ("device", "synchronised") else 20
    for epoch in range(20):
        for batch in loader.batches(trainer.plan(epoch), batch_size, fabric.global_rank, fabric.world_size):
            # BatchNorm as it is in evaluation: a clip does not depend on its neighbours.
            wrapped.train(bool(norms))
            if norms == "frozen":
                freeze(wrapped)
            losses.append(trainer.train_step(batch, epoch))
            if gradients is None:
                gradients = {
                    f"gradient.{n}": p.grad.clone() for n, p in network.named_parameters() if p.grad is not None
                }
            steps += 1
            if steps == most_steps:
                break
        if steps == most_steps:
            break
    weights = {f"weight.{name}": parameter.detach().clone() for name, parameter in network.named_parameters()}
    if norms:
        weights = {f"statistics.{name}": value.clone() for name, value in network.named_buffers() if "running" in name}
    network.float()  # predictions are float32
    held_out = Clips.from_rows(table(SoundscapeConfig(seconds=0.3, clips=CLIPS), "evaluation"), vocabulary())
    found = predict_together(
        fabric, network, open_source(held_out, 16000), held_out.vocabulary, "evaluation"
    ).predictions
    if fabric.is_global_zero:
        arrays = {name: tensor.numpy() for name, tensor in [*weights.items(), *(gradients or {}).items()]}
        np.savez(
            out,
            losses=np.array(losses),
            ids=np.array(found.clip_ids),
            probabilities=found.probabilities,
            **arrays,
        )


if __name__ == "__main__":
    run(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
