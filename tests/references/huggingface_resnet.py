"""Hugging Face's ResNet beside ours with the same weights: a pair (theirs, ours)."""

from __future__ import annotations

import torch
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification

from bench.types import TaskSpec
from methods.backbone.resnet import EXPANSION, ResNet


def resnet(shape: ResNet, image_size: int, num_classes: int) -> tuple[nn.Module, nn.Module]:
    """`shape` with the large stem and projections, both in inference mode."""
    wider = EXPANSION if shape.bottleneck else 1
    config = ResNetConfig(
        embedding_size=shape.widths[0],
        hidden_sizes=[width * wider for width in shape.widths],
        depths=shape.blocks,
        layer_type="bottleneck" if shape.bottleneck else "basic",
        downsample_in_bottleneck=shape.stride_in == "1x1",
        num_labels=num_classes,
    )
    theirs = ResNetForImageClassification(config)
    generator = torch.Generator().manual_seed(0)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):  # as they begin, an exchange would not be seen
            for tensor in (module.running_var, module.weight):
                nn.init.uniform_(tensor, 0.5, 1.5, generator=generator)
            for tensor in (module.running_mean, module.bias):
                nn.init.uniform_(tensor, -0.1, 0.1, generator=generator)
    spec = TaskSpec("images", "image", (3, image_size, image_size), num_classes)
    ours = shape.build(spec)
    _copy(ours.stem, theirs.resnet.embedder)
    layers = [layer for stage in theirs.resnet.encoder.stages for layer in stage.layers]
    for block, layer in zip(ours.blocks, layers, strict=True):
        _copy(block.layers, layer.layer)
        _copy(block.shortcut, layer.shortcut)
    _copy(ours.head.linear, theirs.classifier[1])
    return theirs.eval(), ours.eval()


def _copy(ours: nn.Module, theirs: nn.Module) -> None:
    """Weights and statistics in their order; raises where numbers or shapes differ."""
    names, values = list(ours.state_dict()), list(theirs.state_dict().values())
    ours.load_state_dict(dict(zip(names, values, strict=True)))
