"""Everything that shapes the small checkpoint: alphabet, palette, canvases, dimensions, seeds."""

SEED = 20_261_130

CELL = 32
"""Pixels along one side of a visual token's cell, as in GLM-Image: 16-pixel patches of the picture at half size."""

FONT = "node_modules/@expo-google-fonts/sometype-mono/700Bold/SometypeMono_700Bold.ttf"
FONT_SIZE, FONT_STRETCH, BASELINE = 33, 1.25, 25

GLYPHS = (
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
    ".,!?'-&:%$+/#@*()" "áéíóúñüÁÉÍÓÚÑÜ¿¡€"
)

# name: (RGB, English names, Spanish names as (masculine, feminine), Chinese names)
PALETTE = {
    "white": ((250, 250, 248), ("white",), (("blanco", "blanca"),), ("白色",)),
    "black": ((16, 16, 18), ("black",), (("negro", "negra"),), ("黑色",)),
    "yellow": ((250, 214, 40), ("yellow",), (("amarillo", "amarilla"),), ("黄色",)),
    "red": ((204, 32, 40), ("red", "crimson"), (("rojo", "roja"),), ("红色",)),
    "blue": ((28, 84, 200), ("blue",), (("azul", "azul"),), ("蓝色",)),
    "green": ((24, 128, 60), ("green",), (("verde", "verde"),), ("绿色",)),
    "orange": ((240, 128, 24), ("orange",), (("naranja", "naranja"),), ("橙色",)),
    "pink": ((244, 150, 180), ("pink",), (("rosa", "rosa"),), ("粉色", "粉红色")),
    "navy": ((18, 28, 76), ("navy", "dark blue"), (("azul marino", "azul marino"),), ("深蓝色",)),
    "teal": ((0, 118, 122), ("teal",), (("turquesa", "turquesa"),), ("青色",)),
    "charcoal": ((58, 62, 68), ("charcoal", "dark grey", "dark gray"), (("gris oscuro", "gris oscuro"),), ("深灰色",)),
    "grey": ((196, 200, 204), ("grey", "gray", "light grey"), (("gris", "gris"),), ("灰色",)),
    "mustard": ((210, 164, 40), ("mustard", "gold"), (("mostaza", "mostaza"), ("dorado", "dorada")), ("金色",)),
    "coral": ((246, 120, 98), ("coral",), (("coral", "coral"),), ("珊瑚色",)),
    "lavender": ((188, 168, 228), ("lavender", "lilac"), (("lavanda", "lavanda"), ("lila", "lila")), ("淡紫色",)),
    "olive": ((98, 104, 40), ("olive",), (("oliva", "oliva"),), ("橄榄色",)),
    "purple": ((98, 40, 140), ("purple", "violet"), (("morado", "morada"), ("violeta", "violeta")), ("紫色",)),
    "cream": ((248, 236, 208), ("cream", "beige"), (("crema", "crema"), ("beige", "beige")), ("米色",)),
    "brown": ((110, 66, 36), ("brown",), (("marrón", "marrón"),), ("棕色",)),
}
TEXT_COLOURS = ("white", "black", "yellow", "red", "blue", "green")
SHAPE_COLOURS = TEXT_COLOURS + ("orange", "pink")
SHAPES = ("star", "disc", "heart", "triangle", "diamond", "ring")
MIN_CONTRAST = 3.2
"""Least contrast ratio (WCAG 2) of an ink on its background."""

CODEBOOK = 896
VISION_VOCAB = CODEBOOK + 128
START, END = CODEBOOK, CODEBOOK + 1

# (columns, rows) of the large grid, each with the share of training pictures
CANVASES = {(11, 12): 0.6, (12, 8): 0.1, (8, 8): 0.1, (16, 8): 0.1, (8, 12): 0.1}
DEFAULT_CANVAS = (11, 12)

AR = dict(hidden=128, layers=6, heads=4, kv_heads=2, head_dim=32, mlp=384, theta=5.0, partial=0.75, mrope=(2, 4, 6))
VISION = dict(hidden=96, depth=3, heads=4, mlp=256, image_size=512, embed_dim=64)
VAE = dict(channels=(8, 16, 32, 48), layers=1, latent=8, groups=4)
DIT = dict(layers=4, heads=3, head_dim=64, text_dim=96, time_dim=128, condition_dim=32)
BYT5 = dict(d_model=96, d_ff=192, d_kv=24, num_heads=4, num_layers=2)
