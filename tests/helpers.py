"""Small random models and clips that several tests use."""
import numpy as np
import torch
from torch import nn

from live2diff_nb.engine.unet import StreamUNet


def toy_unet(seed=0, **changes):
    "A small random UNet whose motion modules and depth adapter do something."
    torch.manual_seed(seed)
    levels = ("CrossAttnDownBlock2D", "DownBlock2D")
    config = dict(block_out_channels=(32, 64), layers_per_block=1, down_block_types=levels, cross_attention_dim=16,
                  attention_head_dim=4, norm_num_groups=8, motion_heads=4, depth_channels=(8, 16))
    unet = StreamUNet(**{**config, **changes}).eval()
    for name, p in unet.named_parameters():
        if "temporal_transformer.proj_out.weight" in name or "flow_conv_in.conv_out.weight" in name:
            nn.init.normal_(p, std=0.1)
    return unet.requires_grad_(False)


def relative(a, b):
    "Relative L2 distance."
    return ((a - b).norm() / b.norm()).item()


def random_latents(frames, height=8, width=8, seed=1, dtype=torch.float32):
    "Latents and depth latents `(frames, 4, h, w)`, and a prompt embedding."
    g = torch.Generator().manual_seed(seed)
    parts = *(torch.randn(frames, 4, height, width, generator=g) for _ in range(2)), torch.randn(1, 5, 16, generator=g)
    return tuple(p.to(dtype) for p in parts)


def moving_clip(frames, height=64, width=64):
    "A bright disc that wanders over a gradient, `frames` of (h, w, 3) uint8."
    y, x = np.mgrid[:height, :width]
    def frame(n):
        down, right = y - height * (0.5 + 0.3 * np.sin(n / 9)), x - width * (0.5 + 0.3 * np.cos(n / 7))
        disc, back = down**2 + right**2 < (height / 5) ** 2, (x * 200 // width, y * 200 // height, 90)
        return np.stack([np.where(disc, *pair) for pair in zip((230, 120, 40), back)], -1).astype(np.uint8)
    return [frame(n) for n in range(frames)]
