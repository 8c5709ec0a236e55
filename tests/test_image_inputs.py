"""Any picture in: files of every kind, arrays of every layout, and what is refused by name."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from ddetr_lab.image_inputs import (
    ChannelDimension,
    array_of,
    image_size,
    infer_channel_dimension_format,
    load_image,
    number_of_channels,
    read_pictures,
    to_channel_dimension_format,
    to_rgb,
)

FIRST, LAST = ChannelDimension.FIRST, ChannelDimension.LAST


def rgb(height: int = 6, width: int = 9) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def test_a_file_comes_back_pixel_by_pixel(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(Image.fromarray(rgb())))
    with open(path, "rb") as stream:
        for source in (path, str(path), stream, Image.open(io.BytesIO(path.read_bytes()))):
            picture = load_image(source)
            assert picture.mode == "RGB" and np.array_equal(np.asarray(picture), rgb())


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: a[::-1, ::-1].transpose(1, 0, 2)),
        (8, lambda a: np.rot90(a)),
    ],
)
def test_the_exif_orientation_is_applied_once(tmp_path, orientation, turned):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.png"
    path.write_bytes(encoded(Image.fromarray(rgb()), exif=exif))
    picture = load_image(path)
    expected = turned(rgb())
    assert np.array_equal(np.asarray(picture), expected)
    assert np.array_equal(np.asarray(load_image(picture)), expected), "turned twice"
    # The processor leaves stored pixels as they are: annotations may refer to them.
    (stored,), _ = read_pictures(Image.open(path))
    assert np.array_equal(np.asarray(stored), rgb())


def test_a_damaged_exif_block_turns_nothing(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(Image.fromarray(rgb()), exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff"))
    assert np.array_equal(np.asarray(load_image(path)), rgb())
    path.write_bytes(encoded(Image.fromarray(rgb()), exif=b"nonsense"))
    assert np.array_equal(np.asarray(load_image(path)), rgb())


GREY = np.arange(54, dtype=np.uint8).reshape(6, 9) * 4


def palette_with_transparency() -> Image.Image:
    picture = Image.frombytes("P", (9, 6), bytes([0, 1, 2] * 18))
    picture.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    picture.info["transparency"] = bytes([0, 128, 255])
    return picture


def test_a_palette_is_looked_up_without_a_warning(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(palette_with_transparency()))
    picture = load_image(path)
    assert np.asarray(picture)[0, :3].tolist() == [[10, 20, 30], [40, 50, 60], [70, 80, 90]]
    assert np.array_equal(np.asarray(to_rgb(palette_with_transparency().convert("PA"))), np.asarray(picture))


@pytest.mark.parametrize("mode", ["L", "LA", "La"])
def test_grey_is_repeated(mode):
    picture = Image.fromarray(GREY)
    for step in {"L": [], "LA": ["LA"], "La": ["LA", "La"]}[mode]:
        picture = picture.convert(step)
    assert np.array_equal(np.asarray(to_rgb(picture)), np.repeat(GREY[..., None], 3, axis=2))


@pytest.mark.parametrize("mode", ["RGBA", "RGBX"])
def test_alpha_is_dropped_not_blended(mode):
    pixels = np.dstack([rgb(), np.zeros((6, 9), dtype=np.uint8)])  # wholly transparent
    assert np.array_equal(np.asarray(to_rgb(Image.frombytes(mode, (9, 6), pixels.tobytes()))), rgb())


def test_premultiplied_alpha_is_undone():
    pixels = np.dstack([rgb() // 2 * 2, np.full((6, 9), 255, dtype=np.uint8)])
    picture = Image.fromarray(pixels).convert("RGBa")
    assert np.array_equal(np.asarray(to_rgb(picture)), rgb() // 2 * 2)


def test_black_and_white():
    assert np.array_equal(np.asarray(to_rgb(Image.fromarray(GREY > 99)))[..., 1], (GREY > 99) * np.uint8(255))


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV"])
def test_other_colour_spaces_become_rgb(mode):
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    assert np.abs(np.asarray(to_rgb(red.convert(mode))).astype(int) - [255, 0, 0]).max() <= 2


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_divided_by_257(tmp_path, kind):
    path = tmp_path / "a"
    path.write_bytes(encoded(Image.fromarray(GREY.astype(np.uint16) * 257), kind))
    assert np.array_equal(np.asarray(load_image(path))[..., 0], GREY)
    dark = Image.fromarray(np.full((2, 2), 257, dtype=np.uint16))
    assert np.asarray(to_rgb(dark)).max() == 1, "a dark 16-bit picture is dark, whatever its largest value"


@pytest.mark.parametrize(
    "pixels",
    [
        GREY.astype(np.int32),
        GREY.astype(np.int32) * 257,
        GREY.astype(np.float32),
        (GREY / 255).astype(np.float32),
    ],
    ids=["int 0-255", "int 0-65535", "float 0-255", "float 0-1"],
)
def test_32_bit_pixels_by_their_range(pixels):
    assert np.array_equal(np.asarray(to_rgb(Image.fromarray(pixels)))[..., 2], GREY)


@pytest.mark.parametrize("pixels", [np.full((2, 2), -3, np.int32), np.full((2, 2), 300.5, np.float32)])
def test_32_bit_pixels_of_no_known_range_are_refused(pixels):
    with pytest.raises(ValueError, match="has mode [IF] with values from"):
        to_rgb(Image.fromarray(pixels))


def test_cmyk_and_grey_jpeg_files(tmp_path):
    path = tmp_path / "a.jpg"
    for mode in ("CMYK", "L"):
        path.write_bytes(encoded(Image.fromarray(rgb(32, 32)).convert(mode), "JPEG"))
        assert load_image(path).mode == "RGB" and load_image(path).size == (32, 32)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "BMP"])
@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_a_truncated_file_is_named(tmp_path, kind, kept):
    whole = encoded(Image.fromarray(rgb(64, 64)), kind)
    path = tmp_path / "cut"
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(ValueError, match=r"cut is (truncated or damaged|not a picture)"):
        load_image(path)


def test_a_truncated_picture_is_named_by_the_processor_too():
    whole = encoded(Image.fromarray(rgb(64, 64)))
    with pytest.raises(ValueError, match=r"images\[1\] is truncated or damaged"):
        read_pictures([Image.new("RGB", (2, 2)), Image.open(io.BytesIO(whole[:-2000]))])


def test_a_file_of_more_pixels_than_pillow_opens_is_named(tmp_path, monkeypatch):
    Image.new("L", (20, 10)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)
    with pytest.raises(ValueError, match=r"bomb.png is too large .*200 pixels.* limit of 120 pixels.*scale it down"):
        load_image(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    assert load_image(tmp_path / "bomb.png").size == (20, 10)


def test_files_that_are_no_pictures(tmp_path):
    with pytest.raises(FileNotFoundError, match="no picture at .*nothing.png: check the path"):
        load_image(tmp_path / "nothing.png")
    with pytest.raises(ValueError, match="is not a file"):
        load_image(tmp_path)
    (tmp_path / "empty.png").touch()
    with pytest.raises(ValueError, match=r"empty.png is empty \(0 bytes\)"):
        load_image(tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(ValueError, match="text.png is not a picture that Pillow can read"):
        load_image(tmp_path / "text.png")
    with pytest.raises(ValueError, match="the open file is not a picture"):
        load_image(io.BytesIO(b""))
    with pytest.raises(TypeError, match="source has type int"):
        load_image(3)


def test_a_picture_without_pixels_is_named():
    with pytest.raises(ValueError, match=r"source has no pixels: its size \(width, height\) is \(0, 5\)"):
        load_image(Image.new("RGB", (0, 5)))
    with pytest.raises(ValueError, match=r"images\[0\] has no pixels"):
        read_pictures(Image.new("L", (5, 0)))
    with pytest.raises(ValueError, match=r"images\[1\] has no pixels: its shape is \(3, 0, 4\)"):
        read_pictures([np.ones((3, 4, 4)), np.ones((3, 0, 4))])


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((3, 5, 7), FIRST),
        ((1, 5, 7), FIRST),
        ((5, 7, 3), LAST),
        ((5, 7, 1), LAST),
        ((3, 5, 3), FIRST),
        ((1, 1, 3), FIRST),
        ((2, 3, 5, 7), FIRST),
        ((2, 5, 7, 3), LAST),
    ],
)
def test_the_colour_axis_is_inferred_as_in_the_reference(shape, layout):
    assert infer_channel_dimension_format(np.empty(shape)) is layout


def test_sizes_and_channels():
    for array, layout in ((np.empty((3, 5, 7)), None), (np.empty((2, 5, 7, 3)), None), (np.empty((4, 5, 7)), FIRST)):
        assert image_size(array, layout) == (5, 7)
    assert number_of_channels(np.empty((4, 5, 7)), "channels_first") == 4
    assert image_size(Image.new("L", (7, 5))) == (5, 7) and number_of_channels(Image.new("L", (7, 5))) == 1
    turned = to_channel_dimension_format(rgb(), FIRST)
    assert turned.shape == (3, 6, 9) and np.array_equal(to_channel_dimension_format(turned, "channels_last"), rgb())


@pytest.mark.parametrize("shape", [(5, 7, 4), (4, 5, 7), (2, 2, 2), (5,), (5, 7), (1, 1, 3, 4, 5)])
def test_no_colour_axis_to_be_found(shape):
    with pytest.raises(ValueError, match=r"(cannot tell the colour axis|a picture array has 3 axes)"):
        infer_channel_dimension_format(np.empty(shape))


@pytest.mark.parametrize(
    "make",
    [
        lambda a: Image.fromarray(a),
        lambda a: a,
        lambda a: a.transpose(2, 0, 1),
        lambda a: torch.from_numpy(a).permute(2, 0, 1),
        lambda a: torch.from_numpy(a.astype(np.float32)).requires_grad_(),
    ],
    ids=["pillow", "last", "first", "tensor", "tensor with gradient"],
)
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x], lambda x: (x, x)], ids=["one", "list", "tuple"])
def test_one_picture_in_every_form(make, wrap):
    pictures, layout = read_pictures(wrap(make(rgb())))
    for picture in pictures:
        assert np.array_equal(to_channel_dimension_format(array_of(picture, layout), LAST, layout), rgb())


def test_a_batch_array_is_a_list_of_pictures():
    for batch in (np.stack([rgb(), rgb() + 1]), torch.from_numpy(np.stack([rgb(), rgb() + 1]))):
        pictures, layout = read_pictures(batch)
        assert len(pictures) == 2 and layout is LAST and np.array_equal(pictures[1], rgb() + 1)


def test_bfloat16_is_read():
    (array,), _ = read_pictures(torch.full((3, 4, 4), 0.5, dtype=torch.bfloat16))
    assert array.dtype == np.float32 and (array == 0.5).all()


def test_layouts_mix_when_it_is_certain():
    pictures, layout = read_pictures([torch.from_numpy(rgb()).permute(2, 0, 1), Image.fromarray(rgb()), rgb()])
    assert layout is FIRST
    assert all(np.array_equal(array_of(picture, layout), rgb().transpose(2, 0, 1)) for picture in pictures)
    # The first picture decides for a later one that could be either: 3 rows of RGB pixels here.
    pictures, layout = read_pictures([rgb(), rgb(3, 8)])
    assert layout is LAST and pictures[1].shape == (3, 8, 3)


def test_a_pillow_picture_of_three_rows_or_one_pixel_knows_its_layout():
    for height, width in ((3, 8), (1, 1), (1, 8)):
        (picture,), layout = read_pictures(Image.fromarray(rgb(height, width)))
        assert layout is LAST and image_size(picture, layout) == (height, width)


def test_grey_arrays_are_repeated_when_three_channels_are_needed():
    for array, given in ((GREY, None), (GREY[None], None), (GREY[..., None], None), (GREY, "channels_first")):
        (picture,), layout = read_pictures(array, given, channels=3)
        assert np.array_equal(to_channel_dimension_format(picture, LAST, layout), np.repeat(GREY[..., None], 3, axis=2))
        (kept,), layout = read_pictures(array, given)
        assert number_of_channels(kept, layout) == 1


def test_a_row_of_rgb_pixels_is_not_taken_for_grey():
    for shape in ((1, 8, 3), (1, 1, 3), (1, 8, 1)):
        with pytest.raises(ValueError, match=r"images\[0\] has shape .*: give input_data_format"):
            read_pictures(np.ones(shape, np.uint8), channels=3)
    (picture,), layout = read_pictures(rgb(1, 8), "channels_last", channels=3)
    assert np.array_equal(picture, rgb(1, 8)) and layout is LAST


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (None, r"images\[0\] has type NoneType: expected a Pillow picture"),
        ("a.png", r"images\[0\] has type str.*load_image"),
        ([], "images is an empty list"),
        ([[[1, 2, 3]]], r"images\[0\] has type list.*numpy.asarray"),
        ([np.ones((3, 4, 4)), 5], r"images\[1\] has type int"),
        (np.ones((3, 4, 4), complex), r"images\[0\] has dtype complex128"),
        (np.array([[["a"] * 3] * 4] * 4), r"images\[0\] has dtype <U1"),
        ([np.ones((2, 3, 4, 4))], r"images\[0\] has 4 axes"),
        (np.ones(4), r"images\[0\] has 1 axes"),
        (np.ones((2, 2, 3, 4, 4)), r"images\[0\] has 5 axes"),
        (np.full((3, 4, 4), np.nan), r"images\[0\] holds NaN"),
        (np.ones((6, 9, 4)), r"images\[0\]: cannot tell the colour axis.*alpha"),
    ],
    ids=lambda value: None if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_picture_is_refused_by_name(images, message):
    with pytest.raises(ValueError, match=message):
        read_pictures(images)


def test_an_unknown_layout_is_named():
    with pytest.raises(ValueError, match="'sideways' is no ChannelDimension"):
        read_pictures(rgb(), "sideways")
