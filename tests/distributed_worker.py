"""What each process of tests/test_devices.py runs, alone or under torchrun: steps and predictions of a tiny training.

python tests/distributed_worker.py OUT.npz BATCH_SIZE [BROKEN]
"""

import sys

import numpy as np
import torch

from psla.data.clips import Clips
from psla.data.source import open_source
from psla.synth.scene import SoundscapeConfig, table, vocabulary
from psla.training.devices import Runtime, open_fabric, predict_together
from psla.training.loader import Loader
from psla.training.recipe import Recipe
from psla.training.training import Trainer, build_network

CLIPS = 7  # to predict: not a multiple of the processes


def tiny(batch_size: int) -> Recipe:
    return Recipe.from_dict(
        {
            "front_end": {"frames": 64, "mel_bins": 32},
            "backbone": {"name": "efficientnet_lite0", "drop_connect": 0.0},
            "pooling": {"heads": 2},
            "masking": {"frequency": 12, "time": 16},
            "optimizer": {"batch_size": batch_size, "epochs": 3, "warmup_steps": 0},
            "averaging": {"first_epoch": 1},
        }
    )


def run(out: str, batch_size: int, broken: str) -> None:
    torch.set_num_threads(1)
    recipe = tiny(batch_size)
    rows = table(SoundscapeConfig(seconds=0.3, clips=20), "train")
    for index in [int(i) for i in broken.split(",") if i]:
        rows[index] = {**rows[index], "path": "absent.wav"}
    clips = Clips.from_rows(rows, vocabulary())
    fabric = open_fabric(Runtime(accelerator="cpu"), "float64")
    network, _ = build_network(recipe, clips.vocabulary)
    wrapped, optimizer = fabric.setup(network, torch.optim.SGD(network.parameters(), lr=0.02))
    loader = Loader(open_source(clips, 16000), network.config.front_end.window_samples)
    trainer = Trainer(recipe, wrapped, optimizer, fabric, clips.labels(), loader)
    gradients, steps, losses = None, 0, []
    for epoch in range(20):
        for batch in loader.batches(trainer.plan(epoch), batch_size, fabric.global_rank, fabric.world_size):
            wrapped.eval()  # BatchNorm as it is in evaluation: a clip does not depend on its neighbours
            losses.append(trainer.train_step(batch, epoch))
            if gradients is None:
                gradients = {
                    f"gradient.{n}": p.grad.clone() for n, p in network.named_parameters() if p.grad is not None
                }
            steps += 1
            if steps == 20:
                break
        if steps == 20:
            break
    weights = {f"weight.{name}": parameter.detach().clone() for name, parameter in network.named_parameters()}
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
    run(sys.argv[1], int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "")
