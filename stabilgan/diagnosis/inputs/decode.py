"""One image file as bytes of pixels: what its header promises, then the pixels, converted rightly or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stabilgan.diagnosis.inputs import sniff

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""Formats that are decoded: none that calls other programs, as PostScript does."""
MOST_PIXELS = 89_478_485
"""Pillow's own bound, above which an image counts as a decompression bomb."""

Opener = Callable[[], IO[bytes]]


class Unusable(Exception):  # noqa: N818 - not an error of the program: a file that is left out, and why
    """Why a file is left out."""


class Header(NamedTuple):
    """What an image file says of itself before it is decoded.

    Attributes:
        size: width and height.
        grey: one channel tells all.
        peculiar: what will be converted, such as "16-bit"; a word each.
    """

    size: tuple[int, int]
    grey: bool
    peculiar: tuple[str, ...]


def header(opener: Opener) -> Header:
    """Size and mode of an image that has not been decoded yet.

    Raises:
        Unusable: no image, an image in a format that isn't read, one with too many pixels or with pixels of unknown
            range; with the reason.
    """
    with opener() as file:
        image = _open(file)
        width, height = image.size
        mode, peculiar = image.mode, []
        if getattr(image, "is_animated", False):
            peculiar.append("animated, first frame taken")
        if mode in ("P", "PA"):
            peculiar.append("palette")
        if mode in ("LA", "La", "RGBA", "RGBa", "PA") or "transparency" in image.info:
            peculiar.append("alpha, dropped")
        if _sixteen(image):
            peculiar.append("16-bit grey, brought to 8")
        elif mode in ("I", "F"):
            raise Unusable(f"32-bit pixels (mode {mode}) whose range is unknown; give such images as an .npy array")
        if mode in ("CMYK", "YCbCr", "LAB", "HSV"):
            peculiar.append(f"{mode}, turned into RGB")
        return Header((width, height), _grey(image), tuple(peculiar))


def pixels(opener: Opener, size: tuple[int, int], channels: int) -> NDArray[np.uint8]:
    """The image as (channels, height, width) bytes; resized (bicubic, antialiased) where it has another size.

    EXIF orientation is left as it is, as torchvision does; so is alpha dropped.

    Raises:
        Unusable: it can't be decoded; with the reason.
    """
    with opener() as file:
        image = _open(file)
        try:
            image.load()
            if _sixteen(image):
                image = _eight_bits(image)
            image = image.convert("L" if channels == 1 else "RGB")
            if image.size != size:
                image = image.resize(size, _bicubic())
            data: NDArray[np.uint8] = np.asarray(image, dtype=np.uint8)
        except Exception as error:  # decoders raise anything at all on broken files
            raise Unusable(f"broken or truncated ({sniff.one_line(error, 90)})") from None
    return data[None] if channels == 1 else data.transpose(2, 0, 1)


def _open(file: IO[bytes]) -> Any:
    from PIL import Image

    most = Image.MAX_IMAGE_PIXELS or MOST_PIXELS
    try:
        image = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise Unusable(f"a decompression bomb: more than {2 * most:,} pixels ({sniff.one_line(error, 90)})") from None
    except Exception as error:  # as above; the common case is UnidentifiedImageError
        file.seek(0)
        what = sniff.described(file.read(512))
        raise Unusable(
            f"{what}, not an image" if _foreign(what) else f"no image that can be read{_of(what)}"
        ) from error
    width, height = image.size
    if width * height > most:
        raise Unusable(f"{width:,} x {height:,} pixels, above the bound of {most:,} (a decompression bomb)")
    if not width or not height:
        raise Unusable(f"{width} x {height} pixels")
    return image


def _foreign(what: str) -> bool:
    return bool(what) and not what.endswith("image")


def _of(what: str) -> str:
    return f" ({what}, damaged)" if what else ""


def _sixteen(image: Any) -> bool:
    """16-bit grey: its own mode, or 32-bit whole numbers where Pillow is older and the file is a PNG."""
    return str(image.mode).startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))


def _eight_bits(image: Any) -> Any:
    from PIL import Image

    wide = np.asarray(image).astype(np.float32)
    return Image.fromarray(np.rint(wide / 257).clip(0, 255).astype(np.uint8))


def _grey(image: Any) -> bool:
    if image.mode in ("1", "L", "LA", "La") or _sixteen(image):
        return True
    if image.mode in ("P", "PA") and (flat := image.getpalette("RGB")):
        colours = np.asarray(flat, dtype=np.uint8).reshape(-1, 3)
        return bool((colours == colours[:, :1]).all())
    return False


def _bicubic() -> Any:
    from PIL import Image

    return Image.Resampling.BICUBIC
