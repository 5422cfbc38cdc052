"""Draws the held-out prompts as the generator would, for the ruler's own error: `python perfect.py --out DIR [--n 200]`.
Writes pictures and `texts.json`."""
import argparse
import json
import os

from PIL import Image

from cells import default_ink, draw_grid
from config import DEFAULT_CANVAS, PALETTE
from scenes import HELD_OUT, Scene, Text, place


def main() -> None:
    ap = argparse.ArgumentParser()
    ap.add_argument("--out", required=True)
    ap.add_argument("--n", type=int, default=200)
    args = ap.parse_args()
    os.makedirs(args.out, exist_ok=True)
    with open(HELD_OUT[0], encoding="utf-8") as file:
        entries = [json.loads(line) for line in file][: args.n]
    drawn = []
    for index, entry in enumerate(entries):
        bg = list(PALETTE)[index % len(PALETTE)]
        scene = Scene(bg, "title", [Text(text, default_ink(bg), False) for text in entry["texts"]])
        Image.fromarray(draw_grid(place(scene, *DEFAULT_CANVAS), bg)).save(os.path.join(args.out, f"{entry['id']}.png"))
        drawn.append(dict(file=f"{entry['id']}.png", texts=entry["texts"], group=f"{len(entry['texts'])} texts"))
    with open(os.path.join(args.out, "texts.json"), "w", encoding="utf-8") as file:
        json.dump(drawn, file, ensure_ascii=False)


if __name__ == "__main__":
    main()
