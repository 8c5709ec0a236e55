"""Where is this cell? Sine and learned 2-D position embeddings that know about padding.

Built in chapter 4.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ddetr_lab.config import DeformableDetrConfig

__all__ = [
    "LearnedPositionEmbedding",
    "SinePositionEmbedding",
    "build_position_embedding",
    "sine_of_coordinates",
]

TEMPERATURE = 10_000


def sine_of_coordinates(coordinates: Tensor, channels: int) -> Tensor:
    """Write each coordinate as ``channels`` sines and cosines of falling frequency.

    Channel 2i is sin(c / T^(2i / channels)) and channel 2i + 1 the cosine, with T = 10,000
    ("Attention is all you need", section 3.5).

    Args:
        coordinates: (...) float, in radians: 0 to 2 pi over the picture.
        channels: how many numbers a coordinate becomes.

    Returns:
        (..., channels) float.
    """
    index = torch.arange(channels, dtype=torch.float32, device=coordinates.device)
    wavelength = TEMPERATURE ** (2 * torch.div(index, 2, rounding_mode="floor") / channels)
    angle = coordinates[..., None] / wavelength  # (..., channels)
    return torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), dim=-1).flatten(-2)


class SinePositionEmbedding(nn.Module):
    """Fixed embedding: the cell's y in the first half of the channels, its x in the second.

    Positions count real cells only, from the mask, and are scaled to 0 - 2 pi over the real part of the picture:
    the same picture gets the same embedding however much padding its batch adds (paper, section 4.1 and DETR, A.4).
    """

    def __init__(self, channels_per_axis: int, scale: float = 2 * math.pi) -> None:
        super().__init__()
        self.channels_per_axis = channels_per_axis
        self.scale = scale

    def forward(self, feature_map: Tensor, mask: Tensor) -> Tensor:
        """Embed the positions of one level.

        Args:
            feature_map: (B, C', H, W); only its dtype matters here.
            mask: (B, H, W) bool, True on real cells.

        Returns:
            (B, 2 * channels_per_axis, H, W) in the dtype of ``feature_map``.
        """
        y = mask.cumsum(1, dtype=torch.float32)  # (B, H, W): 1, 2, 3 ... down the real cells
        x = mask.cumsum(2, dtype=torch.float32)
        eps = 1e-6  # a picture without a real cell divides by this, not by zero
        y = (y - 0.5) / (y[:, -1:, :] + eps) * self.scale
        x = (x - 0.5) / (x[:, :, -1:] + eps) * self.scale
        both = torch.cat(
            (sine_of_coordinates(y, self.channels_per_axis), sine_of_coordinates(x, self.channels_per_axis)), dim=-1
        )
        return both.permute(0, 3, 1, 2).to(feature_map.dtype)  # (B, H, W, C) -> (B, C, H, W)


class LearnedPositionEmbedding(nn.Module):
    """One learned vector a column (first half of the channels) and one a row (second half), 50 of each."""

    MAX_CELLS = 50

    def __init__(self, channels_per_axis: int) -> None:
        super().__init__()
        self.row_embeddings = nn.Embedding(self.MAX_CELLS, channels_per_axis)
        self.column_embeddings = nn.Embedding(self.MAX_CELLS, channels_per_axis)
        nn.init.uniform_(self.row_embeddings.weight)
        nn.init.uniform_(self.column_embeddings.weight)

    def forward(self, feature_map: Tensor, mask: Tensor) -> Tensor:
        """Embed the positions of one level; the mask plays no part.

        Args:
            feature_map: (B, C', H, W).
            mask: (B, H, W), ignored.

        Returns:
            (B, 2 * channels_per_axis, H, W) in the dtype of ``feature_map``.

        Raises:
            ValueError: if the map is larger than the table of 50 rows and columns.
        """
        batch, _, height, width = feature_map.shape
        if max(height, width) > self.MAX_CELLS:
            raise ValueError(
                f"a feature map of {height}x{width} cells meets learned positions for {self.MAX_CELLS} rows and "
                "columns: use smaller pictures or position_embedding_type='sine'"
            )
        x = self.column_embeddings.weight[:width]  # (W, c)
        y = self.row_embeddings.weight[:height]  # (H, c)
        grid = torch.cat((x.expand(height, -1, -1), y[:, None].expand(-1, width, -1)), dim=-1)  # (H, W, 2c)
        return grid.permute(2, 0, 1).expand(batch, -1, -1, -1).to(feature_map.dtype)  # (B, 2c, H, W)


def build_position_embedding(config: DeformableDetrConfig) -> SinePositionEmbedding | LearnedPositionEmbedding:
    """Build the embedding that ``config.position_embedding_type`` names, with ``d_model`` channels in all.

    Raises:
        ValueError: if the type is neither "sine" nor "learned".
    """
    kinds = {"sine": SinePositionEmbedding, "learned": LearnedPositionEmbedding}
    if config.position_embedding_type not in kinds:
        raise ValueError(
            f"position_embedding_type = {config.position_embedding_type!r}, expected one of {', '.join(kinds)}"
        )
    return kinds[config.position_embedding_type](config.d_model // 2)
