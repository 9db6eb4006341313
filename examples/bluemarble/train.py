"""Trains the demo's checkpoint from scratch: MiT-B0 on the Blue Marble west of 60 E.

    python -m examples.bluemarble.train [--threads N]

A band inside the training area is excluded and scored at the end: recipes are compared by it. A
step's crops and dropout depend on the seed and the step's number alone, so an interrupted training
resumes from its last save as if nothing had happened. Knows nothing of the held-out part.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from examples.bluemarble import bluemarble as bm
from examples.bluemarble.crops import Crops
from examples.bluemarble.reference import normalise, tile_logits
from segformer import Normalisation, mit_config, read_checkpoint, write_checkpoint

HERE = Path(__file__).parent
STATE = HERE / "work" / "training.pt"
VALIDATION_TILES = bm.Box(0, -90, 60, 90)
"""The tiles that contain the validation band, with the surroundings that a job would see."""
SAVE_STEPS = 50


@dataclass(frozen=True)
class Phase:
    """A part of the training with its own warm-up and cosine."""

    steps: int
    batch: int
    crop_px: int
    rate: float


PHASES = (
    Phase(steps=1600, batch=8, crop_px=192, rate=8e-4),
    # Larger crops, nearer to the windows of the job: what is around a lake tells it from the sea.
    Phase(steps=800, batch=4, crop_px=320, rate=4e-4),
)
STEPS = sum(phase.steps for phase in PHASES)
WARMUP_STEPS = 100
WEIGHT_DECAY = 0.05
EMA_DECAY = 0.99
SEED = 20040101


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=HERE / "checkpoint")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    STATE.parent.mkdir(exist_ok=True)
    torch.manual_seed(SEED)
    average = train(Trainable())
    validate(average)
    average.save(options.output)
    log(f"wrote {options.output}; {STATE} can go")


class Trainable(torch.nn.Module):
    """transformers' SegFormer, which can be trained, called like ours, which cannot."""

    def __init__(self) -> None:
        """Start with random weights."""
        super().__init__()
        self.config = mit_config("b0", 3, class_names=bm.CLASS_NAMES, class_colors=bm.CLASS_COLORS)
        self.normalisation = Normalisation.default(3)
        self.network = SegformerForSemanticSegmentation(SegformerConfig(**self.config.to_json()))

    def forward(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        """logits_NKHW at a quarter of the resolution."""
        logits_NKHW: torch.Tensor = self.network(pixels_NCHW).logits
        return logits_NKHW

    def save(self, folder: Path) -> None:
        """Write the checkpoint with names and colors, in float16: half the size of float32."""
        with tempfile.TemporaryDirectory() as plain:
            self.network.save_pretrained(plain)
            checkpoint = read_checkpoint(plain)
        write_checkpoint(replace(checkpoint, config=self.config), str(folder), half=True)


def train(model: Trainable) -> Trainable:
    """Train `model` in place, and return the moving average of its weights, in eval mode."""
    average = Trainable()
    average.load_state_dict(model.state_dict())
    optimiser = torch.optim.AdamW(parameter_groups(model))
    first = load_state(model, average, optimiser)
    crops = Crops.training()
    model.train()
    losses: list[float] = []
    started = time.monotonic()
    for step in range(first, STEPS):
        losses.append(train_step(model, optimiser, crops, step))
        update_average(average, model, min(EMA_DECAY, (1 + step) / (10 + step)))
        done = step + 1
        if done % 20 == 0:
            pace_s = (time.monotonic() - started) / (done - first)
            log(f"step {done} of {STEPS}, loss {np.mean(losses[-20:]):.4f}, {pace_s:.2f} s a step")
        if done % SAVE_STEPS == 0 or done == STEPS:
            save_state(done, model, average, optimiser)
    return average.eval()


def train_step(
    model: Trainable, optimiser: torch.optim.Optimizer, crops: Crops, step: int
) -> float:
    """Make one update and return the loss, plain cross-entropy at full resolution."""
    phase, rate = schedule(step)
    for group in optimiser.param_groups:
        group["lr"] = rate
    rng = np.random.default_rng((SEED, step))
    torch.manual_seed(SEED + step)
    pixels_NHWC, labels_NHW = crops.batch(phase.batch, phase.crop_px, rng)
    targets_NHW = torch.from_numpy(labels_NHW).long()
    # bfloat16 products: 1.8 times as fast on a CPU that has them, measured; float32 elsewhere.
    with torch.autocast("cpu", torch.bfloat16):
        logits_NKHW = model(normalise(model, pixels_NHWC))
    logits_NKHW = F.interpolate(logits_NKHW.float(), scale_factor=4.0, mode="bilinear")
    loss = F.cross_entropy(logits_NKHW, targets_NHW, ignore_index=bm.IGNORE)
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    return loss.item()


def schedule(step: int) -> tuple[Phase, float]:
    """The phase of a step and its learning rate: linear warm-up, then a cosine down to zero."""
    first = 0
    for phase in PHASES:
        if step < first + phase.steps:
            break
        first += phase.steps
    k = step - first
    if k < WARMUP_STEPS:
        return phase, phase.rate * (k + 1) / WARMUP_STEPS
    progress = (k - WARMUP_STEPS) / (phase.steps - WARMUP_STEPS)
    return phase, phase.rate * 0.5 * (1 + math.cos(math.pi * progress))


def parameter_groups(model: Trainable) -> list[dict[str, object]]:
    """The optimizer's groups: matrices and kernels decay; norms and biases do not."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


@torch.no_grad()
def update_average(average: Trainable, model: Trainable, decay: float) -> None:
    """Move the average's weights and batch-norm statistics toward the model's."""
    for kept, new in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, 1 - decay)
        else:
            kept.copy_(new)


def validate(model: Trainable) -> None:
    """Print the scores of the validation band, by which recipes were compared."""
    tiles, band = VALIDATION_TILES.slices(), bm.VALIDATION.slices()
    inner = slice(band[1].start - tiles[1].start, band[1].stop - tiles[1].start)
    classes = tile_logits(model, bm.read_picture(), VALIDATION_TILES).argmax(axis=0)[:, inner]
    labels = bm.picture_labels(bm.read_mask())[band]
    predicted, truth = classes == bm.INLAND_WATER, labels == bm.INLAND_WATER
    weights = np.broadcast_to(bm.row_areas_km2(bm.WIDTH, bm.HEIGHT)[band[0]], truth.shape)
    hits = (predicted & truth).sum()
    log(
        f"validation band: accuracy {(classes == labels).mean():.4f}; inland water: recall"
        f" {hits / truth.sum():.3f}, precision {hits / predicted.sum():.3f},"
        f" area / true area {weights[predicted].sum() / weights[truth].sum():.3f}"
    )


def save_state(
    step: int, model: Trainable, average: Trainable, optimiser: torch.optim.Optimizer
) -> None:
    state = {
        "step": step,
        "model": model.state_dict(),
        "average": average.state_dict(),
        "optimiser": optimiser.state_dict(),
    }
    torch.save(state, STATE.with_suffix(".partial"))
    STATE.with_suffix(".partial").rename(STATE)


def load_state(model: Trainable, average: Trainable, optimiser: torch.optim.Optimizer) -> int:
    """Restore the last save, and return the step to resume with; 0 if there is none."""
    if not STATE.exists():
        return 0
    state = torch.load(STATE, weights_only=True)
    model.load_state_dict(state["model"])
    average.load_state_dict(state["average"])
    optimiser.load_state_dict(state["optimiser"])
    log(f"resuming from step {state['step']} of {STATE}")
    return int(state["step"])


def log(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
