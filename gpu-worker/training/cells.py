"""What one cell of the picture can show, and how it looks: the labels that the visual tokeniser has to tell apart."""
import functools
import os

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from config import (BASELINE, CELL, FONT, FONT_SIZE, FONT_STRETCH, GLYPHS, MIN_CONTRAST, PALETTE, SHAPES,
                    SHAPE_COLOURS, TEXT_COLOURS)

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
RGB = {name: np.array(entry[0], dtype=np.float32) for name, entry in PALETTE.items()}
OVERSAMPLING = 4

# A label is a tuple: ("blank", colour) | ("glyph", character, colour) | ("band", colour) | (shape, colour)
LABELS = (
    [("blank", colour) for colour in PALETTE]
    + [("glyph", character, colour) for colour in TEXT_COLOURS for character in GLYPHS]
    + [("band", colour) for colour in SHAPE_COLOURS]
    + [(shape, colour) for colour in SHAPE_COLOURS for shape in SHAPES]
    + [(f"quarter{corner}", colour) for colour in SHAPE_COLOURS for corner in range(4)]
)
ID = {label: index for index, label in enumerate(LABELS)}
BLANKS = len(PALETTE)


def luminance(colour: str) -> float:
    c = RGB[colour] / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    return float(linear @ np.array([0.2126, 0.7152, 0.0722]))


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


INKS = {bg: [ink for ink in SHAPE_COLOURS if contrast(ink, bg) >= MIN_CONTRAST] for bg in PALETTE}
TEXT_INKS = {bg: [ink for ink in TEXT_COLOURS if contrast(ink, bg) >= MIN_CONTRAST] for bg in PALETTE}


def default_ink(bg: str) -> str:
    """The colour of text for which a prompt names none."""
    return "white" if contrast("white", bg) >= contrast("black", bg) * 0.6 else "black"


def font_path() -> str:
    return os.environ.get("GLYPH_FONT", os.path.join(ROOT, FONT))


@functools.cache
def mask_of(label: tuple) -> np.ndarray:
    """Coverage of the ink in a cell, float32 [CELL, CELL] in 0..1."""
    s = OVERSAMPLING
    n = CELL * s
    if label[0] == "glyph":
        return _glyph(label[1])
    image = Image.new("L", (n, n), 0)
    draw = ImageDraw.Draw(image)
    kind = label[0]
    if kind == "band":
        draw.rectangle((0, int(n * 0.36), n, int(n * 0.64)), fill=255)
    elif kind == "disc":
        draw.ellipse((n * 0.14, n * 0.14, n * 0.86, n * 0.86), fill=255)
    elif kind == "ring":
        draw.ellipse((n * 0.1, n * 0.1, n * 0.9, n * 0.9), fill=255)
        draw.ellipse((n * 0.3, n * 0.3, n * 0.7, n * 0.7), fill=0)
    elif kind == "triangle":
        draw.polygon([(n * 0.5, n * 0.1), (n * 0.92, n * 0.88), (n * 0.08, n * 0.88)], fill=255)
    elif kind == "diamond":
        draw.polygon([(n * 0.5, n * 0.05), (n * 0.92, n * 0.5), (n * 0.5, n * 0.95), (n * 0.08, n * 0.5)], fill=255)
    elif kind == "star":
        turn = np.arange(10) * np.pi / 5 - np.pi / 2
        radius = np.where(np.arange(10) % 2 == 0, 0.47, 0.2) * n
        draw.polygon([(n / 2 + r * np.cos(a), n * 0.53 + r * np.sin(a)) for a, r in zip(turn, radius)], fill=255)
    elif kind == "heart":
        draw.ellipse((n * 0.08, n * 0.14, n * 0.52, n * 0.58), fill=255)
        draw.ellipse((n * 0.48, n * 0.14, n * 0.92, n * 0.58), fill=255)
        draw.polygon([(n * 0.115, n * 0.46), (n * 0.885, n * 0.46), (n * 0.5, n * 0.92)], fill=255)
    elif kind.startswith("quarter"):
        corner = int(kind[-1])
        x, y = (n if corner % 2 == 0 else 0), (n if corner < 2 else 0)
        r = n * 0.96
        draw.ellipse((x - r, y - r, x + r, y + r), fill=255)
    return _shrink(image)


def _shrink(image: Image.Image) -> np.ndarray:
    return np.asarray(image.resize((CELL, CELL), Image.LANCZOS), dtype=np.float32) / 255


def _glyph(character: str) -> np.ndarray:
    """Letters stand on one baseline, centred in their cell; those that rise above it (accented capitals) are lowered in
    height until they fit."""
    s = OVERSAMPLING
    font = ImageFont.truetype(font_path(), FONT_SIZE * s)
    wide = Image.new("L", (CELL * s * 2, CELL * s * 2), 0)
    base = (BASELINE + CELL // 2) * s
    ImageDraw.Draw(wide).text((CELL * s, base), character, font=font, fill=255, anchor="ms")
    width = int(CELL * 2 * FONT_STRETCH) * s
    wide = wide.resize((width, CELL * s * 2), Image.LANCZOS)
    box = wide.getbbox()
    top = (CELL // 2 + 1) * s
    if box and box[1] < top and box[3] <= base + s:
        part = wide.crop((0, box[1], width, base)).resize((width, base - top), Image.LANCZOS)
        wide.paste(0, (0, 0, width, base))
        wide.paste(part, (0, top))
    x = (width - CELL * s) // 2
    y = CELL * s // 2
    return _shrink(wide.crop((x, y, x + CELL * s, y + CELL * s)))


def tile(label: tuple, bg: str) -> np.ndarray:
    """One cell as float32 RGB [CELL, CELL, 3] in 0..255."""
    if label[0] == "blank":
        return np.broadcast_to(RGB[label[1]], (CELL, CELL, 3))
    m = mask_of(label)[..., None]
    return RGB[bg] * (1 - m) + RGB[label[-1]] * m


@functools.cache
def _tile_bytes(label_id: int, bg: str) -> np.ndarray:
    return np.clip(np.rint(tile(LABELS[label_id], bg)), 0, 255).astype(np.uint8)


def draw_grid(grid: np.ndarray, bg: str) -> np.ndarray:
    """A grid of label ids [h, w] as uint8 RGB [h * CELL, w * CELL, 3]."""
    h, w = grid.shape
    out = np.empty((h, CELL, w, CELL, 3), dtype=np.uint8)
    for r in range(h):
        for c in range(w):
            out[r, :, c] = _tile_bytes(int(grid[r, c]), bg)
    return out.reshape(h * CELL, w * CELL, 3)
