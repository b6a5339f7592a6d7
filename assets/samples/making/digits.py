"""Train and save `digits_cnn`: a CNN on the digit images that scikit-learn ships."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from digits_cnn.factory import create_model
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional

from making import common

SEED = 20240
TEST_SHARE = 0.2
CALIBRATION_IMAGES = 200
EPOCHS = 60
BATCH = 64
PEAK_RATE = 4e-3
WEIGHT_DECAY = 5e-4
LABEL_SMOOTHING = 0.05
# Limits of the random variations, chosen by cross-validation inside the training split.
MAXIMUM_TURN = math.radians(10)
MAXIMUM_SCALE = 0.1
MAXIMUM_SLANT = 0.1
MAXIMUM_SHIFT = 0.125  # of half the width: half a pixel
BACKGROUND = -1.0


def build(folder: Path) -> None:
    """Train the network and write every file of the sample into `folder`."""
    common.make_deterministic(SEED)
    images, labels = _load()
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, labels, test_size=TEST_SHARE, stratify=labels, random_state=SEED
    )
    model = create_model()
    _train(model, torch.from_numpy(train_images), torch.from_numpy(train_labels))
    model.eval()
    _save_weights(model, folder)
    _save_program(model, torch.from_numpy(test_images[:2]), folder / "model.pt2")
    chosen = np.random.default_rng(SEED).permutation(len(train_images))[:CALIBRATION_IMAGES]
    np.savez(folder / "calibration.npz", images=train_images[chosen])
    np.savez(folder / "evaluation.npz", images=test_images, labels=test_labels)
    metrics = {
        **measure(folder),
        "train_accuracy": _accuracy(model, train_images, train_labels),
        "train_images": len(train_images),
        "test_images": len(test_images),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "epochs": EPOCHS,
        "seed": SEED,
        "versions": common.versions("torch", "numpy", "scikit-learn", "safetensors"),
    }
    common.write_metrics(folder, metrics)


def measure(folder: Path) -> dict[str, float]:
    """Recompute the test accuracy from each saved form of the network."""
    with np.load(folder / "evaluation.npz") as data:
        images, labels = data["images"], data["labels"]
    plain, tensors = create_model().eval(), create_model().eval()
    plain.load_state_dict(torch.load(folder / "model.pt", weights_only=True))
    tensors.load_state_dict(load_file(folder / "model.safetensors"))
    program = torch.export.load(folder / "model.pt2").module()
    return {
        "test_accuracy": _accuracy(plain, images, labels),
        "test_accuracy_safetensors": _accuracy(tensors, images, labels),
        "test_accuracy_pt2": _accuracy(program, images, labels),
    }


def _load() -> tuple[np.ndarray, np.ndarray]:
    """Images as float32 (N, 1, 8, 8), the grey levels 0..16 scaled to [-1, 1], and their labels."""
    digits = load_digits()
    images = (digits.images / 8.0 - 1.0).astype(np.float32)[:, None]
    return images, digits.target.astype(np.int64)


def _train(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Train for a fixed number of epochs; the test split plays no part."""
    steps = EPOCHS * -(-len(images) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps)
    model.train()
    for epoch in range(EPOCHS):
        total = 0.0
        for chosen in torch.randperm(len(images)).split(BATCH):
            logits = model(_vary(images[chosen]))
            loss = functional.cross_entropy(logits, labels[chosen], label_smoothing=LABEL_SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(chosen)
        if (epoch + 1) % 10 == 0:
            print(f"digits: epoch {epoch + 1}/{EPOCHS}, loss {total / len(images):.4f}", flush=True)


def _vary(images: torch.Tensor) -> torch.Tensor:
    """Turn, scale, slant and move each image a little, filling with the background."""
    turn, scale, slant, right, down = (
        (2 * torch.rand(len(images)) - 1) * limit
        for limit in (MAXIMUM_TURN, MAXIMUM_SCALE, MAXIMUM_SLANT, MAXIMUM_SHIFT, MAXIMUM_SHIFT)
    )
    cosine, sine = turn.cos() * (1 + scale), turn.sin() * (1 + scale)
    rows = [torch.stack([cosine, slant - sine, right], 1), torch.stack([sine, cosine, down], 1)]
    grid = functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return functional.grid_sample(images - BACKGROUND, grid, align_corners=False) + BACKGROUND


def _save_weights(model: nn.Module, folder: Path) -> None:
    torch.save(model.state_dict(), folder / "model.pt")
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})


def _save_program(model: nn.Module, example: torch.Tensor, path: Path) -> None:
    """Export with any batch size, leaving out stack traces: they name this machine's folders."""
    shapes = {"images": {0: torch.export.Dim("batch", min=1, max=4096)}}
    program = torch.export.export(model, (example,), dynamic_shapes=shapes)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    torch.export.save(program, path)


def _accuracy(model: nn.Module, images: np.ndarray, labels: np.ndarray) -> float:
    """Share of images whose highest logit is the label's."""
    with torch.inference_mode():
        predicted = model(torch.from_numpy(images)).argmax(dim=1).numpy()
    return float((predicted == labels).mean())
