"""What a search for the strongest setting came to, in words and as a table."""

from __future__ import annotations

from collections.abc import Sequence

from .search import Found, Limit, Setting


def value(limit: Limit, found: float) -> str:
    """A measured value with as many digits as it takes."""
    return f"{found:.3f}" if limit.ruler.span[1] <= 2 else f"{found:.2f}"


def report(found: Found, cost: str = "", notes: Sequence[str] = ()) -> str:
    """The setting found, what binds it, whether the curve is monotone, and every setting tried.

    Args:
        cost: what the runs took, as a sentence.
        notes: more sentences.
    """
    lines = [*_verdict(found), *_shape(found), *notes]
    if cost:
        lines.append(cost)
    lines += ["", *_table(found.limits, found.tried)]
    if found.checked:
        lines += ["", "Whole runs:", *_table(found.limits, found.checked)]
    return "\n".join(lines)


def _verdict(found: Found) -> list[str]:
    if found.chosen is None:
        least = next((one for one in found.final if one.factor == 0), found.final[0])
        kept = "; ".join(f"{limit}: {value(limit, measured)}" for limit, measured in found.broken_by(least))
        lines = ["No setting holds. The picture is the one at strength 0."]
        if kept:
            lines.append(f"There the run itself breaks {kept}. Loosen the limit, or sample with less denoise.")
        return lines
    lines = [f"Strongest setting that holds: {found.chosen.factor:.4g} x the strength set on the nodes."]
    if found.chosen.factor == 0:
        lines.append("That is without any stylization.")
    if found.next is None:
        lines.append("It is the strongest that was tried; raise 'strongest' to go further.")
    else:
        broken = "; ".join(f"{limit} ({value(limit, measured)})" for limit, measured in found.broken_by(found.next))
        # after short runs, the next one may have held in one of those
        lines.append(
            f"{found.next.factor:.4g} breaks {broken}." if broken else "Stronger short runs held, whole ones not."
        )
    if found.nearer is not None:
        styles = " against ".join(f"{one.reading.style:.2f}" for one in (found.nearer, found.chosen))
        lines.append(f"Nearest to the style within the limits is {found.nearer.factor:.4g}: {styles}.")
    return lines


def _shape(found: Found) -> list[str]:
    lines = []
    if found.off_is_worse:
        broken = "; ".join(f"{limit} ({value(limit, measured)})" for limit, measured in found.broken_by(found.tried[0]))
        lines.append(f"Strength 0, which is plain sampling, breaks {broken}: the stylization keeps more.")
    if found.monotone:
        return [*lines, "The curve is monotone: stronger never kept more."]
    if found.turning:
        lines.append(f"The curve is not monotone: {', '.join(found.turning)} recovers at a stronger setting.")
    if found.broken:
        lines.append(
            "Some weaker settings break a limit and stronger ones keep it, so the grid was made twice as fine; a "
            "stronger one may hide between its points. Raise 'grid' to look closer."
        )
    return lines


def _table(limits: Sequence[Limit], settings: Sequence[Setting]) -> list[str]:
    styled = settings[0].reading.style is not None
    rows = [["strength", *(str(one) for one in limits), *(["style"] if styled else []), "holds"]]
    for one in settings:
        values = [value(limit, each) for limit, each in zip(limits, one.reading.values, strict=True)]
        style = [f"{one.reading.style:.2f}"] if styled else []
        rows.append([f"{one.factor:.4g}", *values, *style, "yes" if one.holds else "no"])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
