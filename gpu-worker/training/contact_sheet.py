"""Lays pictures of an evaluation out on one sheet: `python contact_sheet.py --run DIR --out FILE [--columns 6] [--rows 4]`.
Taken in the order of their names, none chosen."""
import argparse
import glob
import os

from PIL import Image

GAP = 6


def main() -> None:
    ap = argparse.ArgumentParser()
    ap.add_argument("--run", required=True, help="the --out folder of npm run eval")
    ap.add_argument("--out", required=True)
    ap.add_argument("--columns", type=int, default=6)
    ap.add_argument("--rows", type=int, default=4)
    args = ap.parse_args()
    files = sorted(glob.glob(os.path.join(args.run, "pictures", "*")))[: args.columns * args.rows]
    pictures = [Image.open(file).convert("RGB") for file in files]
    width, height = pictures[0].size
    sheet = Image.new("RGB", (args.columns * (width + GAP) + GAP, args.rows * (height + GAP) + GAP), (120, 120, 120))
    for index, picture in enumerate(pictures):
        row, column = divmod(index, args.columns)
        sheet.paste(picture, (GAP + column * (width + GAP), GAP + row * (height + GAP)))
    sheet = sheet.resize((sheet.width * 2 // 3, sheet.height * 2 // 3), Image.LANCZOS)
    sheet.quantize(128).save(args.out, optimize=True)


if __name__ == "__main__":
    main()
