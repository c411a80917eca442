"""Stand-in for torchaudio in the test host: it imports, and says what it is when something of it is used."""

from . import functional, transforms

__version__ = "0.0.0"
__all__ = ["functional", "transforms"]
