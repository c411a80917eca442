"""Drawn scenes: one thing each, in a look of palette, pattern and outline that no word names."""

import colorsys
import math

import numpy as np
from PIL import Image, ImageDraw

SIZE = 96  # pixels of a side
FINE = 4  # drawn larger by this and scaled down

GROUND, BODY, ROOF, ACCENT = 1, 2, 3, 4  # 0 is the background
PATTERNS = ("flat", "flat", "flat", "flat", "stripes", "hatch", "dots", "checker", "waves", "strokes")


class Sheet:
    """A drawing of areas, with coordinates in 0..1 from the upper left."""

    def __init__(self, rng):
        self.rng, self.image = rng, Image.new("L", (SIZE * FINE, SIZE * FINE), 0)
        self.draw = ImageDraw.Draw(self.image)

    def number(self, low, high):
        return float(self.rng.uniform(low, high))

    def _scaled(self, points):
        return [(x * SIZE * FINE, y * SIZE * FINE) for x, y in points]

    def polygon(self, area, *points):
        self.draw.polygon(self._scaled(points), fill=area)

    def box(self, area, x, y, width, height):
        self.polygon(area, (x, y), (x + width, y), (x + width, y + height), (x, y + height))

    def disc(self, area, x, y, radius, tall=1.0):
        self.draw.ellipse(self._scaled([(x - radius, y - radius * tall), (x + radius, y + radius * tall)]), fill=area)

    def below(self, area, height):
        """Fills everything under ``height(x)``."""
        xs = np.linspace(0, 1, 65)
        self.polygon(area, (0, 1), *((x, height(x)) for x in xs), (1, 1))

    def ground(self, height):
        bend, turn = self.number(0, 0.03), self.number(0, 6)
        self.below(GROUND, lambda x: height + bend * math.sin(4 * x + turn))

    def battlements(self, area, x, y, width, count, size):
        for k in range(count):
            self.box(area, x + width * (2 * k) / (2 * count - 1), y - size, width / (2 * count - 1), size * 1.1)

    def sun(self):
        self.disc(ACCENT, self.number(0.12, 0.88), self.number(0.1, 0.22), self.number(0.05, 0.09))


def castle(s):
    low, width, x = s.number(0.78, 0.88), s.number(0.5, 0.66), s.number(0.42, 0.58)
    s.ground(low)
    left, high = x - width / 2, s.number(0.46, 0.54)
    s.box(BODY, left, high, width, low + 0.03 - high)
    s.battlements(BODY, left, high, width, 5, 0.05)
    for side in (left - 0.04, left + width - 0.12):
        top = high - s.number(0.1, 0.18)
        s.box(BODY, side, top, 0.16, low + 0.03 - top)
        s.polygon(ROOF, (side - 0.03, top), (side + 0.08, top - s.number(0.14, 0.22)), (side + 0.19, top))
    s.box(ACCENT, x - 0.06, low - 0.16, 0.12, 0.18)
    s.disc(ACCENT, x, low - 0.16, 0.06)


def tower(s):
    low, x, top, width = s.number(0.8, 0.9), s.number(0.35, 0.65), s.number(0.22, 0.3), s.number(0.16, 0.22)
    s.ground(low)
    s.polygon(
        BODY,
        (x - width * 0.42, top),
        (x + width * 0.42, top),
        (x + width * 0.6, low + 0.03),
        (x - width * 0.6, low + 0.03),
    )
    s.box(ROOF, x - width * 0.6, top - 0.07, width * 1.2, 0.1)
    s.battlements(ROOF, x - width * 0.6, top - 0.07, width * 1.2, 3, 0.05)
    for y in (top + 0.14, top + 0.3):
        s.box(ACCENT, x - 0.025, y, 0.05, 0.09)


def house(s):
    low, x, width = s.number(0.78, 0.88), s.number(0.38, 0.62), s.number(0.4, 0.52)
    s.ground(low)
    high = low - width * s.number(0.55, 0.7)
    s.box(BODY, x - width / 2, high, width, low + 0.03 - high)
    s.polygon(ROOF, (x - width * 0.62, high), (x, high - width * s.number(0.42, 0.6)), (x + width * 0.62, high))
    s.box(ACCENT, x - width * 0.36, low - 0.17, 0.1, 0.2)
    s.box(ACCENT, x + width * 0.08, high + 0.06, 0.12, 0.1)


def pyramid(s):
    low = s.number(0.72, 0.84)
    s.ground(low)
    for x, size in ((s.number(0.12, 0.25), s.number(0.12, 0.18)), (s.number(0.48, 0.62), s.number(0.3, 0.4))):
        tip = low + 0.03 - size * 1.35
        s.polygon(BODY, (x - size, low + 0.03), (x, tip), (x + size, low + 0.03))
        s.polygon(ROOF, (x + size * 0.25, low + 0.03), (x, tip), (x + size, low + 0.03))
    s.sun()


def temple(s):
    low, x, width = s.number(0.8, 0.9), s.number(0.44, 0.56), s.number(0.62, 0.76)
    s.ground(low)
    high, left = s.number(0.4, 0.48), x - width / 2
    s.polygon(ROOF, (left - 0.05, high), (x, high - s.number(0.16, 0.24)), (left + width + 0.05, high))
    s.box(ROOF, left - 0.03, high + 0.01, width + 0.06, 0.05)
    count = int(s.rng.integers(4, 6))
    for k in range(count):
        s.box(BODY, left + (width - 0.09) * k / (count - 1), high + 0.06, 0.09, low - 0.06 - high)
    s.box(ACCENT, left - 0.06, low - 0.03, width + 0.12, 0.06)


def gate(s):
    low, x, width = s.number(0.8, 0.9), s.number(0.42, 0.58), s.number(0.54, 0.66)
    s.ground(low)
    high = s.number(0.28, 0.36)
    s.box(BODY, x - width / 2, high, width, low + 0.03 - high)
    s.box(ROOF, x - width / 2 - 0.04, high - 0.04, width + 0.08, 0.11)
    s.disc(0, x, high + 0.32, width * 0.22)
    s.box(0, x - width * 0.22, high + 0.32, width * 0.44, low - high - 0.32)


def mountain(s):
    low = s.number(0.78, 0.9)
    for x, size in ((s.number(0.15, 0.3), 0.26), (s.number(0.7, 0.85), 0.3), (s.number(0.42, 0.58), 0.36)):
        tip = low - size * s.number(1.3, 1.65)
        s.polygon(BODY, (x - size, low + 0.04), (x, tip), (x + size, low + 0.04))
        d, h = size * 0.3, (low + 0.04 - tip) * 0.3
        s.polygon(
            ROOF,
            (x - d, tip + h),
            (x, tip),
            (x + d, tip + h),
            (x + d * 0.3, tip + h * 0.75),
            (x - d * 0.2, tip + h * 1.2),
        )
    s.ground(low)


def sea(s):
    level = s.number(0.52, 0.62)
    for k in range(3):
        y, turn = level + 0.15 * k, s.number(0, 6)
        s.below((GROUND, BODY, GROUND)[k], lambda x, y=y, t=turn: y + 0.022 * math.sin(18 * x + t))
    x, y, size = s.number(0.3, 0.7), level + 0.1, s.number(0.14, 0.2)
    s.polygon(ACCENT, (x - size, y), (x + size, y), (x + size * 0.65, y + 0.09), (x - size * 0.65, y + 0.09))
    s.polygon(ROOF, (x, y - 0.02), (x, y - size * 2), (x + size * 0.95, y - 0.02))
    s.polygon(ROOF, (x - 0.03, y - 0.02), (x - 0.03, y - size * 1.5), (x - size * 0.7, y - 0.02))


def forest(s):
    low = s.number(0.74, 0.84)
    s.ground(low)
    pointed = s.rng.random() < 0.5
    for x in sorted(np.linspace(0.12, 0.88, 4) + s.rng.uniform(-0.05, 0.05, 4), key=lambda _: s.rng.random()):
        foot, size = low + s.number(0.0, 0.1), s.number(0.12, 0.17)
        s.box(ACCENT, x - 0.02, foot - 0.16, 0.04, 0.18)
        if pointed:
            for lift in (0.08, 0.2):
                s.polygon(BODY, (x - size, foot - lift), (x, foot - lift - 0.24), (x + size, foot - lift))
        else:
            s.disc(BODY, x, foot - 0.27, size, 1.25)


def city(s):
    low, x = s.number(0.84, 0.92), 0.03
    s.ground(low)
    while x < 0.95:
        width, high = s.number(0.12, 0.18), s.number(0.25, 0.6)
        area = BODY if s.rng.random() < 0.6 else ROOF
        s.box(area, x, high, width, low + 0.03 - high)
        for row in np.arange(high + 0.05, low - 0.08, 0.11):
            for column in (0.2, 0.6):
                s.box(ACCENT, x + width * column, row, width * 0.22, 0.05)
        x += width + 0.02


def space(s):
    for _ in range(14):
        s.disc(ACCENT, s.number(0, 1), s.number(0, 1), s.number(0.012, 0.025))
    x, y, size = s.number(0.4, 0.6), s.number(0.42, 0.58), s.number(0.2, 0.27)
    s.disc(BODY, x, y, size)
    lean = s.number(-0.12, 0.12)
    ring = [
        (x + size * 1.75 * math.cos(t), y + size * 0.4 * math.sin(t) + lean * math.cos(t))
        for t in np.arange(0, 6.3, 0.1)
    ]
    s.draw.line(s._scaled(ring), fill=ROOF, width=SIZE * FINE // 20)
    upper = [(x + size * math.cos(t), y + size * math.sin(t)) for t in np.arange(math.pi, 2 * math.pi, 0.1)]
    s.polygon(BODY, *upper)


def sky(s):
    s.sun()
    for y in (s.number(0.3, 0.4), s.number(0.55, 0.65), s.number(0.8, 0.88)):
        x, size = s.number(0.25, 0.75), s.number(0.09, 0.13)
        area = BODY if s.rng.random() < 0.7 else ROOF
        for k, rise in enumerate((0, 0.35, 0.5, 0.1)):
            s.disc(area, x + (k - 1.5) * size * 1.1, y - size * rise, size)


def desert(s):
    turn = s.number(0, 6)
    s.below(GROUND, lambda x: 0.62 + 0.08 * math.sin(5 * x + turn))
    s.below(BODY, lambda x: 0.8 + 0.07 * math.sin(4 * x + turn * 1.7))
    x, foot, size = s.number(0.25, 0.75), s.number(0.74, 0.84), s.number(0.4, 0.5)
    s.box(ROOF, x - 0.045, foot - size, 0.09, size)
    s.disc(ROOF, x, foot - size, 0.045)
    for side, high in ((-1, 0.55), (1, 0.7)):
        s.box(ROOF, x + (0 if side > 0 else -0.16), foot - size * high, 0.16, 0.06)
        s.box(ROOF, x + side * 0.16 - 0.03, foot - size * high - 0.12, 0.06, 0.18)
    s.sun()


def cathedral(s):
    low, x = s.number(0.82, 0.9), s.number(0.42, 0.58)
    s.ground(low)
    s.box(BODY, x - 0.15, 0.45, 0.3, low + 0.03 - 0.45)
    s.polygon(ROOF, (x - 0.16, 0.46), (x, 0.3), (x + 0.16, 0.46))
    for side in (-0.22, 0.1):
        s.box(BODY, x + side, 0.36, 0.12, low + 0.03 - 0.36)
        s.polygon(ROOF, (x + side - 0.01, 0.37), (x + side + 0.06, s.number(0.06, 0.14)), (x + side + 0.13, 0.37))
    s.disc(ACCENT, x, 0.57, 0.07)
    s.box(ACCENT, x - 0.05, low - 0.13, 0.1, 0.16)


THINGS = {
    thing.__name__: thing
    for thing in (
        castle,
        tower,
        house,
        pyramid,
        temple,
        gate,
        mountain,
        sea,
        forest,
        city,
        space,
        sky,
        desert,
        cathedral,
    )
}


class Look:
    """Colours, patterns and outline, drawn from ``rng``."""

    def __init__(self, rng):
        hue, step = rng.random(), rng.choice([0.08, 0.33, 0.5])
        dark = rng.random() < 0.35
        tones = [0.2, 0.34, 0.7, 0.55, 0.85] if dark else [0.86, 0.66, 0.42, 0.3, 0.62]
        self.colors = np.array(
            [
                colorsys.hls_to_rgb(
                    (hue + (k % 3) * step + rng.uniform(-0.03, 0.03)) % 1,
                    float(np.clip(tone + rng.uniform(-0.06, 0.06), 0.05, 0.95)),
                    rng.uniform(0.35, 0.95),
                )
                for k, tone in enumerate(tones)
            ]
        )
        self.patterns = [str(rng.choice(PATTERNS)) for _ in range(3)]  # background, ground, things
        self.period, self.angle = rng.uniform(12, 22), rng.uniform(0, math.pi)
        self.amplitude = rng.uniform(0.25, 0.6) * (1 if rng.random() < 0.5 else -1)
        self.outline = rng.choice([-1, 0, 1])
        self.width = int(rng.integers(1, 3))

    def shade(self, pattern, rng):
        """(SIZE, SIZE) in 0..1, how far the pattern's own tone goes over the area's colour."""
        y, x = np.mgrid[:SIZE, :SIZE] * (2 * math.pi / self.period)
        u, v = x * math.cos(self.angle) + y * math.sin(self.angle), y * math.cos(self.angle) - x * math.sin(self.angle)
        if pattern == "stripes":
            return (np.sin(u) > 0).astype(float)
        if pattern == "hatch":
            return np.maximum(np.sin(u) > 0.6, np.sin(v) > 0.6).astype(float)
        if pattern == "dots":
            return (np.cos(u) + np.cos(v) > 0.8).astype(float)
        if pattern == "checker":
            return ((np.sin(u) > 0) ^ (np.sin(v) > 0)).astype(float)
        if pattern == "waves":
            return (np.sin(v + 1.2 * np.sin(u * 0.7)) > 0).astype(float)
        if pattern == "strokes":
            coarse = rng.random((SIZE // 3, SIZE // 12))
            noise = np.asarray(Image.fromarray(coarse.astype(np.float32)).resize((SIZE, SIZE), Image.BICUBIC))
            turned = Image.fromarray(noise).rotate(math.degrees(self.angle), Image.BILINEAR)
            inner = np.asarray(turned.resize((SIZE * 3 // 2, SIZE * 3 // 2)))
            off = SIZE // 4
            return inner[off : off + SIZE, off : off + SIZE].clip(0, 1)
        return np.zeros((SIZE, SIZE))

    def render(self, sheet):
        """uint8 (SIZE, SIZE, 3)."""
        rng, full = sheet.rng, np.asarray(sheet.image)
        shades = [self.shade(pattern, rng) for pattern in self.patterns]
        picture = np.zeros((SIZE, SIZE, 3))
        for area, color in enumerate(self.colors):
            share = (full == area).reshape(SIZE, FINE, SIZE, FINE).mean((1, 3))
            shade = shades[min(area, 2)][..., None] * abs(self.amplitude)
            toward = color * 0.45 if self.amplitude < 0 else 1 - (1 - color) * 0.45
            picture += share[..., None] * (color + shade * (toward - color))
        if self.outline:
            edge = np.zeros_like(full, bool)
            edge[:-1] |= full[:-1] != full[1:]
            edge[:, :-1] |= full[:, :-1] != full[:, 1:]
            line = Image.fromarray((edge * 255).astype(np.uint8)).resize((SIZE, SIZE), Image.BOX)
            line = np.asarray(line, float) / 255
            for _ in range(self.width - 1):
                padded = np.pad(line, 1)
                line = np.max([padded[i : i + SIZE, j : j + SIZE] for i in range(3) for j in range(3)], 0)
            tone = self.colors[0] * 0.2 if self.outline < 0 else 1 - (1 - self.colors[-1]) * 0.2
            line = (line * 1.6).clip(0, 1)[..., None]
            picture = picture * (1 - line) + tone * line
        return (picture.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def drawing(thing, look, rng):
    """uint8 (SIZE, SIZE, 3): a thing, placed by chance, in a look."""
    sheet = Sheet(rng)
    THINGS[thing](sheet)
    if rng.random() < 0.5:
        sheet.image = sheet.image.transpose(Image.FLIP_LEFT_RIGHT)
    return look.render(sheet)
