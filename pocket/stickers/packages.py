"""Reads the makers' npm packages: one SVG or raster picture for each thing, maker and natural rendering.

Nothing is fetched here; `missing` says what to install. Makers are matched by code point, so that a thing is the same
emoji with all of them.
"""

import json
import re

from .settings import MAKERS, NATURAL, WORDS_PACKAGE

GROUPS = {0: "smileys", 3: "animals", 4: "food", 5: "travel", 6: "activities", 7: "objects"}
NO_PICTURES = re.compile(
    r"clock-face|o-?clock|thirty|keycap|button|letter|flag|skin-tone|moon-.*moon|first-quarter|last-quarter"
    r"|waxing|waning|input|seat|map-of-japan|mahjong|flower-playing|japanese-dolls|postbox|inbox|outbox"
    r"|speech|balloon-|anger-sym|hundred|heart-(decoration|exclamation)|hole|dashing|dizzy$|zzz|thought"
)
LATEST_EMOJI = 13  # versions after this one are missing with some makers
FEWEST_MAKERS = 3  # of MAKERS, for a thing to be used at all
LINE_COLOUR = "#202020"  # of drawings in one colour


def sources():
    """{(maker, rendering): npm package}; the rendering of a maker's own flat drawing is `flat`."""
    return {
        **{(maker, "flat"): package for maker, (package, _) in MAKERS.items()},
        **{k: p for k, (p, _) in NATURAL.items()},
    }


def missing(packages):
    """The npm packages that are not in the folder node_modules."""
    return [p for p in (*sources().values(), WORDS_PACKAGE) if not (packages / p).is_dir()]


def slug(text):
    return re.sub(r"[^a-z0-9]+", "-", text.lower().replace("’", "").replace("'", "")).strip("-")


class IconSet:
    """One Iconify package."""

    def __init__(self, folder):
        self.data = json.loads((folder / "icons.json").read_text(encoding="utf-8"))
        self.icons = self.data["icons"]
        self.aliases = {k: v["parent"] for k, v in self.data.get("aliases", {}).items()}
        self.by_code = json.loads((folder / "chars.json").read_text(encoding="utf-8"))
        self.undashed = {name.replace("-", ""): name for name in self.icons}

    def svg(self, names):
        """The SVG text of the first name that the set knows, or None."""
        for name in names:
            name = name if name in self.icons else self.aliases.get(name)
            name = name if name in self.icons else self.undashed.get(str(name).replace("-", ""))
            if name:
                return self.text(self.icons[name])
        return None

    def text(self, icon):
        left, top, width, height = (
            icon.get(k, self.data.get(k, default))
            for k, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
        )
        body = icon["body"].replace("currentColor", LINE_COLOUR)
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{left} {top} {width} {height}">{body}</svg>'
        )


class RasterSet:
    """A package of one picture file for each code point."""

    def __init__(self, folder):
        self.folder = folder / "assets"
        self.by_code = {}

    def file(self, codes):
        found = (self.folder / f"{code}.webp" for code in codes)
        return next((path.read_bytes() for path in found if path.is_file()), None)


def emojis(packages):
    """(names, code points) of the emoji that are pictures of something; the first name is the thing's."""
    folder = packages / WORDS_PACKAGE / "en"
    entries = json.loads((folder / "data.json").read_text(encoding="utf-8"))
    short = json.loads((folder / "shortcodes" / "emojibase.json").read_text(encoding="utf-8"))
    for entry in entries:
        name = slug(entry["label"])
        if entry.get("group") in GROUPS and entry["version"] <= LATEST_EMOJI and not NO_PICTURES.search(name):
            also = short.get(entry["hexcode"], [])
            code = entry["hexcode"].lower()
            bare = code.replace("-fe0f", "")
            yield [name, *map(slug, [also] if isinstance(also, str) else also)], (code, bare, bare + "-fe0f")


def read(packages):
    """{thing: {(maker, rendering): SVG text or bytes of a raster picture}} of all things with enough makers."""
    sets = {
        key: IconSet(packages / p) if (packages / p / "icons.json").is_file() else RasterSet(packages / p)
        for key, p in sources().items()
    }
    found = {}
    for names, codes in emojis(packages):
        names = list(dict.fromkeys([*names, *(s.by_code[c] for s in sets.values() for c in codes if c in s.by_code)]))
        pictures = {key: s.svg(names) if isinstance(s, IconSet) else s.file(codes) for key, s in sets.items()}
        pictures = {key: picture for key, picture in pictures.items() if picture}
        if sum(rendering == "flat" for _, rendering in pictures) >= FEWEST_MAKERS:
            found.setdefault(names[0], pictures)
    return found
