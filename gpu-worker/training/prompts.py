"""Says in words what a scene shows: English, Spanish and Chinese phrasings around quoted texts."""
from cells import default_ink
from config import PALETTE
from scenes import Sampler, Scene

QUOTES = {"en": (("'", "'"), ('"', '"'), ("“", "”")), "es": (("'", "'"), ('"', '"'), ("“", "”")), "zh": (("「", "」"), ("“", "”"), ('"', '"'), ("'", "'"))}
THINGS = {
    "en": ("poster", "flyer", "banner", "slide", "sign", "label", "ticket", "card", "book cover", "menu board", "shop sign",
           "business card", "notice", "advert", "picture", "cover", "badge", "page", "board", "design", "leaflet", "image"),
    "es": (("cartel", 0), ("póster", 0), ("folleto", 0), ("letrero", 0), ("rótulo", 0), ("anuncio", 0), ("tarjeta", 1), ("portada", 1),
           ("pancarta", 1), ("etiqueta", 1), ("imagen", 1), ("invitación", 1), ("diapositiva", 1)),
    "zh": (("一张", "海报"), ("一张", "传单"), ("一块", "招牌"), ("一张", "卡片"), ("一幅", "横幅"), ("一张", "图片"), ("一张", "封面"), ("一块", "菜单"), ("一张", "门票")),
}
OPENERS = ("", "", "", "", "Create ", "Design ", "Make ", "Draw ", "Please draw ", "I need ", "Generate ")
LOOKS = ("", "", "", "", "modern ", "simple ", "minimalist ", "bold ", "clean ", "small ", "large ", "vintage ", "festive ", "elegant ")
TAILS = ("", "", "", "", "", ", clean layout", ", bold type", ", flat style", ", high contrast", ", simple and modern", " for a small shop", " for our school",
         ", large letters", ", print quality", " for a street market")
SHAPE_NAMES = {
    "star": ("star", "estrella", "星星"), "disc": ("dot", "punto", "圆点"), "heart": ("heart", "corazón", "爱心"),
    "triangle": ("triangle", "triángulo", "三角形"), "diamond": ("diamond", "rombo", "菱形"), "ring": ("ring", "anillo", "圆环"),
}
NUMBERS = {"en": ("a", "two", "three"), "es": ("", "dos", "tres"), "zh": ("一个", "两个", "三个")}


class Phraser:
    def __init__(self, sampler: Sampler):
        self.pick, self.chance, self.sampler = sampler.pick, sampler.chance, sampler

    def prompt(self, scene: Scene) -> str:
        language = str(self.sampler.rng.choice(("en", "es", "zh"), p=(0.6, 0.2, 0.2)))
        made = getattr(self, language)(scene)
        if language != "zh" and self.chance(0.1):
            made += "."
        return made

    def quoted(self, scene: Scene, language: str) -> list[str]:
        marks = [pair for pair in QUOTES[language] if not any(mark in text.words for mark in pair for text in scene.texts)]
        if "'" in "".join(text.words for text in scene.texts):
            marks = [pair for pair in marks if pair[0] != "'"]
        # The plain single quote is the commonest in prompts of the benchmarks.
        left, right = marks[0] if self.chance(0.5) else self.pick(marks)
        return [f"{left}{text.words}{right}" for text in scene.texts]

    def colour(self, name: str, language: str, gender: int = 0) -> str:
        names = PALETTE[name][{"en": 1, "es": 2, "zh": 3}[language]]
        chosen = self.pick(names)
        return chosen[gender] if language == "es" else chosen

    # English ------------------------------------------------------------------------------------------------------
    def en(self, scene: Scene) -> str:
        bg, look, thing = self.colour(scene.bg, "en"), self.pick(LOOKS), self.pick(THINGS["en"])
        opener = self.pick(OPENERS)
        first = look or bg
        article = "an" if first[0] in "aeiou" and self.chance(0.8) else "a"
        if not scene.texts:
            return self._en_shapes(scene, f"{opener}{article} {look}{bg} {thing}", bg)
        noun, is_after = self.pick((
            (f"{article} {look}{bg} {thing}", 0), (f"{article} {look}{bg} {thing}", 0), (f"{article} {look}{bg} {thing}", 0),
            (f"a {look}{thing} on {bg}", 0), (f"a {look}{thing} with a {bg} background", 1), (f"a {look}{thing}, {bg} background,", 0),
        ))
        head = f"{opener}{noun}"
        parts = [q + (f" in {self.colour(t.ink, 'en')}" if t.ink_is_named else "") for q, t in zip(self.quoted(scene, "en"), scene.texts)]
        with_ = "and" if is_after else "with"
        body = getattr(self, f"_en_{scene.style}")(parts, with_)
        text = head + body
        if scene.has_line:
            text += self.pick((" and a line under the title", ", with a line below the title", ", a bar under the title"))
        if scene.shape:
            shape = SHAPE_NAMES[scene.shape[0]][0]
            text += self.pick((" and a {} {}", ", with a {} {}", " and a {} {} in the corner", " next to a {} {}")).format(self.colour(scene.shape[1], "en"), shape)
        text += self.pick(TAILS)
        return text[0].upper() + text[1:] if self.chance(0.9) else text

    def _en_title(self, p: list[str], with_: str) -> str:
        if len(p) == 1:
            return self.pick((f" that says {p[0]}", f" {with_} the words {p[0]} in the middle", f" {with_} {p[0]} in large letters", f": {p[0]}", f" {with_} the title {p[0]}",
                              f" saying {p[0]}", f" {with_} the text {p[0]}", f" reading {p[0]}", f" {with_} the headline {p[0]}", f" {with_} {p[0]}"))
        if len(p) == 2:
            return self.pick((f" {with_} the title {p[0]} and {p[1]} below", f" {with_} the title {p[0]} and the subtitle {p[1]}", f": {p[0]} at the top, {p[1]} at the bottom",
                              f" that says {p[0]} and {p[1]}", f" {with_} the words {p[0]} and below it {p[1]}", f" {with_} {p[0]} above {p[1]}", f": title {p[0]}, subtitle {p[1]}",
                              f" {with_} the headline {p[0]} and the line {p[1]} under it"))
        return self.pick((f" {with_} the title {p[0]}, the line {p[1]} below it and {p[2]} at the bottom", f" {with_} {p[0]}, {p[1]} and {p[2]}", f" that says {p[0]}, {p[1]} and {p[2]}",
                          f": title {p[0]}, then {p[1]}, then {p[2]}", f" {with_} the title {p[0]}, the subtitle {p[1]} and the date {p[2]}"))

    def _en_badge(self, p: list[str], with_: str) -> str:
        badge = self.pick((" and a badge that says {}", ", and a badge saying {}", " and a badge with {}")).format(p[-1])
        if len(p) == 2:
            return self.pick((f" {with_} the title {p[0]}", f" that says {p[0]}", f" {with_} {p[0]}")) + badge
        return self.pick((f" {with_} the title {p[0]}, the line {p[1]} below it", f" {with_} {p[0]}, {p[1]}", f" {with_} the title {p[0]}, the subtitle {p[1]}")) + badge

    def _en_list(self, p: list[str], with_: str) -> str:
        return self.pick((f" {with_} a list: ", f" {with_} the bullet points ", f" {with_} a bullet list of ", f" listing ")) + ", ".join(p)

    def _en_panels(self, p: list[str], with_: str) -> str:
        count = {2: "two", 3: "three", 4: "four"}.get(len(p), "one")
        return self.pick((f" {with_} {count} panels: ", f" in {count} panels: ", f" {with_} {count} panels that say ")) + ", ".join(p)

    def _en_shapes(self, scene: Scene, noun: str, bg: str) -> str:
        shape, ink = scene.shape
        colour, name = self.colour(ink, "en"), SHAPE_NAMES[shape][0]
        if scene.style == "plain":
            return self.pick((f"{noun} without text", f"A plain {bg} background", f"{noun}, empty", f"Nothing but {bg}"))
        what = {"shapes": f"a {colour} {name}" if scene.count == 1 else f"{NUMBERS['en'][scene.count - 1]} {colour} {name}s",
                "square": f"a big {colour} square", "circle": f"a big {colour} circle", "stripes": f"{colour} stripes"}[scene.style]
        return self.pick((f"{noun} with {what}", f"{what} on {bg}", f"{what} on a {bg} background", f"Draw {what} on {bg}"))

    # Spanish ------------------------------------------------------------------------------------------------------
    def es(self, scene: Scene) -> str:
        thing, gender = self.pick(THINGS["es"])
        bg = self.colour(scene.bg, "es", gender)
        noun = self.pick((f"{('Un', 'Una')[gender]} {thing} {bg}", f"{('Un', 'Una')[gender]} {thing} {bg}", f"{('Un', 'Una')[gender]} {thing} con fondo {self.colour(scene.bg, 'es')}",
                          f"Dibuja {('un', 'una')[gender]} {thing} {bg}"))
        if not scene.texts:
            return self._es_shapes(scene, noun)
        p = [q + (f" en {self.colour(t.ink, 'es')}" if t.ink_is_named else "") for q, t in zip(self.quoted(scene, "es"), scene.texts)]
        if scene.style == "list":
            body = self.pick((" con una lista: ", " con los puntos ", " que enumera ")) + ", ".join(p)
        elif scene.style == "panels":
            body = f" con {({2: 'dos', 3: 'tres', 4: 'cuatro'}).get(len(p), 'uno')} paneles: " + ", ".join(p)
        elif scene.style == "badge":
            body = f" con el título {p[0]}" + (f", la línea {p[1]}" if len(p) == 3 else "") + f" y un sello que dice {p[-1]}"
        elif len(p) == 1:
            body = self.pick((f" que dice {p[0]}", f" con el texto {p[0]}", f" con el título {p[0]}", f" con las palabras {p[0]} en letras grandes", f": {p[0]}"))
        elif len(p) == 2:
            body = self.pick((f" con el título {p[0]} y debajo {p[1]}", f" que dice {p[0]} y {p[1]}", f" con el título {p[0]} y el subtítulo {p[1]}", f": {p[0]} arriba, {p[1]} abajo"))
        else:
            body = self.pick((f" con el título {p[0]}, la línea {p[1]} y al final {p[2]}", f" que dice {p[0]}, {p[1]} y {p[2]}", f" con {p[0]}, debajo {p[1]} y abajo {p[2]}"))
        text = noun + body
        if scene.has_line:
            text += self.pick((" y una línea bajo el título", ", con una raya bajo el título"))
        if scene.shape:
            name = SHAPE_NAMES[scene.shape[0]][1]
            text += f" y {'una' if name == 'estrella' else 'un'} {name} {self.colour(scene.shape[1], 'es', int(name == 'estrella'))}"
        return text

    def _es_shapes(self, scene: Scene, noun: str) -> str:
        shape, ink = scene.shape
        name, colour = SHAPE_NAMES[shape][1], self.colour(ink, "es")
        if scene.style == "plain":
            return self.pick((f"{noun} sin texto", f"{noun}, sin nada"))
        plural = f"{NUMBERS['es'][scene.count - 1]} {name}{'es' if name.endswith('n') else 's'} de color {colour}"
        what = {"shapes": f"{'una' if name == 'estrella' else 'un'} {name} de color {colour}" if scene.count == 1 else plural,
                "square": f"un gran cuadrado {colour}", "circle": f"un gran círculo {colour}", "stripes": f"rayas de color {colour}"}[scene.style]
        return f"{noun} con {what}"

    # Chinese ------------------------------------------------------------------------------------------------------
    def zh(self, scene: Scene) -> str:
        measure, thing = self.pick(THINGS["zh"])
        bg = self.colour(scene.bg, "zh")
        noun = self.pick((f"{measure}{bg}{thing}", f"{measure}{bg}{thing}", f"{measure}{bg}背景的{thing}", f"画{measure}{bg}{thing}"))
        if not scene.texts:
            shape, ink = scene.shape
            colour, name = self.colour(ink, "zh"), SHAPE_NAMES[shape][2]
            if scene.style == "plain":
                return noun + self.pick(("，没有文字", "，空白"))
            what = {"shapes": f"{NUMBERS['zh'][scene.count - 1]}{colour}{name}", "square": f"一个大的{colour}方块", "circle": f"一个大的{colour}圆形", "stripes": f"{colour}条纹"}[scene.style]
            return f"{noun}，上面有{what}"
        p = [(f"{self.colour(t.ink, 'zh')}的" if t.ink_is_named else "") + q for q, t in zip(self.quoted(scene, "zh"), scene.texts)]
        if scene.style == "list":
            body = "，列表：" + "、".join(p)
        elif scene.style == "panels":
            body = f"，{({2: '两', 3: '三', 4: '四'}).get(len(p), '一')}格：" + "、".join(p)
        elif scene.style == "badge":
            body = f"，标题是{p[0]}" + (f"，下面一行{p[1]}" if len(p) == 3 else "") + f"，徽章写着{p[-1]}"
        elif len(p) == 1:
            body = self.pick((f"，上面写着{p[0]}", f"，标题是{p[0]}", f"，文字{p[0]}"))
        elif len(p) == 2:
            body = self.pick((f"，标题是{p[0]}，下面是{p[1]}", f"，上面写着{p[0]}和{p[1]}"))
        else:
            body = self.pick((f"，标题是{p[0]}，下面一行{p[1]}，角上写着{p[2]}", f"，上面写着{p[0]}、{p[1]}和{p[2]}"))
        text = noun + body
        if scene.has_line:
            text += "，标题下有一条线"
        if scene.shape:
            text += f"，还有一个{self.colour(scene.shape[1], 'zh')}{SHAPE_NAMES[scene.shape[0]][2]}"
        return text


def characters_of_templates() -> str:
    """Every character beyond ASCII that the phrasings use, for the tokenizer."""
    import inspect
    import sys

    source = inspect.getsource(sys.modules[__name__]) + repr(PALETTE)
    return "".join(sorted({c for c in source if ord(c) > 127}))
