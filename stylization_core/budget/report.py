"""What a search for the strongest setting came to, in words and as a table."""

from __future__ import annotations

from collections.abc import Sequence

from .search import Limit, Outcome, Setting


def value(limit: Limit, measured: float) -> str:
    """A measured value with as many digits as it takes."""
    return f"{measured:.3f}" if limit.ruler.span[1] <= 2 else f"{measured:.2f}"


def report(outcome: Outcome, cost: str = "", notes: Sequence[str] = ()) -> str:
    """The setting found, what binds it, whether the curve is monotone, and every setting tried.

    Args:
        cost: what the runs took, as a sentence.
        notes: more sentences.
    """
    lines = [*_verdict(outcome), *_shape(outcome), *notes]
    if cost:
        lines.append(cost)
    lines += ["", *_table(outcome.limits, outcome.tried)]
    if outcome.checked:
        lines += ["", "Whole runs:", *_table(outcome.limits, outcome.checked)]
    return "\n".join(lines)


def _verdict(outcome: Outcome) -> list[str]:
    if outcome.chosen is None:
        least = next((setting for setting in outcome.final if setting.factor == 0), outcome.final[0])
        kept = "; ".join(f"{limit}: {value(limit, measured)}" for limit, measured in outcome.broken_by(least))
        lines = ["No setting holds. The picture is the one at strength 0."]
        if kept:
            lines.append(f"There the run itself breaks {kept}. Loosen the limit, or sample with less denoise.")
        return lines
    lines = [f"Strongest setting that holds: {outcome.chosen.factor:.4g} x the strength set on the nodes."]
    if outcome.chosen.factor == 0:
        lines.append("That is without any stylization.")
    if outcome.next is None:
        lines.append("It is the strongest that was tried; raise 'strongest' to go further.")
    else:
        broken = "; ".join(f"{limit} ({value(limit, measured)})" for limit, measured in outcome.broken_by(outcome.next))
        # The next setting may have been run short alone, and have held there.
        lines.append(
            f"{outcome.next.factor:.4g} breaks {broken}." if broken else "Stronger short runs held, whole ones not."
        )
    if outcome.nearer is not None:
        styles = " against ".join(f"{setting.reading.style:.2f}" for setting in (outcome.nearer, outcome.chosen))
        lines.append(f"Nearest to the style within the limits is {outcome.nearer.factor:.4g}: {styles}.")
    return lines


def _shape(outcome: Outcome) -> list[str]:
    lines = []
    if outcome.off_is_worse:
        broken = "; ".join(
            f"{limit} ({value(limit, measured)})" for limit, measured in outcome.broken_by(outcome.tried[0])
        )
        lines.append(f"Strength 0, which is plain sampling, breaks {broken}: the stylization keeps more.")
    if outcome.monotone:
        return [*lines, "The curve is monotone: stronger never kept more."]
    if outcome.recovering:
        lines.append(f"The curve is not monotone: {', '.join(outcome.recovering)} recovers at a stronger setting.")
    if outcome.gap:
        lines.append(
            "Some weaker settings break a limit and stronger ones keep it, so the grid was made twice as fine; a "
            "stronger one may hide between its points. Raise 'grid' to look closer."
        )
    return lines


def _table(limits: Sequence[Limit], settings: Sequence[Setting]) -> list[str]:
    styled = settings[0].reading.style is not None
    rows = [["strength", *(str(limit) for limit in limits), *(["style"] if styled else []), "holds"]]
    for setting in settings:
        values = [value(limit, measured) for limit, measured in zip(limits, setting.reading.values, strict=True)]
        style = [f"{setting.reading.style:.2f}"] if styled else []
        rows.append([f"{setting.factor:.4g}", *values, *style, "yes" if setting.holds else "no"])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
