"""A small convolutional network for 8x8 grey images of handwritten digits."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

CLASSES = 10


def _convolution(inputs: int, outputs: int, kernel: int, groups: int = 1) -> nn.Sequential:
    """A same-size convolution without bias, batch norm and a rectifier."""
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(OrderedDict(conv=convolution, norm=nn.BatchNorm2d(outputs), relu=nn.ReLU(inplace=False)))


class DigitsCnn(nn.Module):
    """Plain, depthwise and pointwise convolutions in two stages, then two linear layers.

    Takes images of shape (N, 1, 8, 8) scaled to [-1, 1] and returns ten logits for each.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = _convolution(1, 16, kernel=3)
        self.depthwise1 = _convolution(16, 16, kernel=3, groups=16)
        self.pointwise1 = _convolution(16, 32, kernel=1)
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = _convolution(32, 64, kernel=3)
        self.depthwise2 = _convolution(64, 64, kernel=3, groups=64)
        self.pointwise2 = _convolution(64, 64, kernel=1)
        self.pool2 = nn.MaxPool2d(2)
        self.dropout = nn.Dropout(0.2)
        self.fc1 = nn.Linear(64 * 2 * 2, 64)
        self.relu = nn.ReLU()
        self.fc2 = nn.Linear(64, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits, shape (N, 10)."""
        x = self.pool1(self.pointwise1(self.depthwise1(self.stem(images))))
        x = self.pool2(self.pointwise2(self.depthwise2(self.conv2(x))))
        x = self.dropout(torch.flatten(x, 1))
        return self.fc2(self.relu(self.fc1(x)))


def create_model() -> nn.Module:
    """Build the network with fresh weights; load a state dict to get the trained one."""
    return DigitsCnn()
