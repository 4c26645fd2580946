"""What hides in a text is made visible."""

from __future__ import annotations

import re
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from functions.conversation.visible import UNSEEN, visible


@given(
    text=st.text(
        st.one_of(st.characters(), st.sampled_from("⟨⟩U+202E\u202e\u200b\x1b\ufe0f\U000e0041\ud800\n")), max_size=80
    )
)
def test_what_is_made_visible_can_be_told_back_and_hides_nothing(text: str) -> None:
    shown = visible(text)

    assert re.sub(r"⟨U\+([0-9A-F]{4,6})⟩", lambda code: chr(int(code[1], 16)), shown) == text
    assert all(character in "\n\t " or unicodedata.category(character) not in UNSEEN for character in shown)


def test_a_plain_command_is_shown_as_it_is() -> None:
    command = "rm -rf build/ && echo 'größe 数据 😀' | tee x\n\tdone"

    assert visible(command) == command
