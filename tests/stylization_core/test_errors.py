"""The error type that says where, what and what to do."""

from __future__ import annotations

import copy

import pytest
from stylization.stylization_core.errors import StylizationError, naming


def example() -> StylizationError:
    return StylizationError("mask", "it is 8x8 pixels, the picture 64x64", "Resize it")


def test_message_names_input_finding_and_remedy():
    assert str(example()) == "mask: it is 8x8 pixels, the picture 64x64. Resize it."


def test_naming_puts_the_node_in_front():
    with pytest.raises(StylizationError) as caught, naming("Stylize SMS"):
        raise example()
    assert str(caught.value) == "Stylize SMS, mask: it is 8x8 pixels, the picture 64x64. Resize it."


def test_innermost_node_is_named():
    with pytest.raises(StylizationError) as caught, naming("outer"), naming("inner"):
        raise example()
    assert caught.value.node == "inner"


@pytest.mark.parametrize("ending", [".", "!", "?"])
def test_sentences_keep_their_own_ending(ending):
    error = StylizationError("mask", f"is it wrong{ending}", f"Resize it{ending} ")
    assert str(error) == f"mask: is it wrong{ending} Resize it{ending}"


def test_other_exceptions_pass_unchanged():
    with pytest.raises(KeyError), naming("Stylize SMS"):
        raise KeyError("other")


def test_nothing_happens_without_an_error():
    with naming("Stylize SMS"):
        value = 3
    assert value == 3


def test_it_is_a_value_error_that_survives_copying():
    error = copy.copy(example())
    assert isinstance(error, ValueError)
    assert str(error) == str(example())


@pytest.mark.parametrize(
    ("raw", "written"),
    [("half \ud83d", r"half \ud83d"), ("two\nlines", r"two\nlines"), ("nul\0", r"nul\x00"), ("\u2028", r"\u2028")],
)
def test_what_no_log_can_take_is_escaped(raw, written):
    error = StylizationError(raw, f"it is '{raw}'", f"Take {raw} out")
    for text in (str(error), *error.args):
        assert text.encode("utf-8")
        assert written in text and raw not in text


def test_letters_and_whole_emoji_of_any_script_stay():
    text = "Ölbild 絵 \U0001f3a8 e\u0301"
    assert str(StylizationError(text, text, text)).count(text) == 3


def test_a_long_quotation_is_cut():
    text = str(StylizationError("folder", f"there is no '{'x' * 100_000}'", "Name another"))
    assert len(text) < 1300 and text.startswith("folder: there is no 'xxx") and text.endswith("x'. Name another.")
