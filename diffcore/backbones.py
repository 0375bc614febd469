"""A network for small photographs that timm lacks: its ResNets begin at a quarter of an image.

Our choice: the pre-activation ResNet-18 with the 3 x 3 stem that experiments on CIFAR use (He et
al., 2016; the mixing literature). Importing this module makes it known to timm by name.
"""

from collections import OrderedDict
from typing import Any

from timm.models import register_model
from timm.models.resnetv2 import ResNetV2, resnetv2_18
from torch import nn


@register_model
def resnetv2_18_small(pretrained: bool = False, **kwargs: Any) -> ResNetV2:
    """Build a pre-activation ResNet-18 whose first stage sees every pixel.

    At 32 x 32 the maps of its stages have sides of 32, 16, 8 and 4.
    """
    net = resnetv2_18(pretrained=False, **kwargs)
    first = net.stem.conv
    conv = nn.Conv2d(first.in_channels, first.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    net.stem = nn.Sequential(OrderedDict(conv=conv.to(first.weight.device)))
    return net
