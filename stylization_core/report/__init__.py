"""The report on a stylization: every ruler beside its anchors, as numbers, text, charts and pictures."""
