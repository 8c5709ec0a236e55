"""The checks of chapter 10: valid ratios, reference points, one encoder layer, and what an encoder costs.

Built in chapter 10.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from ddetr_lab import encoder
from ddetr_lab.checks.core import Answer, Mistake, Passed, check_function, generator, random_integer, random_size
from ddetr_lab.config import DeformableDetrConfig

__all__ = ["encoder_cost", "encoder_step", "ratios_of", "reference_points"]

Shapes = Sequence[tuple[int, int]]


def _mask(rng: torch.Generator, pictures: int, height: int, width: int) -> Tensor:
    """Draw a mask (B, H, W): each picture fills another part of the frame, none the whole, with other shares a side."""
    mask = torch.zeros(pictures, height, width, dtype=torch.bool)
    for real in mask:
        rows = random_integer(rng, 1, height - 1)
        columns = random_integer(rng, 1, width - 1)
        while columns * height == rows * width:  # equal shares would forgive an exchange
            columns = random_integer(rng, 1, width)
        real[:rows, :columns] = True
    return mask


def _masks(rng: torch.Generator, pictures: int, shapes: Shapes) -> list[Tensor]:
    """Draw the masks of one batch on every level; the levels' shares differ by more than rounding, to be seen."""
    return [_mask(rng, pictures, height, width) for height, width in shapes]


def ratios_of(answer: Answer) -> Passed:
    """Check a function from one level's mask (B, H, W) to its valid ratios (B, 2), (width share, height share)."""

    def reference(mask: Tensor) -> Tensor:
        return encoder.valid_ratios([mask])[:, 0]

    def area(mask: Tensor) -> Tensor:
        return mask.float().mean((1, 2))[:, None].expand(-1, 2)

    def counted(mask: Tensor) -> Tensor:
        return torch.stack((mask[:, 0].sum(1), mask[:, :, 0].sum(1)), dim=-1)

    mistakes = [
        Mistake(
            lambda mask: reference(mask).flip(-1),
            "width and height are exchanged: the mask's first row tells the share of the width, which comes first.",
        ),
        Mistake(lambda mask: reference(~mask), "the padding was counted: the mask is True on real cells."),
        Mistake(area, "that is the share of the area: width and height have a share each."),
        Mistake(
            lambda mask: torch.stack((mask[:, -1].float().mean(1), mask[:, :, -1].float().mean(1)), dim=-1),
            "all shares are 0. Either the last row and column were counted, where the padding is: the first ones tell "
            "all. Or // has cut off the fractions: shares are divided by /.",
        ),
        Mistake(counted, "these are counts of cells: divide by the width and by the height of the level."),
        Mistake(
            lambda mask: counted(mask) / torch.tensor(mask.shape[1:]),
            "columns were divided by the height and rows by the width: mask.shape is (B, H, W).",
        ),
        Mistake(
            lambda mask: reference(mask).mean(0, keepdim=True).expand(len(mask), 2),
            "the mean ran over the pictures too: each has padding of its own.",
        ),
    ]
    rng = generator(101)
    sizes = [(random_integer(rng, 2, 4), *random_size(rng, 2, 20)) for _ in range(6)]
    return check_function(answer, reference, [(_mask(rng, *size),) for size in sizes], mistakes, name="ratios_of")


def _shapes(rng: torch.Generator) -> tuple[tuple[int, int], ...]:
    return tuple(random_size(rng, 2, 7) for _ in range(random_integer(rng, 2, 4)))


def reference_points(answer: Answer) -> Passed:
    """Check a function from L shapes (H, W) and ratios (B, L, 2) to the encoder's reference points (B, S, L, 2)."""

    def reference(shapes: Shapes, ratios: Tensor) -> Tensor:
        return encoder.encoder_reference_points(shapes, ratios)

    def centres(shapes: Shapes, ratios: Tensor, half: float = 0.5, own: bool = True, flip: bool = False) -> Tensor:
        """Return the cells' places (B, S, 2), divided by their own level's ratio if ``own``."""
        levels = []
        for level, (height, width) in enumerate(shapes):
            y, x = torch.meshgrid(torch.arange(height) + half, torch.arange(width) + half, indexing="ij")
            cells = torch.stack((x.flatten() / width, y.flatten() / height), dim=-1)  # (H*W, 2)
            divisor = ratios[:, None, level] if own else torch.ones(len(ratios), 1, 2)
            levels.append(cells / (divisor.flip(-1) if flip else divisor))
        return torch.cat(levels, dim=1)

    def own_ratio(shapes: Shapes, ratios: Tensor) -> Tensor:
        areas = torch.tensor([height * width for height, width in shapes])
        return ratios.repeat_interleave(areas, dim=1)  # (B, S, 2)

    def columns_first(shapes: Shapes, ratios: Tensor) -> Tensor:
        right, pieces = reference(shapes, ratios), []
        for piece, (height, width) in zip(right.split([h * w for h, w in shapes], dim=1), shapes, strict=True):
            pieces.append(piece.unflatten(1, (height, width)).transpose(1, 2).flatten(1, 2))
        return torch.cat(pieces, dim=1)

    def everywhere(shapes: Shapes, places: Tensor) -> Tensor:
        return places[:, :, None].expand(-1, -1, len(shapes), 2)

    def scaled(shapes: Shapes, ratios: Tensor, exchanged: bool) -> Tensor:
        """Return the right places times the size of each token's level, divided by its size the other way round."""
        levels = []
        for height, width in shapes:
            one, two = (height, width) if exchanged else (1, 1)
            levels.append(torch.tensor([width / one, height / two]).expand(height * width, 2))
        return reference(shapes, ratios) * torch.cat(levels)[None, :, None]

    mistakes = [
        Mistake(
            lambda shapes, ratios: centres(shapes, ratios, own=False)[:, :, None] * ratios[:, None],
            "the centres were not divided by their own level's ratio: padded and real fractions are mixed, and a cell "
            "of a padded level does not look at itself.",
        ),
        Mistake(
            lambda shapes, ratios: everywhere(shapes, centres(shapes, ratios)),
            "these are fractions of the unpadded picture on all levels: multiply by the ratio of each level read.",
        ),
        Mistake(
            lambda shapes, ratios: everywhere(shapes, centres(shapes, ratios, own=False)),
            "the ratios play no part: this is right only for a picture that fills its frame.",
        ),
        Mistake(
            lambda shapes, ratios: everywhere(shapes, centres(shapes, ratios) * own_ratio(shapes, ratios)),
            "every token was multiplied by its own level's ratio, for all levels: take that of the level that is read.",
        ),
        Mistake(
            lambda shapes, ratios: centres(shapes, ratios, flip=True)[:, :, None] * ratios.flip(-1)[:, None],
            "the ratios were taken as (height, width): they are (width, height), like a point.",
        ),
        Mistake(
            lambda shapes, ratios: centres(shapes, ratios, half=0.0)[:, :, None] * ratios[:, None],
            "these are the corners of the cells: the centre of column 0 is at 0.5.",
        ),
        Mistake(columns_first, "the tokens stand column after column: a map is flattened row after row."),
        Mistake(
            lambda shapes, ratios: reference(shapes, ratios).flip(-1),
            "x and y are exchanged: a point is (x, y), and x runs along the width.",
        ),
        Mistake(
            lambda shapes, ratios: scaled(shapes, ratios, exchanged=False),
            "these places count cells: divide x by the width and y by the height of the token's own level.",
        ),
        Mistake(
            lambda shapes, ratios: scaled(shapes, ratios, exchanged=True),
            "x was divided by the height and y by the width of the level: a shape is (H, W).",
        ),
    ]
    rng = generator(102)
    cases = []
    for _ in range(5):
        shapes = _shapes(rng)
        cases.append((shapes, encoder.valid_ratios(_masks(rng, random_integer(rng, 1, 3), shapes))))
    return check_function(answer, reference, cases, mistakes, name="reference_points")


def _whole_number(answer: Answer) -> Answer:
    """Make a function that returns a number return a tensor, which the comparison can show."""

    def wrapped(*arguments: Any) -> Any:
        got = answer(*arguments)
        return torch.tensor(got) if isinstance(got, Real) else got

    return wrapped if callable(answer) else answer


def encoder_cost(answer: Answer) -> Passed:
    """Check a function from L shapes, C, M, P, F and the number of layers to the encoder's multiply-adds."""

    def cost(
        shapes: Shapes, C: int, M: int, P: int, F: int, layers: int, other: dict[str, int] | None = None
    ) -> Tensor:
        other = other or {}
        S, L = sum(height * width for height, width in shapes), other.get("L", len(shapes))
        reading = other.get("reading", 5) * L * P
        token = other.get("projections", 2) * C + other.get("predicted", 3) * other.get("heads", M) * L * P + reading
        return torch.tensor(layers * S * other.get("channels", C) * (token + other.get("linears", 2) * F))

    def reference(shapes: Shapes, C: int, M: int, P: int, F: int, layers: int) -> Tensor:
        return cost(shapes, C, M, P, F, layers)

    def wrong(**other: int) -> Answer:
        return partial(cost, other=other)

    def dense(shapes: Shapes, C: int, M: int, P: int, F: int, layers: int) -> Tensor:
        S = sum(height * width for height, width in shapes)
        return torch.tensor(layers * S * C * (4 * C + 2 * S + 2 * F))

    mistakes = [
        Mistake(reference, "the number is right, but not a whole one: * and ** of integers keep it whole, / does not."),
        Mistake(
            lambda shapes, C, M, P, F, layers: cost(((1, 1),), C, M, P, F, layers, {"L": len(shapes), "channels": 1}),
            "the equation is divided by S C: multiply by the number of tokens and by the channels.",
        ),
        Mistake(wrong(channels=1), "the equation is divided by S C: the channels C are still missing as a factor."),
        Mistake(
            lambda shapes, C, M, P, F, layers: cost(shapes, C, M, P, F, layers, {"reading": 5 * M}),
            "a head reads its own C / M channels of a sample: all heads together read C, so reading has no factor M.",
        ),
        Mistake(wrong(heads=1), "each of the M heads predicts offsets and weights of its own: 3 M L P outputs."),
        Mistake(
            lambda shapes, C, M, P, F, layers: cost(shapes, C, M, P, F, 1),
            "that is one layer: multiply by their number.",
        ),
        Mistake(
            lambda shapes, C, M, P, F, layers: cost(shapes[:1], C, M, P, F, layers, {"L": len(shapes)}),
            "only the tokens of the first level were counted: the cells of all levels are queries.",
        ),
        Mistake(wrong(L=1), "one level's points were counted: a head reads P points on each of the L levels."),
        Mistake(wrong(linears=1), "the small network has two linear maps, C to F and F to C."),
        Mistake(wrong(projections=1), "one projection was counted: there are two, of the values and of the output."),
        Mistake(
            wrong(projections=4),
            "four projections are those of dense attention: here neither queries nor keys are projected.",
        ),
        Mistake(wrong(predicted=2), "the weights are predicted too: an offset is two numbers, a weight is the third."),
        Mistake(
            wrong(reading=1), "a sample has four corners: four multiplications, and a fifth with the attention weight."
        ),
        Mistake(wrong(reading=4), "the four corners are counted, but not the multiplication by the attention weight."),
        Mistake(dense, "that is the cost of dense attention, each token with each."),
    ]
    rng = generator(103)
    cases = []
    for _ in range(6):
        heads = random_integer(rng, 2, 8)
        channels, points, hidden = heads * random_integer(rng, 2, 9), random_integer(rng, 2, 6), 16
        cases.append(
            (_shapes(rng), channels, heads, points, hidden * random_integer(rng, 2, 9), random_integer(rng, 2, 6))
        )
    return check_function(_whole_number(answer), reference, cases, mistakes, name="encoder_cost")


def _random_layer(seed: int, levels: int) -> encoder.EncoderLayer:
    """Return a small layer in which no parameter is zero, so that none can be forgotten unseen."""
    config = DeformableDetrConfig(
        d_model=32, encoder_ffn_dim=24, encoder_attention_heads=2, encoder_n_points=3, num_feature_levels=levels
    )
    layer, rng = encoder.EncoderLayer(config).eval(), generator(seed)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.4, generator=rng)
    return layer.requires_grad_(False)


def encoder_step(answer: Answer) -> Passed:
    """Check a function from an EncoderLayer, z and e (B, S, C), references, shapes and mask to new tokens (B, S, C)."""

    def step(
        layer: encoder.EncoderLayer, z: Tensor, e: Tensor, references: Tensor, shapes: Shapes, mask: Tensor
    ) -> Tensor:
        return layer(z, e, references, shapes, attention_mask=mask)[0]

    def read(layer: encoder.EncoderLayer, query: Tensor, z: Tensor, where: tuple[Any, ...]) -> Tensor:
        references, shapes, mask = where
        return layer.self_attn(query, z, references, shapes, attention_mask=mask)[0]

    def network(layer: encoder.EncoderLayer, z: Tensor) -> Tensor:
        return layer.fc2(layer.fc1(z).relu())

    def end(layer: encoder.EncoderLayer, z: Tensor) -> Tensor:
        return layer.final_layer_norm(z + network(layer, z))

    def carried(layer: encoder.EncoderLayer, z: Tensor, e: Tensor, *where: Any) -> Tensor:
        return step(layer, z + e, e * 0, *where)

    def in_sum(layer: encoder.EncoderLayer, z: Tensor, e: Tensor, *where: Any) -> Tensor:
        return end(layer, layer.self_attn_layer_norm(z + e + read(layer, z + e, z, where)))

    def in_values(layer: encoder.EncoderLayer, z: Tensor, e: Tensor, *where: Any) -> Tensor:
        return end(layer, layer.self_attn_layer_norm(z + read(layer, z + e, z + e, where)))

    def no_first_sum(layer: encoder.EncoderLayer, z: Tensor, e: Tensor, *where: Any) -> Tensor:
        return end(layer, layer.self_attn_layer_norm(read(layer, z + e, z, where)))

    def no_second_sum(layer: encoder.EncoderLayer, z: Tensor, e: Tensor, *where: Any) -> Tensor:
        z = layer.self_attn_layer_norm(z + read(layer, z + e, z, where))
        return layer.final_layer_norm(network(layer, z))

    def norm_first(layer: encoder.EncoderLayer, z: Tensor, e: Tensor, *where: Any) -> Tensor:
        normed = layer.self_attn_layer_norm(z)
        z = z + read(layer, normed + e, normed, where)
        return z + network(layer, layer.final_layer_norm(z))

    def no_activation(layer: encoder.EncoderLayer, z: Tensor, e: Tensor, *where: Any) -> Tensor:
        z = layer.self_attn_layer_norm(z + read(layer, z + e, z, where))
        return layer.final_layer_norm(z + layer.fc2(layer.fc1(z)))

    def first_norm_twice(layer: encoder.EncoderLayer, z: Tensor, e: Tensor, *where: Any) -> Tensor:
        z = layer.self_attn_layer_norm(z + read(layer, z + e, z, where))
        return layer.self_attn_layer_norm(z + network(layer, z))

    def no_first_norm(layer: encoder.EncoderLayer, z: Tensor, e: Tensor, *where: Any) -> Tensor:
        return end(layer, z + read(layer, z + e, z, where))

    def remasked(change: Any) -> Answer:
        return lambda layer, z, e, references, shapes, mask: step(layer, z, e, references, shapes, change(mask))

    mistakes = [
        Mistake(
            carried,
            "the embedding went into values and sum as well: it belongs to the query only, which chooses places and "
            "weights.",
        ),
        Mistake(in_sum, "the embedding is in the sum: what is added to the result of attention is z alone."),
        Mistake(in_values, "the embedding is in the values: what is read from a token is z alone."),
        Mistake(
            lambda layer, z, e, *where: step(layer, z, e * 0, *where),
            "the embedding plays no part: without it the query does not know its place and its level.",
        ),
        Mistake(remasked(torch.ones_like), "padded tokens are read: attention did not get the mask."),
        Mistake(remasked(torch.logical_not), "the mask is inverted: it is True on real cells."),
        Mistake(no_first_sum, "the result of attention replaces the tokens: it is added to them."),
        Mistake(no_second_sum, "the result of the small network replaces the tokens: it is added to them."),
        Mistake(norm_first, "the norms stand before attention and network: here each follows its sum."),
        Mistake(no_activation, "the small network has no activation: two linear maps in a row are one."),
        Mistake(first_norm_twice, "the first norm was used twice: the second sum has final_layer_norm, its own."),
        Mistake(no_first_norm, "the first sum was not normalised: it goes through self_attn_layer_norm."),
    ]
    rng = generator(104)
    cases = []
    for seed in range(4):
        shapes = (random_size(rng, 2, 6), random_size(rng, 2, 4), (2, 3))
        masks = _masks(rng, 2, shapes)
        tokens = sum(height * width for height, width in shapes)
        z, e = torch.randn(2, 2, tokens, 32, generator=rng)
        references = encoder.encoder_reference_points(shapes, encoder.valid_ratios(masks))
        mask = torch.cat([level.flatten(1) for level in masks], dim=1)
        cases.append((_random_layer(seed, len(shapes)), z, e, references, shapes, mask))
    return check_function(answer, step, cases, mistakes, name="encoder_step")
