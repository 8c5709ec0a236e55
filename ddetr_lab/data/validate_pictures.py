"""What a picture file really is: decoded once, in threads, and told as facts and findings.

Built in chapter 18.
"""

from __future__ import annotations

import hashlib
import os
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from PIL import ExifTags, Image, UnidentifiedImageError

from ddetr_lab.image_inputs import to_rgb

__all__ = ["PICTURE_ENDINGS", "PictureFacts", "inspect_picture", "inspect_pictures"]

PICTURE_ENDINGS = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp", ".jp2", ".ppm", ".pgm"))

# What Pillow's decoders, or a codec beneath them, raise on a spoilt file.
_DAMAGE = (
    OSError,
    SyntaxError,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
)
_CHUNK = 512  # pictures in flight, so that a million of them need no million of futures
_SMALLEST = 16
_STRIP = 1 << 24  # pixels that are summed up at once
_LARGE = Lock()
# What a mode means for training; RGB means nothing.
_MODES = {
    "1": ("picture-grey", "has black and white only"),
    "L": ("picture-grey", "is grey"),
    "P": ("picture-palette", "has a palette"),
    "CMYK": ("picture-cmyk", "has the mode CMYK"),
    "RGBA": ("picture-alpha", "has an alpha channel"),
    "LA": ("picture-alpha", "is grey with an alpha channel"),
    "PA": ("picture-alpha", "has a palette with an alpha channel"),
    "I": ("picture-deep", "has more than 8 bits a pixel (mode I)"),
    "F": ("picture-deep", "has floating-point pixels (mode F)"),
}
_READABLE = frozenset(("RGB", "1", "L", "P", "CMYK", "RGBA", "LA", "PA"))  # whatever their pixels are
_SAME_FORMAT = {"MPO": "JPEG"}  # a JPEG with a second picture in it, as some cameras write


@dataclass(frozen=True)
class PictureFacts:
    """What is known of a picture file.

    Attributes:
        path: of the file.
        stored: (width, height) of its pixels in _px; (0, 0) if it cannot be decoded.
        upright: the same after turning it as EXIF says.
        orientation: EXIF's number, 1 to 8; 1 is upright.
        digest: of size and pixels; "" if it cannot be decoded.
        findings: (kind, message).
    """

    path: Path
    stored: tuple[int, int] = (0, 0)
    upright: tuple[int, int] = (0, 0)
    orientation: int = 1
    digest: str = ""
    findings: tuple[tuple[str, str], ...] = ()


def inspect_picture(path: Path) -> PictureFacts:
    """Decode a picture file and tell what it is; a spoilt one is a finding, never an exception."""
    try:
        if path.stat().st_size == 0:
            return _failed(path, "picture-empty", "0 bytes")
        with Image.open(path) as picture:
            # One large picture at a time: each may take a gigabyte, and there are as many threads as processors.
            with _LARGE if _is_large(picture) else nullcontext():
                facts = _facts(path, picture)
            if picture.format == "PNG":
                _check_sums(path)
            return facts
    except PermissionError as error:
        return _failed(path, "picture-unreadable", str(error.strerror))
    except UnidentifiedImageError:
        return _failed(path, "picture-no-picture", f"the file begins with {_beginning(path)!r}")
    except Image.DecompressionBombError as error:
        return _failed(path, "picture-huge", str(error))
    except _DAMAGE as error:
        return _failed(path, "picture-damaged", f"{type(error).__name__}: {str(error)[:100]}")


def inspect_pictures(paths: Sequence[Path], workers: int | None = None) -> Iterator[PictureFacts]:
    """Inspect many pictures in threads, in their order: decoders run beside one another, outside Python's lock.

    Args:
        paths: of the files.
        workers: threads; by default as many as processors.
    """
    with warnings.catch_warnings(), ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        warnings.simplefilter("ignore")  # "corrupt EXIF data" and the like: what matters is told as a finding
        for start in range(0, len(paths), _CHUNK):
            yield from pool.map(inspect_picture, paths[start : start + _CHUNK])


def _facts(path: Path, picture: Image.Image) -> PictureFacts:
    format_ = picture.format or ""
    # Not n_frames, which walks through all of them: a file of a few kilobytes may claim a million.
    animated = getattr(picture, "is_animated", False) and format_ not in _SAME_FORMAT
    orientation = _orientation(picture)
    deep = picture.format == "PNG" and _png_depth(path) == 16
    picture.load()
    digest = _digest(picture)
    findings = []
    kind, message = _MODES.get(picture.mode, ("picture-mode", f"has the mode {picture.mode}"))
    if picture.mode.startswith("I;") or deep:
        kind, message = "picture-deep", f"has 16 bits a channel (read as mode {picture.mode})"
    if picture.mode not in ("RGB", "YCbCr") or deep:
        findings.append(_without_rgb(picture) or (kind, message))
    if _is_large(picture):
        findings.append(("picture-large", f"measures {picture.width}x{picture.height}"))
    if path.is_symlink() and not path.resolve().is_relative_to(path.parent.resolve()):
        findings.append(("picture-link", f"is a link to {path.resolve()}"))
    if animated:
        findings.append(("picture-animated", "has more than one frame"))
    if orientation != 1:
        findings.append(("picture-turned", f"carries the EXIF orientation {orientation}: viewers turn it"))
    if min(picture.size) < _SMALLEST:
        findings.append(("picture-small", f"measures {picture.width}x{picture.height}"))
    expected = Image.registered_extensions().get(path.suffix.lower(), "")
    if _SAME_FORMAT.get(expected, expected) != _SAME_FORMAT.get(format_, format_):
        findings.append(("picture-extension", f"ends in {path.suffix or 'nothing'}, but is {format_}"))
    upright = picture.size[::-1] if orientation >= 5 else picture.size
    return PictureFacts(path, picture.size, upright, orientation, digest, tuple(findings))


def _is_large(picture: Image.Image) -> bool:
    """Tell whether Pillow warns of a picture's size; from twice as many pixels on it refuses to open it."""
    return Image.MAX_IMAGE_PIXELS is not None and picture.width * picture.height > Image.MAX_IMAGE_PIXELS


def _digest(picture: Image.Image) -> str:
    """Sum up size, mode and pixels, a strip at a time, so that the pixels are not in memory twice."""
    digest = hashlib.blake2b(repr((picture.size, picture.mode)).encode(), digest_size=16)
    rows = max(1, _STRIP // max(1, picture.width))
    for top in range(0, picture.height, rows):
        whole = rows >= picture.height
        strip = picture if whole else picture.crop((0, top, picture.width, min(top + rows, picture.height)))
        digest.update(strip.tobytes())
    if picture.palette is not None:
        digest.update(picture.palette.tobytes())
    return digest.hexdigest()


def _without_rgb(picture: Image.Image) -> tuple[str, str] | None:
    """Return a finding if the pixels have no form that training can read."""
    if picture.mode in _READABLE:
        return None
    try:
        to_rgb(picture)
    except ValueError as error:
        return "picture-no-rgb", str(error)
    return None


def _check_sums(path: Path) -> None:
    """Raise what Pillow raises on a PNG whose checksums are wrong: decoding it does not look at them."""
    with Image.open(path) as picture:
        picture.verify()


def _failed(path: Path, kind: str, message: str) -> PictureFacts:
    return PictureFacts(path, findings=((kind, message),))


def _orientation(picture: Image.Image) -> int:
    try:
        value = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except _DAMAGE:  # a damaged EXIF block says nothing
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _png_depth(path: Path) -> int:
    """Read the bits a channel from a PNG's header: Pillow reads 16-bit colour as 8 bits, and does not say so."""
    with path.open("rb") as stream:
        header = stream.read(25)
    return header[24] if len(header) == 25 else 0


def _beginning(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(16)
