"""No transform of torchaudio is here; the classes can be imported but not built."""


class _Absent:
    def __init__(self, *_args, **_kwargs):
        raise NotImplementedError(f"The test host has no torchaudio: {type(self).__name__} cannot be used in it.")


class MelScale(_Absent):
    pass


class MelSpectrogram(_Absent):
    pass


class Spectrogram(_Absent):
    pass


class Resample(_Absent):
    pass
