"""A small vision transformer (Dosovitskiy et al. 2021, arXiv 2010.11929): pre-norm blocks, mean of the tokens instead of a class token.

The mean is as good on small images (Beyer et al. 2022, arXiv 2205.01580).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainable.models import InputShape, ModelKind
from trainable.models._parts import ResidualSum

_POSITION_STD = 0.02
_MOST_BLOCK_GROUPS = 10  # embedding and head make it the most that figures tell apart


class PositionEmbedding(nn.Module):
    """Adds to each token what is learned for its place."""

    def __init__(self, length: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(length, dim) * _POSITION_STD)

    def forward(self, tokens: Tensor) -> Tensor:
        """[N, tokens, dim] -> the same shape."""
        return tokens + self.weight


class DotProductAttention(nn.Module):
    """What attention multiplies without weights; a module of its own so that the table of layers can name and count it."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """[N, heads, tokens, channels] each -> the same shape."""
        return functional.scaled_dot_product_attention(query, key, value)


class Attention(nn.Module):
    """Self-attention of all tokens with `heads` heads."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.products = nn.Linear(dim, 3 * dim), DotProductAttention()
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """[N, tokens, dim] -> the same shape."""
        num, length, dim = tokens.shape
        query, key, value = self.qkv(tokens).view(num, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = self.products(query, key, value)
        return self.proj(mixed.transpose(1, 2).reshape(num, length, dim))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention and a perceptron of two layers, each behind a layer norm and added to what went in."""

    def __init__(self, dim: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm1, self.attention, self.add1 = nn.LayerNorm(dim), Attention(dim, heads), ResidualSum()
        self.norm2 = nn.LayerNorm(dim)
        self.fc1, self.gelu, self.fc2 = nn.Linear(dim, mlp_ratio * dim), nn.GELU(), nn.Linear(mlp_ratio * dim, dim)
        self.add2 = ResidualSum()

    def forward(self, tokens: Tensor) -> Tensor:
        """[N, tokens, dim] -> the same shape."""
        tokens = self.add1(self.attention(self.norm1(tokens)), tokens)
        return self.add2(self.fc2(self.gelu(self.fc1(self.norm2(tokens)))), tokens)  # type: ignore[no-any-return]


class ViT(nn.Module):
    """Patches with learned positions, blocks, a norm, the mean over the tokens, a linear layer."""

    def __init__(
        self, num_classes: int, input_shape: InputShape, dim: int, depth: int, heads: int, patch: int, mlp_ratio: int
    ) -> None:
        super().__init__()
        channels, height, width = input_shape
        self.patches = nn.Conv2d(channels, dim, patch, stride=patch)
        self.position = PositionEmbedding(height // patch * (width // patch), dim)
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [N, channels, H, W] -> logits [N, classes]."""
        tokens = self.position(self.patches(images).flatten(2).transpose(1, 2))
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(self.norm(tokens).mean(dim=1))  # type: ignore[no-any-return]

    def groups(self) -> dict[str, list[str]]:
        """A group for the embedding, each block and the head; of more than ten blocks two or more are one group."""
        depth = len(self.blocks)
        together = math.ceil(depth / _MOST_BLOCK_GROUPS)
        blocks = {
            f"block{first + 1}" if together == 1 else f"blocks{first + 1}-{min(first + together, depth)}": [
                f"blocks.{number}" for number in range(first, min(first + together, depth))
            ]
            for first in range(0, depth, together)
        }
        return {"embedding": ["patches", "position"], **blocks, "head": ["norm", "head"]}


def build_vit(
    num_classes: int, input_shape: InputShape, *, width: int = 64, depth: int = 6, heads: int = 3, patch: int = 4,
    mlp_ratio: int = 4,
) -> nn.Module:  # fmt: skip
    """`depth` blocks with `heads` heads of `width` channels each, on patches of `patch` pixels a side. Errors: ValueError."""
    if min(depth, heads, patch, mlp_ratio) < 1:
        raise ValueError("depth, heads, patch and mlp_ratio are at least 1")
    if input_shape[1] % patch or input_shape[2] % patch:
        raise ValueError(f"patch={patch} does not divide images of {input_shape[1]}x{input_shape[2]} pixels")
    return ViT(num_classes, input_shape, heads * width, depth, heads, patch, mlp_ratio)


VIT = ModelKind(
    name="vit", meaning="a transformer on patches of the image, with heads of width channels", build=build_vit
)
