"""Any picture in, an array of known layout out: files, Pillow pictures, numpy arrays and torch tensors.

Most wrong boxes begin here, with a picture that is not what it seems: a grey scan, a palette PNG, a photograph
whose camera noted "turn me" in its EXIF block, sixteen bits a pixel, a file cut short by a full disk. Each is
either brought to 8-bit RGB by a rule written down below, or refused by name.

Built in chapter 2.
"""

from __future__ import annotations

import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from ddetr_lab.choices import Choice

__all__ = [
    "ChannelDimension",
    "Picture",
    "array_of",
    "image_size",
    "infer_channel_dimension_format",
    "layout_of",
    "load_image",
    "looks_rescaled",
    "named_picture",
    "number_of_channels",
    "read_pictures",
    "to_channel_dimension_format",
    "to_rgb",
]

Picture: TypeAlias = Image.Image | np.ndarray

# What Pillow raises, beside OSError, when a decoder meets a damaged file.
_DECODING_ERRORS = (OSError, SyntaxError, EOFError, ValueError, IndexError, struct.error)


class ChannelDimension(Choice):
    """Where the colour axis of an array stands."""

    FIRST = "channels_first"
    LAST = "channels_last"


def load_image(source: str | os.PathLike[str] | BinaryIO | Image.Image) -> Image.Image:
    """Read a picture file as an upright 8-bit RGB picture.

    The EXIF orientation is applied, so width and height are those that a viewer shows. The processor does not do
    this for a Pillow picture handed to it: its annotations may refer to the pixels as stored.

    Args:
        source: a path, an open binary file, or a Pillow picture.

    Returns:
        the picture in mode RGB, decoded, with no file left open.

    Raises:
        FileNotFoundError: if the path does not exist.
        ValueError: if the file is empty, truncated, not a picture, the picture has no pixels, or more of them than
            Pillow opens (twice ``PIL.Image.MAX_IMAGE_PIXELS``).
        TypeError: if ``source`` is none of the above.

    Built in chapter 1.
    """
    if isinstance(source, Image.Image):
        return to_rgb(_upright(source, "source"), "source")
    if isinstance(source, (str, os.PathLike)):
        name = str(source)
        _check_file(Path(source))
    elif hasattr(source, "read"):
        name = str(getattr(source, "name", "the open file"))
    else:
        raise TypeError(f"source has type {type(source).__name__}: expected a path, an open binary file or a picture")
    try:
        with Image.open(source) as picture:
            return to_rgb(_upright(picture, name), name)
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} is not a picture that Pillow can read: convert it to PNG or JPEG") from error
    except Image.DecompressionBombError as error:  # it names the pixels and the limit
        raise ValueError(
            f"{name} is too large to be opened safely ({error}): scale it down, or cut it into tiles, first; "
            "if you trust the file and have the memory, raise PIL.Image.MAX_IMAGE_PIXELS"
        ) from error


def _check_file(path: Path) -> None:
    if not path.exists():
        raise FileNotFoundError(f"no picture at {path}: check the path (now in {Path.cwd()})")
    if not path.is_file():
        raise ValueError(f"{path} is not a file: give the path of one picture")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes): download or copy it again")


def _decode(picture: Image.Image, name: str) -> None:
    if 0 in picture.size:
        raise ValueError(f"{name} has no pixels: its size (width, height) is {picture.size}")
    try:
        picture.load()
    except _DECODING_ERRORS as error:
        raise ValueError(f"{name} is truncated or damaged ({error}): download or copy the file again") from error


def _upright(picture: Image.Image, name: str) -> Image.Image:
    """Turn a picture as its EXIF orientation says; a damaged EXIF block says nothing."""
    _decode(picture, name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # "Corrupt EXIF data": then there is nothing to obey
            return ImageOps.exif_transpose(picture)
    except _DECODING_ERRORS:
        return picture


def _eight_bits(picture: Image.Image, name: str) -> Image.Image:
    """Bring a grey picture of 16-bit, 32-bit or float pixels to 8 bits: (0, 65535), (0, 255) or (0, 1) to (0, 255)."""
    pixels = np.asarray(picture)
    low, high = pixels.min(), pixels.max()
    if picture.mode.startswith("I;16"):
        top = 65535
    elif low >= 0 and high <= 1 and picture.mode == "F":
        top = 1
    elif low >= 0 and high <= 255:
        top = 255
    elif low >= 0 and high <= 65535 and picture.mode == "I":
        top = 65535
    else:
        raise ValueError(
            f"{name} has mode {picture.mode} with values from {low} to {high}: expected 0 to 255 "
            "(or 0 to 65535 in whole numbers, or 0 to 1 in floats); scale it to 8 bits first"
        )
    return Image.fromarray(np.rint(pixels.astype(np.float64) * (255 / top)).astype(np.uint8))


def to_rgb(picture: Image.Image, name: str = "the picture") -> Image.Image:
    """Convert a Pillow picture of any mode to decoded 8-bit RGB.

    Grey is repeated; transparency is dropped, not blended; palettes and CMYK are looked up; 16-bit grey is
    divided by 257. An RGB picture comes back as the same object.

    Args:
        picture: any Pillow picture.
        name: what the error message calls it.

    Raises:
        ValueError: if the picture has no pixels, its file is truncated, or its mode has no RGB form.
    """
    _decode(picture, name)
    if picture.mode == "RGB":
        return picture
    if picture.mode.startswith("I") or picture.mode == "F":
        return _eight_bits(picture, name).convert("RGB")
    if picture.mode == "PA" or (picture.mode == "P" and "transparency" in picture.info):
        picture = picture.convert("RGBA")  # Pillow warns when a palette loses its transparency in one step
    elif picture.mode in ("La", "RGBa"):
        picture = picture.convert(picture.mode.upper())  # undo the premultiplied alpha
    try:
        return picture.convert("RGB")
    except ValueError as error:
        raise ValueError(f"{name} has mode {picture.mode}, which has no RGB form here: convert it first") from error


def infer_channel_dimension_format(array: np.ndarray) -> ChannelDimension:
    """Say where the colour axis is: first if the first axis is 1 or 3, else last if the last one is.

    Both fitting, as in a picture of three rows, means first: that is the reference's rule. Say
    ``input_data_format`` where it could be wrong.

    Args:
        array: (C, H, W) or (H, W, C), or a batch of either.

    Raises:
        ValueError: if the array is not 3-D or 4-D, or neither axis is 1 or 3.
    """
    if array.ndim not in (3, 4):
        raise ValueError(f"a picture array has 3 axes (4 in a batch), but this one has shape {array.shape}")
    if array.shape[array.ndim - 3] in (1, 3):
        return ChannelDimension.FIRST
    if array.shape[-1] in (1, 3):
        return ChannelDimension.LAST
    raise ValueError(
        f"cannot tell the colour axis of an array of shape {array.shape}, neither end is 1 or 3: "
        "give input_data_format, and drop an alpha channel"
    )


def layout_of(picture: Picture, layout: str | ChannelDimension | None = None) -> ChannelDimension:
    """Return where the colours of a picture stand: last in Pillow's, as said or inferred in an array."""
    if isinstance(picture, Image.Image):
        return ChannelDimension.LAST
    return infer_channel_dimension_format(picture) if layout is None else ChannelDimension(layout)


def looks_rescaled(picture: Picture) -> bool:
    """Tell whether all values of an array that is not 8-bit lie between 0 and 1."""
    if isinstance(picture, Image.Image) or picture.dtype == np.uint8:
        return False
    return bool(picture.min() >= 0 and picture.max() <= 1)


def image_size(picture: Picture, layout: str | ChannelDimension | None = None) -> tuple[int, int]:
    """Return (height, width) of a Pillow picture or an array; ``layout`` is inferred if None."""
    if isinstance(picture, Image.Image):
        return picture.height, picture.width
    rows = picture.ndim - (2 if layout_of(picture, layout) is ChannelDimension.FIRST else 3)
    return picture.shape[rows], picture.shape[rows + 1]


def number_of_channels(picture: Picture, layout: str | ChannelDimension | None = None) -> int:
    """Return how many colours a pixel has; ``layout`` is inferred if None."""
    if isinstance(picture, Image.Image):
        return len(picture.getbands())
    return picture.shape[picture.ndim - (3 if layout_of(picture, layout) is ChannelDimension.FIRST else 1)]


def to_channel_dimension_format(
    array: np.ndarray, layout: str | ChannelDimension, input_layout: str | ChannelDimension | None = None
) -> np.ndarray:
    """Return a view of a 3-D array with its colour axis first or last; ``input_layout`` is inferred if None."""
    wanted = ChannelDimension(layout)
    if layout_of(array, input_layout) is wanted:
        return array
    return array.transpose((2, 0, 1) if wanted is ChannelDimension.FIRST else (1, 2, 0))  # one of CHW, HWC


def array_of(picture: Picture | torch.Tensor, layout: str | ChannelDimension | None = None) -> np.ndarray:
    """Return the pixels of one picture: an array or tensor as it is, a Pillow picture in ``layout`` (default last)."""
    if isinstance(picture, Image.Image):
        pixels = np.array(picture)
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels  # (H, W, 1)
        return to_channel_dimension_format(pixels, layout or ChannelDimension.LAST, ChannelDimension.LAST)
    if isinstance(picture, torch.Tensor):
        picture = picture.detach().cpu()
        return (picture.float() if picture.dtype == torch.bfloat16 else picture).numpy()  # numpy has no bfloat16
    return picture


@contextmanager
def named_picture(number: int) -> Iterator[None]:
    """Say in an error's message which picture of the batch it is about."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        if type(error) not in (KeyError, TypeError, ValueError):
            raise
        raise type(error)(f"picture {number}: {error.args[0]}") from error


def _as_list(images: Any) -> list[Any]:
    if isinstance(images, (list, tuple)):
        if not images:
            raise ValueError("images is an empty list: expected at least one picture")
        return list(images)
    if isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim == 4:
        return list(images)
    return [images]


def _checked_array(picture: Any, name: str) -> np.ndarray:
    """Return one picture as a 3-D array of real numbers that has pixels and no NaN, or raise by name."""
    if not isinstance(picture, (np.ndarray, torch.Tensor)):
        remedy = "convert it to one of these"
        if isinstance(picture, (str, bytes, os.PathLike)):
            remedy = "read a file with ddetr_lab.image_inputs.load_image"
        elif isinstance(picture, (list, tuple)):
            remedy = "numpy.asarray makes an array of nested lists of numbers"
        what = type(picture).__name__
        raise ValueError(
            f"{name} has type {what}: expected a Pillow picture, a numpy array or a torch tensor; {remedy}"
        )
    array = array_of(picture)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} has dtype {array.dtype}: expected whole or floating-point numbers")
    if array.ndim not in (2, 3):
        raise ValueError(
            f"{name} has {array.ndim} axes, shape {array.shape}: expected (H, W), (C, H, W) or (H, W, C), "
            "or one 4-axis array for a whole batch"
        )
    if 0 in array.shape:
        raise ValueError(f"{name} has no pixels: its shape is {array.shape}")
    if array.dtype.kind == "f" and np.isnan(array.max()):
        raise ValueError(f"{name} holds NaN: find where it was computed, a NaN pixel makes the whole output NaN")
    return array


def read_pictures(
    images: Any, input_data_format: str | ChannelDimension | None = None, channels: int | None = None
) -> tuple[list[Picture], ChannelDimension]:
    """Make a list of pictures in one layout out of whatever the caller has.

    Args:
        images: one picture, a list of pictures, or a 4-D batch. A picture is a Pillow picture, a numpy array or a
            torch tensor with axes (C, H, W), (H, W, C) or (H, W).
        input_data_format: layout of the arrays; Pillow pictures know their own. If None the first picture decides,
            and a later one that cannot have that layout (no axis of 1 or 3 there) is turned to it.
        channels: how many the network takes; grey arrays are repeated to as many. None leaves them grey.

    Returns:
        the pictures, Pillow ones decoded to RGB and arrays turned to the layout, and that layout (last for Pillow).

    Raises:
        ValueError: if something is not a picture, has no pixels, holds NaN, or has no colour axis to be found; the
            message says which: ``images[2]``.

    Source: the reference's ``make_list_of_images`` and ``infer_channel_dimension_format``. Built in chapter 2.
    """
    wanted = None if input_data_format is None else ChannelDimension(input_data_format)
    common = wanted
    pictures: list[Picture] = []
    for i, picture in enumerate(_as_list(images)):
        name = f"images[{i}]"
        if isinstance(picture, Image.Image):
            pictures.append(to_rgb(picture, name))
            common = common or ChannelDimension.LAST
            continue
        array = _checked_array(picture, name)
        if array.ndim == 2:
            layout = common or ChannelDimension.LAST
            array = array[None] if layout is ChannelDimension.FIRST else array[..., None]
        elif wanted is None and not (common and array.shape[_colour_axis(common)] in (1, 3)):
            layout = _inferred(array, name, channels)
        else:
            layout = common or ChannelDimension.LAST
        if channels is not None and array.shape[_colour_axis(layout)] == 1:
            array = np.repeat(array, channels, axis=_colour_axis(layout))
        common = common or layout
        pictures.append(to_channel_dimension_format(array, common, layout))
    return pictures, common or ChannelDimension.LAST


def _inferred(array: np.ndarray, name: str, channels: int | None) -> ChannelDimension:
    first, _, last = array.shape
    if channels not in (None, 1) and first == 1 and last in (1, 3) and array.shape != (1, 1, 1):
        # The rule "first wins" would make a grey picture of a row of RGB pixels.
        raise ValueError(f"{name} has shape {array.shape}, grey either way round or one row: give input_data_format")
    try:
        return infer_channel_dimension_format(array)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _colour_axis(layout: ChannelDimension) -> int:
    return 0 if layout is ChannelDimension.FIRST else 2
