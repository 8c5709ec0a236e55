"""Odd pictures of every kind, made here one by one, each told with its id."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ddetr_lab.data import validate_pictures
from ddetr_lab.data.coco import CocoDataset
from ddetr_lab.data.validate import validate_dataset
from ddetr_lab.data.validate_pictures import inspect_picture
from tests.data.good_folder import HEIGHT, WIDTH, good, pixels, write


def save(name=None, **options):
    """Return a maker: the picture saved by Pillow as it is, under another name if one is given."""
    return lambda path, picture: picture.save(path.with_name(name) if name else path, **options)


def mode(name, ending=None, **options):
    def make(path, picture):
        target = path.with_suffix(ending) if ending else path
        picture.convert(name).save(target, **options)

    return make


def raw(change):
    def make(path, picture):
        picture.save(path)
        path.write_bytes(change(path.read_bytes()))

    return make


def turned(orientation):
    def make(path, picture):
        exif = Image.Exif()
        exif[0x0112] = orientation
        picture.save(path.with_suffix(".jpg"), exif=exif)

    return make


def deep(path, picture):
    Image.fromarray(np.arange(WIDTH * HEIGHT, dtype=np.uint16).reshape(HEIGHT, WIDTH) * 20).save(path)


def beyond(path, picture):
    Image.fromarray(np.linspace(-5, 5000, WIDTH * HEIGHT, dtype=np.float32).reshape(HEIGHT, WIDTH)).save(
        path.with_suffix(".tif")
    )


def link(path, picture):
    picture.save(path.parent.parent / "elsewhere.png")
    path.symlink_to(path.parent.parent / "elsewhere.png")


def animated(path, picture):
    picture.save(path.with_suffix(".gif"), save_all=True, append_images=[picture.rotate(90 * n) for n in (1, 2)])


def chunk(kind, data):
    """Return a chunk of a PNG file: length, kind, content, checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def deep_colour(path, picture):
    """A PNG of 16 bits in three channels, which Pillow reads but cannot write."""
    rows = b"".join(b"\0" + bytes(6 * WIDTH) for _ in range(HEIGHT))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


# name: (how the picture of id 12 is made instead, its ending, kind of finding)
PICTURES = {
    "missing": (lambda path, picture: None, ".png", "picture-missing"),
    "a folder": (lambda path, picture: path.mkdir(), ".png", "picture-missing"),
    "zero bytes": (raw(lambda data: b""), ".png", "picture-empty"),
    "a few bytes": (raw(lambda data: data[:10]), ".png", "picture-no-picture"),
    "cut short PNG": (raw(lambda data: data[: len(data) // 2]), ".png", "picture-damaged"),
    "cut short JPEG": (
        lambda path, picture: (
            picture.save(path.with_suffix(".jpg")),
            path.with_suffix(".jpg").write_bytes(path.with_suffix(".jpg").read_bytes()[:900]),
        ),
        ".jpg",
        "picture-damaged",
    ),
    "flipped bytes": (
        raw(lambda data: data[:60] + bytes(b ^ 255 for b in data[60:200]) + data[200:]),
        ".png",
        "picture-damaged",
    ),
    "text": (raw(lambda data: b"<html>404 not found</html>"), ".png", "picture-no-picture"),
    "another size": (lambda path, picture: picture.resize((32, 24)).save(path), ".png", "picture-size"),
    "turned a quarter": (turned(6), ".jpg", "picture-turned"),
    "mirrored": (turned(2), ".jpg", "picture-turned"),
    "16 bits grey": (deep, ".png", "picture-deep"),
    "16 bits colour": (deep_colour, ".png", "picture-deep"),
    "32 bits": (mode("I", ".tif"), ".tif", "picture-deep"),
    "floats": (mode("F", ".tif"), ".tif", "picture-deep"),
    "CMYK": (mode("CMYK", ".jpg"), ".jpg", "picture-cmyk"),
    "LAB": (
        lambda path, picture: Image.new("LAB", picture.size).save(path.with_suffix(".tif")),
        ".tif",
        "picture-mode",
    ),
    "floats of any size": (beyond, ".tif", "picture-no-rgb"),
    "a link": (link, ".png", "picture-link"),
    "animated": (animated, ".gif", "picture-animated"),
    "grey": (mode("L"), ".png", "picture-grey"),
    "black and white": (mode("1"), ".png", "picture-grey"),
    "palette": (mode("P"), ".png", "picture-palette"),
    "alpha": (mode("RGBA"), ".png", "picture-alpha"),
    "grey with alpha": (mode("LA"), ".png", "picture-alpha"),
    "wrong ending": (save(format="JPEG"), ".png", "picture-extension"),
    "no ending": (save("12", format="PNG"), "", "picture-extension"),
    "another ending": (save("12.jpg"), ".png", "picture-missing"),
    "a copy": (lambda path, picture: Image.fromarray(pixels(0)).save(path), ".png", "picture-twice"),
    "a copy in another format": (
        lambda path, picture: Image.fromarray(pixels(0)).save(path.with_suffix(".bmp")),
        ".bmp",
        "picture-twice",
    ),
    "a stamp": (lambda path, picture: picture.resize((64, 12)).save(path), ".png", "picture-small"),
}


def test_there_are_at_least_20_kinds():
    print(f"{len(PICTURES)} kinds of picture")
    assert len(PICTURES) >= 20


@pytest.mark.parametrize("name", PICTURES)
def test_an_odd_picture_is_told_with_its_id(tmp_path, name):
    make, ending, kind = PICTURES[name]
    content = good()
    content["images"][1]["file_name"] = f"12{ending}"
    folder = write(tmp_path / "set", content)
    (folder / "12.png").unlink()
    make(folder / "12.png", Image.fromarray(pixels(1)))
    report = validate_dataset(folder)
    assert 12 in [finding.image_id for finding in report.of(kind)], [finding.line() for finding in report.findings]
    assert {finding.image_id for finding in report.findings if finding.image_id is not None} == {12}
    if report.ok:  # then training can read it
        assert CocoDataset(folder)[1][0].mode == "RGB"


def test_a_picture_too_large_to_open_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    folder = write(tmp_path / "set", good())
    report = validate_dataset(folder)
    assert [finding.image_id for finding in report.of("picture-huge")] == [11, 12, 13, 14]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)  # 64 x 48 lies between: Pillow warns, and opens it
    report = validate_dataset(folder, workers=4)
    assert report.ok and [finding.image_id for finding in report.of("picture-large")] == [11, 12, 13, 14]


def test_a_bomb_of_a_kilobyte_is_not_decoded(tmp_path):
    """40,000 x 40,000 pixels of nothing, which zlib writes in next to no bytes; decoded it would take 4.8 GB."""
    folder = write(tmp_path / "set", good())
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    (folder / "12.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10**6)))
        + chunk(b"IEND", b"")
    )
    (finding,) = validate_dataset(folder).of("picture-huge")
    assert finding.image_id == 12 and (folder / "12.png").stat().st_size < 2000


def test_pixels_are_summed_up_strip_by_strip_to_the_same_as_in_one_piece(tmp_path, monkeypatch):
    path = write(tmp_path / "set", good()) / "11.png"
    whole = inspect_picture(path).digest
    monkeypatch.setattr(validate_pictures, "_STRIP", 5 * WIDTH)
    assert inspect_picture(path).digest == whole


def test_a_missing_picture_with_another_ending_is_guessed(tmp_path):
    content = good()
    content["images"][1]["file_name"] = "12.jpg"
    (finding,) = validate_dataset(write(tmp_path / "set", content)).of("picture-missing")
    assert finding.message.endswith("is it 12.png?")
