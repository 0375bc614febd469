"""The network for small photographs."""

import timm
import torch

import diffcore.backbones  # noqa: F401


def test_the_first_stage_sees_every_pixel():
    net = timm.create_model("resnetv2_18_small", num_classes=7).eval()
    sides, images = [], torch.rand(2, 3, 32, 32)
    for stage in net.stages:
        stage.register_forward_hook(lambda _, __, maps: sides.append(maps.shape[-1]))
    with torch.no_grad():
        assert net(images).shape == (2, 7)
    assert sides == [32, 16, 8, 4]


def test_weights_follow_from_the_seed_and_the_stem_is_not_all_zero():
    nets = []
    for _ in range(2):
        torch.manual_seed(3)
        nets.append(timm.create_model("resnetv2_18_small", num_classes=7).state_dict())
    assert all(torch.equal(nets[0][key], nets[1][key]) for key in nets[0])
    assert nets[0]["stem.conv.weight"].std() > 0.01
