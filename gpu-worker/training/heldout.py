"""Writes the held-out prompts, `eval/prompts/held-out.jsonl`: one to three texts of one to three words, random strings
among them, with a seed of their own. The generator of training pictures never draws their words (see scenes.py)."""
import json
import os

import numpy as np

from config import PALETTE

HERE = os.path.dirname(os.path.abspath(__file__))
SEED = 77_001
TEXTS = (
    "ROYAL OPENING|Saturday 9am|Harvest Festival|RUNNING GEAR|Annual Clearance|Jazz Evening|Poetry Reading|Closing Down|Fresh Bagels|"
    "Plant Exchange|Science Week|Marathon Route|Found Property|Garden Centre|Quiet Carriage|Sweet Birthday|Coffee Break|Vintage Records|Local Honey|"
    "WELCOME|TOILETS|Breakfast|TICKETS|Parking|Reception|Library|Bakery|Workshop|Fireworks|Volunteers|ADMISSION|Lighthouse|Keyboard|Umbrella|"
    "Movie Trailer|Photo Booth|Ice Rink|Puppy Walk|Chess Tournament|Swimming Lessons|Tennis Camp|School Choir|Flea Market|Street Parade|"
    "Cata del vino|Entrada gratis|Gracias|Teléfono|Panadería|Artesanía local|Concierto|Jardín botánico|Última semana|Librería|"
    "Noche española|Pescado fresco|Señales|Cumpleaños|Clases gratis|Helados|Zapatería|Música vieja|Rebajas|Abierto"
).split("|")
EN = ("A {bg} poster that says {0}", "A {bg} banner with the words {0} in the middle", "A flyer on {bg} with {0} in large letters", "Design a {bg} sign with the title {0}",
      "A {bg} poster with the title {0} and {1} below", "A {bg} card with the title {0} and the subtitle {1}", "A slide on {bg}: {0} at the top, {1} at the bottom",
      "A {bg} flyer that says {0} and {1}", "A {bg} poster with the title {0}, the line {1} below it and {2} at the bottom",
      "A {bg} menu board with {0}, {1} and {2}", "A {bg} ticket with the title {0}, the line {1} below it and a badge that says {2}", "A {bg} slide with a list: {0}, {1}, {2}")
ES = ("Un cartel {bg} que dice {0}", "Un folleto {bg} con el título {0} y debajo {1}", "Un letrero {bg} con el título {0}, la línea {1} y al final {2}")
ZH = ("一张{bg}海报，上面写着{0}", "一张{bg}卡片，标题是{0}，下面是{1}", "一张{bg}海报，标题是{0}，下面一行{1}，角上写着{2}")


def main() -> None:
    rng = np.random.default_rng(SEED)
    pick = lambda items: items[int(rng.integers(len(items)))]

    def random_text() -> str:
        pool = pick(("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijkmnopqrstuvwxyz", "ABCDEFGHJKLMNPQRSTUVWXYZ2345679"))
        return " ".join("".join(pick(pool) for _ in range(int(rng.integers(4, 9)))) for _ in range(int(rng.choice((1, 2), p=(0.8, 0.2)))))

    lines = []
    for index in range(200):
        count = index % 3 + 1
        language = str(rng.choice(("en", "es", "zh"), p=(0.7, 0.15, 0.15)))
        forms = [form for form in {"en": EN, "es": ES, "zh": ZH}[language] if ("{1}" in form) == (count > 1) and ("{2}" in form) == (count > 2)]
        texts: list[str] = []
        while len(texts) < count:
            text = random_text() if rng.random() < 0.4 else pick(TEXTS)
            if text not in texts:
                texts.append(text)
        bg = pick(list(PALETTE))
        name = PALETTE[bg][{"en": 1, "es": 2, "zh": 3}[language]][0]
        left, right = ("「", "」") if language == "zh" else ("'", "'")
        prompt = pick(forms).format(*(left + text + right for text in texts), bg=name[0] if language == "es" else name)
        lines.append(dict(id=f"held{index + 1:03d}", prompt=prompt, texts=texts))
    with open(os.path.join(HERE, "..", "eval", "prompts", "held-out.jsonl"), "w", encoding="utf-8") as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


if __name__ == "__main__":
    main()
