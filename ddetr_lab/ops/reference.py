"""Deformable attention in plain PyTorch: the definition as loops, and the same vectorised in two ways.

All compute, for every picture, query and head (Deformable DETR, eq. 3 without its outer projections),

    output = sum over levels l and points k of  A_lk * value_l(location_lk),

where ``value_l(...)`` is bilinear interpolation between the four nearest cells of level l. A location (x, y)
is given in 0-1 of the padded map; a cell's centre sits half a cell inside, hence ``pixel = u * size - 0.5``.
Cells outside a map read zero.

Built in chapter 6 (loops) and chapter 7 (the others).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ddetr_lab.boxes import at_least_float32

__all__ = ["ms_deform_attn_gather", "ms_deform_attn_grid_sample", "ms_deform_attn_loops", "sampling_locations"]


def ms_deform_attn_loops(
    value: Tensor, spatial_shapes: Sequence[tuple[int, int]], sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """Compute deformable attention one sample at a time: slow, short, and what every other path is held against.

    Args:
        value: (B, S, M, D) float. The flattened maps, level after level, row after row.
        spatial_shapes: L pairs (H, W) with S = sum of H * W.
        sampling_locations: (B, Q, M, L, P, 2) float, (x, y) in _padnorm.
        attention_weights: (B, Q, M, L, P) float.

    Returns:
        (B, Q, M * D) in the dtype of ``value``. A location that is not finite makes its
        query's and head's result NaN: a fault upstream must not become a plausible number.
    """
    batch, _, heads, channels = value.shape
    queries, points = sampling_locations.shape[1], sampling_locations.shape[4]
    maps = at_least_float32(value)
    output = maps.new_zeros(batch, queries, heads, channels)
    for b in range(batch):
        for q in range(queries):
            for m in range(heads):
                start = 0
                for level, (height, width) in enumerate(spatial_shapes):
                    for p in range(points):
                        u, v = sampling_locations[b, q, m, level, p].double()
                        x, y = u * width - 0.5, v * height - 0.5
                        sample = _bilinear(maps[b, start : start + height * width, m], height, width, x, y)
                        output[b, q, m] += attention_weights[b, q, m, level, p] * sample
                    start += height * width
    return output.flatten(2).to(value.dtype)  # (B, Q, M, D) -> (B, Q, M*D)


def _bilinear(level_map: Tensor, height: int, width: int, x: Tensor, y: Tensor) -> Tensor:
    """Interpolate a flattened (H*W, D) map at pixel coordinates (x, y); cells outside the map read zero."""
    result = torch.zeros_like(level_map[0])
    if not (x.isfinite() and y.isfinite()):
        return result + (x - x + y - y)  # NaN
    left, top = x.detach().floor(), y.detach().floor()
    for column, weight_x in ((left, left + 1 - x), (left + 1, x - left)):
        for row, weight_y in ((top, top + 1 - y), (top + 1, y - top)):
            if 0 <= column < width and 0 <= row < height:
                # The weights stay tensors: through them the gradient reaches the location.
                result = result + (weight_x * weight_y).to(result.dtype) * level_map[int(row) * width + int(column)]
    return result


def ms_deform_attn_grid_sample(
    value: Tensor, spatial_shapes: Sequence[tuple[int, int]], sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """Compute deformable attention with one ``grid_sample`` a level: the portable path, on any device.

    Half-precision values are sampled in float32 and rounded once, at the end: ``grid_sample`` wants one dtype for
    maps and locations, and half-precision locations would miss their pixel.

    Args and result as :func:`ms_deform_attn_loops`.
    """
    batch, _, heads, channels = value.shape
    queries = sampling_locations.shape[1]
    maps = at_least_float32(value)
    grids = (2 * sampling_locations - 1).to(maps.dtype)  # 0-1 -> grid_sample's -1..1, both with half-pixel centres
    weights = attention_weights.to(maps.dtype).transpose(1, 2).flatten(0, 1)[:, None]  # (B*M, 1, Q, L, P)
    output = maps.new_zeros(batch * heads, channels, queries)
    level_maps = maps.split([height * width for height, width in spatial_shapes], dim=1)
    for level, (level_map, (height, width)) in enumerate(zip(level_maps, spatial_shapes, strict=True)):
        level_map = level_map.permute(0, 2, 3, 1).reshape(batch * heads, channels, height, width)  # (B*M, D, H, W)
        grid = grids[:, :, :, level].transpose(1, 2).flatten(0, 1)  # (B, Q, M, P, 2) -> (B*M, Q, P, 2)
        samples = F.grid_sample(
            level_map, grid, mode="bilinear", padding_mode="zeros", align_corners=False
        )  # (B*M, D, Q, P)
        # Summed level by level: the samples of all levels at once would not fit the cache.
        output = output + (samples * weights[:, :, :, level]).sum(-1)
    return output.view(batch, heads * channels, queries).transpose(1, 2).contiguous().to(value.dtype)  # (B, Q, M*D)


def ms_deform_attn_gather(
    value: Tensor,
    spatial_shapes: Tensor | Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Compute deformable attention by gathering the four corners: slower than ``grid_sample``, differentiable twice.

    PyTorch has no second derivative for ``grid_sample``; everything here has one. Shapes may also be an (L, 2) tensor,
    whose numbers are never looked at, so that the double backward pass can be traced.

    Args and result as :func:`ms_deform_attn_loops`.
    """
    channels = value.shape[3]
    queries, levels, points = sampling_locations.shape[1], sampling_locations.shape[3], sampling_locations.shape[4]
    maps = at_least_float32(value).transpose(1, 2)  # (B, S, M, D) -> (B, M, S, D)
    locations = sampling_locations.to(maps.dtype).permute(0, 2, 1, 3, 4, 5)  # (B, Q, M, L, P, 2) -> (B, M, Q, L, P, 2)
    weights = attention_weights.to(maps.dtype).transpose(1, 2)  # (B, Q, M, L, P) -> (B, M, Q, L, P)
    shapes = torch.as_tensor(spatial_shapes, device=maps.device).view(levels, 1, 2)  # (H, W)
    areas = shapes[..., 0] * shapes[..., 1]  # (L, 1)
    starts = areas.cumsum(0) - areas
    sizes = shapes.flip(-1).to(maps.dtype)  # (L, 1, 2), (W, H)
    pixel = locations * sizes - 0.5  # (B, M, Q, L, P, 2)
    touches = ((pixel > -1) & (pixel < sizes)).all(-1, keepdim=True)
    poison = (pixel - pixel).sum(-1)  # 0, or NaN for what is not finite
    pixel = pixel.where(touches, 0.0)
    corner = pixel.detach().floor()
    fraction = pixel - corner
    samples = poison.flatten(3)[..., None]  # (B, M, Q, L*P, 1); with the corners (B, M, Q, L*P, D)
    for right in (0, 1):
        for below in (0, 1):
            cell = corner + torch.tensor((right, below), dtype=maps.dtype, device=maps.device)
            inside = touches[..., 0] & (cell >= 0).all(-1) & (cell < sizes).all(-1)  # (B, M, Q, L, P)
            share_x = fraction[..., 0] if right else 1 - fraction[..., 0]
            share_y = fraction[..., 1] if below else 1 - fraction[..., 1]
            share = (share_x * share_y).where(inside, 0.0)
            token = starts + (cell[..., 1] * sizes[..., 0] + cell[..., 0]).where(inside, 0.0).long()
            index = token.flatten(2)[..., None].expand(-1, -1, -1, channels)  # (B, M, Q*L*P, D)
            corners = maps.gather(2, index).unflatten(2, (queries, levels * points))  # (B, M, Q, L*P, D)
            # What is outside is a zero, not 0 times the cell that was fetched in its place: that may be infinite.
            corners = corners.where(inside.flatten(3)[..., None], 0.0)
            samples = samples + share.flatten(3)[..., None] * corners
    output = (weights.flatten(3)[..., None] * samples).sum(-2)  # (B, M, Q, D)
    return output.transpose(1, 2).flatten(2).to(value.dtype)  # (B, M, Q, D) -> (B, Q, M*D)


def sampling_locations(
    reference_points: Tensor, sampling_offsets: Tensor, spatial_shapes: Tensor | Sequence[tuple[int, int]]
) -> Tensor:
    """Turn offsets into places to sample.

    From a point, an offset counts cells of its level; from a box, it counts half the box's sides over the number of
    points, so that P points reach the rim of the box (paper, section 4.1 and appendix A.4).

    Args:
        reference_points: (B, Q, L, 2) points or (B, Q, L, 4) cxcywh boxes, in _padnorm of each level.
        sampling_offsets: (B, Q, M, L, P, 2).
        spatial_shapes: L pairs (H, W), as a list or an (L, 2) tensor.

    Returns:
        (B, Q, M, L, P, 2), (x, y) in _padnorm, at least float32.

    Raises:
        ValueError: if the reference is neither a point nor a box.
    """
    reference = at_least_float32(reference_points)[:, :, None, :, None, :]  # (B, Q, 1, L, 1, 2 or 4)
    if reference.shape[-1] == 2:
        sizes_wh = torch.as_tensor(spatial_shapes, dtype=reference.dtype, device=reference.device).flip(-1)  # (L, 2)
        return reference + sampling_offsets / sizes_wh[:, None, :]  # sizes (L, 1, 2) meet (..., L, P, 2)
    if reference.shape[-1] == 4:
        points = sampling_offsets.shape[-2]
        return reference[..., :2] + sampling_offsets / points * reference[..., 2:] * 0.5
    raise ValueError(
        f"reference_points has shape {tuple(reference_points.shape)}, "
        "expected a last axis of 2 (x, y) or 4 (cx, cy, w, h)"
    )
