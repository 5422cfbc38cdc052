"""What a picture shows, where it stands on the grid, and the texts that are drawn from: seeded, without pictures."""
import json
import os
import re
import unicodedata
from dataclasses import dataclass, field

import numpy as np

from cells import ID, INKS, TEXT_INKS, default_ink
from config import GLYPHS, PALETTE, SHAPES

HERE = os.path.dirname(os.path.abspath(__file__))
HELD_OUT = (os.path.join(HERE, "..", "eval", "prompts", "held-out.jsonl"), os.path.join(HERE, "..", "eval", "prompts", "ours.jsonl"))
SYLLABLES = (
    "ba be bi bo bu ca ce co da de di do fa fe fi ga go ha he hi ja jo ka ke ki la le li lo lu ma me mi mo na ne no nu pa "
    "pe po ra re ri ro ru sa se si so su ta te ti to tu va ve vi wa we wo ya yo za zo an en in on un ar er or al el il ol "
    "as es is os at et it ot ing est ion ard ock ast ent ish ump and ight ound ear oo ee ck st th sh ch tr br cl fl gr pl"
).split()
COMMON = (
    "the of and to a in is it we you for on at by my no go up new big hot top now sale open free day food red blue green "
    "shop book cafe tea milk home work city road park west east north south light night sun moon star sea lake hill tree "
    "bird fish cat dog horse house door key code data team plan club band song dance film art show game play run win gold "
    "silver iron stone water fire earth wind snow rain storm cloud spring summer autumn winter monday friday sunday june "
    "july march world peace love hope dream happy smile thanks hello enter exit push pull stop wait next last first left "
    "right start end level score total price offer deal save gift card menu lunch dinner soup pizza cake fruit apple lemon "
    "el la los un una de en y con sin para por casa mesa libro sol luna mar cielo rosa nuevo gran feria fiesta playa taller "
    "mercado cocina museo teatro cine verano otoño niño mañana señal baño español café té adiós más aquí país así día"
).split()
ACCENTED = "áéíóúñü"
NUMBER_FORMS = ("{a}", "{a}%", "${a}", "{a}:{b}", "{h}am", "{h}pm", "{a}-{b}", "No.{a}", "#{a}", "{a}+{b}", "{a}/{b}", "20{b}", "{a}.{b}", "€{a}")


def fold(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()


def held_out_words() -> set[str]:
    """Words of the evaluation sets that a training picture never shows: those of four letters and more, and every random
    string. Short function words cannot be kept apart."""
    words: set[str] = set()
    for path in HELD_OUT:
        if not os.path.exists(path):
            continue
        with open(path, encoding="utf-8") as file:
            for line in file:
                for text in json.loads(line)["texts"]:
                    words.update(word for word in map(fold, text.split()) if len(word) >= 4)
    return words


@dataclass
class Text:
    words: str
    ink: str
    ink_is_named: bool


@dataclass
class Scene:
    """`style`: title | list | panels | badge | shapes | square | circle | stripes | plain."""

    bg: str
    style: str
    texts: list[Text] = field(default_factory=list)
    shape: tuple[str, str] | None = None
    count: int = 0
    has_line: bool = False


class Sampler:
    """Draws scenes. The same seed gives the same scenes."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)
        self.excluded = held_out_words()

    def pick(self, items):
        return items[int(self.rng.integers(len(items)))]

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def word(self, longest: int) -> str:
        while True:
            made = self._word()
            if 0 < len(made) <= longest and fold(made) not in self.excluded:
                return made

    def _word(self) -> str:
        kind = self.rng.random()
        if kind < 0.4:
            length = int(self.rng.integers(1, 10))
            pools = ("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", GLYPHS)
            pool = pools[int(self.rng.choice(4, p=(0.35, 0.3, 0.25, 0.1)))].replace("'", "")
            made = "".join(self.pick(pool) for _ in range(length))
            return made.capitalize() if self.chance(0.2) else made
        if kind < 0.5:
            a, b, h = (int(self.rng.integers(1, n)) for n in (100, 60, 13))
            return self.pick(NUMBER_FORMS).format(a=a, b=f"{b:02d}", h=h)
        made = self.pick(COMMON) if kind < 0.7 else "".join(self.pick(SYLLABLES) for _ in range(int(self.rng.integers(1, 5))))
        if self.chance(0.12):
            place = int(self.rng.integers(len(made)))
            made = made[:place] + self.pick(ACCENTED) + made[place + 1 :]
        case = self.rng.random()
        made = made.upper() if case < 0.45 else made.capitalize() if case < 0.75 else made
        if self.chance(0.08):
            made = made + self.pick(("!", ".", ",", "?", ":"))
        return made

    def phrase(self, longest: int, most_words: int = 3) -> str:
        count = min(most_words, int(self.rng.choice((1, 2, 3, 4), p=(0.4, 0.33, 0.22, 0.05))))
        return " ".join(self.word(longest) for _ in range(count))

    def scene(self, columns: int, rows: int) -> Scene:
        bg = self.pick(list(PALETTE))
        if self.chance(0.15):
            return self._without_text(bg)
        room = rows - (1 if rows >= 6 else 0)
        texts: list[Text] = []
        style = self.rng.choice(("title", "list", "panels", "badge"), p=(0.56, 0.13, 0.15, 0.16))
        wanted = int(self.rng.integers(2, 5)) if style in ("list", "panels") else int(self.rng.choice((1, 2, 3), p=(0.38, 0.37, 0.25)))
        used = 0
        for index in range(wanted):
            words = self.phrase(columns - 1, 2 if style in ("list", "panels") else 4)
            need = len(words.split()) + (1 if index else 0)
            if used + need > room:
                words = words.split()[0]
                need = 1 + (1 if index else 0)
                if used + need > room:
                    break
            used += need
            named = self.chance(0.35)
            ink = self.pick(TEXT_INKS[bg]) if named else default_ink(bg)
            texts.append(Text(words, ink, named))
        if style == "badge" and len(texts) < 2:
            style = "title"
        scene = Scene(bg, str(style), texts)
        if style == "title" and len(texts) > 1:
            scene.has_line = self.chance(0.12)
        if style in ("title", "badge") and self.chance(0.15) and used + 2 <= room:
            scene.shape = (self.pick(SHAPES), self.pick(INKS[bg]))
        return scene

    def _without_text(self, bg: str) -> Scene:
        style = self.pick(("shapes", "shapes", "square", "circle", "stripes", "plain"))
        ink = self.pick([colour for colour in INKS[bg] if colour != bg])
        return Scene(bg, style, shape=(self.pick(SHAPES), ink), count=int(self.rng.integers(1, 4)))


def place(scene: Scene, columns: int, rows: int) -> np.ndarray:
    """Label ids [rows, columns]. Every word has a row of its own, flush left behind a margin of one cell; texts are parted
    by one row. What does not fit is left out, a word that is too long goes on in the next row."""
    bg = ID[("blank", scene.bg)]
    grid = np.full((rows, columns), bg, dtype=np.int64)
    plain = default_ink(scene.bg)
    if not scene.texts:
        _place_shapes(scene, grid)
        return grid
    row = 1 if rows >= 6 else 0
    for index, text in enumerate(scene.texts):
        if index > 0:
            if row < rows and (scene.style == "panels" or (scene.has_line and index == 1)):
                grid[row, :] = ID[("band", plain)]
            row += 1
        marker = {"list": "disc", "badge": "star" if index == len(scene.texts) - 1 else None}.get(scene.style)
        for word in text.words.split():
            for start in range(0, len(word), columns - 1):
                if row >= rows:
                    break
                if marker:
                    grid[row, 0] = ID[(marker, text.ink)]
                    marker = None
                part = word[start : start + columns - 1]
                grid[row, 1 : 1 + len(part)] = [ID[("glyph", letter, text.ink)] for letter in part]
                row += 1
    if scene.shape and (grid[rows - 1] == bg).all():
        grid[rows - 1, columns - 2] = ID[scene.shape]
    return grid


def _place_shapes(scene: Scene, grid: np.ndarray) -> None:
    """Shapes stand where texts begin: small ones side by side as letters do, large ones four cells wide and high."""
    shape, ink = scene.shape
    if scene.style == "shapes":
        grid[1, 1 : 1 + scene.count] = ID[(shape, ink)]
    elif scene.style == "square":
        grid[1:5, 1:5] = ID[("blank", ink)]
    elif scene.style == "circle":
        grid[1:5, 1:5] = ID[("blank", ink)]
        for corner, (y, x) in enumerate(((1, 1), (1, 4), (4, 1), (4, 4))):
            grid[y, x] = ID[(f"quarter{corner}", ink)]
    elif scene.style == "stripes":
        grid[1::2, :] = ID[("band", ink)]


def preview_of(grid: np.ndarray, scene: Scene, rows: int, columns: int) -> np.ndarray:
    """The layout without its letters, on the preview's grid: every row of text is one bar in the text's colour."""
    from cells import LABELS

    layout = grid.copy()
    for r in range(layout.shape[0]):
        letters = [LABELS[i] for i in layout[r] if LABELS[i][0] == "glyph"]
        if letters:
            layout[r, 1:] = ID[("band", letters[0][2])]
    y = np.arange(rows) * layout.shape[0] // rows
    x = np.arange(columns) * layout.shape[1] // columns
    return layout[np.ix_(y, x)]


def preview_size(rows: int, columns: int) -> tuple[int, int]:
    ratio = rows / columns
    return int(np.sqrt(ratio) * 16), int(np.sqrt(1 / ratio) * 16)


def clean(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()
