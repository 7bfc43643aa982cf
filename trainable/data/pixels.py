"""What augmentation does to pixels, for many images at once; RandAugment, which torchvision has for one image alone, one by one.

Crop, flip and colour jitter are pixel for pixel torchvision's on PIL images. Knows no configuration and draws nothing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BRIGHTNESS, CONTRAST, SATURATION = range(3)
_GRAY_WEIGHTS = (19595 / 65536, 38470 / 65536, 7471 / 65536)  # Pillow's luma; exact in float32, and so are all sums


def crop(planes: Tensor, corners: Tensor, padding: int) -> Tensor:
    """(channels, n, height, width) -> the same size, from the corners (n, 2) on in the black-padded images."""
    height, width = planes.shape[2:]
    padded = F.pad(planes, (padding, padding, padding, padding))
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (channels, n, 2p+1, 2p+1, height, width), a view
    return windows[:, torch.arange(len(corners), device=corners.device), corners[:, 0], corners[:, 1]]


def jitter(planes: Tensor, operation: Tensor, factors: Tensor) -> None:
    """Change planes (channels, n, pixels) by one operation per image, as Pillow does and rounds it.

    Brightness, contrast and saturation are one blend, other + factor * (image - other), where the other image is
    black, of its mean gray, or its gray version. The result is clipped and cut to whole numbers. A grey image is its own gray
    version, so its saturation stays.
    """
    if len(planes) == 1:
        gray = planes[0].clone()
    else:
        red, green, blue = planes
        weight_red, weight_green, weight_blue = _GRAY_WEIGHTS
        gray = red * weight_red
        gray.add_(green, alpha=weight_green).add_(blue, alpha=weight_blue).add_(0.5).floor_()
    mean = gray.mean(dim=1, keepdim=True).add_(0.5).floor_()
    factor = factors.gather(1, operation[:, None])
    is_contrast, is_saturation = (operation[:, None] == kind for kind in (CONTRAST, SATURATION))
    other = gray.mul_(is_saturation).add_(mean.mul_(is_contrast))
    planes.sub_(other).mul_(factor).add_(other).clamp_(0, 255).floor_()


def cut_out(images: Tensor, centres: Tensor, side: int) -> Tensor:
    """Normalised images (n, channels, height, width), each with a square of zeros, the mean colour, around its centre (n, 2).

    Squares that reach over the edge are cut off there (DeVries and Taylor 2017, arXiv 1708.04552).
    """
    height, width = images.shape[2:]
    inside = [
        (positions >= first[:, None]) & (positions < first[:, None] + side)
        for positions, first in (
            (torch.arange(size, device=images.device), centres[:, axis] - side // 2)
            for axis, size in enumerate((height, width))
        )
    ]
    return images.masked_fill_((inside[0][:, :, None] & inside[1][:, None, :])[:, None], 0.0)


def rand_augment(images: Tensor, seeds: Tensor, num_operations: int, magnitude: int) -> Tensor:
    """uint8 (n, height, width, channels) -> the same by torchvision's RandAugment, image by image on the CPU.

    What is drawn for an image follows from its seed (n,) alone; the global random state is left as it was.
    """
    from PIL import Image
    from torchvision.transforms import RandAugment

    operation = RandAugment(num_operations, magnitude)
    changed = []
    with torch.random.fork_rng(devices=[]):
        for image, seed in zip(images.cpu().numpy(), seeds.tolist(), strict=True):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would go to the GPU as well
            picture = operation(Image.fromarray(image if image.shape[2] == 3 else image[..., 0]))
            changed.append(torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(image.shape))
    return torch.stack(changed).to(images.device)
