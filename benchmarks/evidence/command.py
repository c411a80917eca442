"""The one command line of all evidence."""

from __future__ import annotations

import argparse

from ..common.cells import say
from .registry import EVIDENCES, evidence_of

PARTS = ("cells", "rulers", "page")


def main(doc: str) -> None:
    """Make what is asked for."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=list(EVIDENCES), metavar="NAME", help=", ".join(EVIDENCES))
    parser.add_argument("--only", choices=PARTS, help="a part of the work; default cells and page")
    parser.add_argument("--methods", nargs="*", default=[], metavar="METHOD", help="only these; default all")
    parser.add_argument("--cases", nargs="*", type=int, default=[], metavar="NUMBER", help="only these; default all")
    parser.add_argument("--of", nargs="*", default=[], metavar="COMPARISON", help="only these comparisons; default all")
    chosen = parser.parse_args()
    evidence = evidence_of(chosen.name)
    known = {method for comparison in evidence.comparisons.values() for method in comparison.methods}
    if not set(chosen.methods) <= known:
        parser.error(f"no such method: {', '.join(sorted(set(chosen.methods) - known))}; there are: {', '.join(known)}")
    for name, comparison in evidence.comparisons.items():
        if chosen.of and name not in chosen.of:
            continue
        methods = [method for method in chosen.methods if method in comparison.methods]
        if chosen.only == "rulers":
            comparison.measure()
        elif chosen.only != "page" and (methods or not chosen.methods):
            comparison.make(methods, chosen.cases)
    if chosen.only != "page" and not (chosen.methods or chosen.cases or chosen.of):
        evidence.more()
    if chosen.only in (None, "page"):
        say(evidence.write())
