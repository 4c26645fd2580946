"""From Markdown to messages: nothing too long, nothing cut where it hurts, nothing lost."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from telegramify_markdown import MessageEntity, utf16_len

from functions.telegram.rendering import (
    CLASSIC_LIMIT,
    MAX_MESSAGES,
    RICH_LIMIT,
    classic_parts,
    needs_rich,
    plain_parts,
    plan,
    split_classic,
    split_markdown,
)

WORDS = st.text(alphabet="abc \n😀é\u200f\u05d0", max_size=400)


@given(text=WORDS, limit=st.integers(4, 60))
def test_parts_hold_the_whole_text_and_none_is_too_long(text: str, limit: int) -> None:
    parts = [part for part, _ in split_classic(text, [], limit)]

    assert all(utf16_len(part) <= limit for part in parts)
    assert "".join("".join(parts).split()) == "".join(text.split())


@given(
    before=st.text(alphabet="ab \n😀", max_size=60),
    link=st.text(alphabet="xyz ", min_size=1, max_size=20),
    after=st.text(alphabet="ab \n😀", max_size=60),
    kind=st.sampled_from(["text_link", "code", "mention"]),
)
def test_a_link_is_never_cut(before: str, link: str, after: str, kind: str) -> None:
    entity = MessageEntity(type=kind, offset=utf16_len(before), length=utf16_len(link), url="https://example.com")

    parts = split_classic(before + link + after, [entity], 24)

    kept = [(part, e) for part, entities in parts for e in entities]
    assert len(kept) == (1 if link.strip() else len(kept))
    for part, e in kept:
        assert e.length == utf16_len(link)
        units = part.encode("utf-16-le")
        assert units[e.offset * 2 : (e.offset + e.length) * 2].decode("utf-16-le") == link


@given(text=st.text(alphabet="ab \n", min_size=1, max_size=200), start=st.integers(0, 100), size=st.integers(1, 100))
def test_entities_stay_inside_their_part(text: str, start: int, size: int) -> None:
    length = min(size, max(1, len(text) - start))
    if start + length > len(text):
        return
    parts = split_classic(text, [MessageEntity(type="bold", offset=start, length=length)], 16)

    assert all(e.offset >= 0 and e.offset + e.length <= utf16_len(part) for part, es in parts for e in es)


def test_a_code_block_is_moved_whole_into_the_next_message() -> None:
    code = "\n".join(f"line {n}" for n in range(100))
    parts = classic_parts("word " * 780 + f"\n\n```python\n{code}\n```\n")

    assert len(parts) == 2
    assert code in parts[1].text
    assert [e["type"] for e in parts[1].entities] == ["pre"]


def test_a_code_block_longer_than_a_message_goes_on_as_code() -> None:
    code = "\n".join(f"line {n}" for n in range(1000))
    parts = classic_parts(f"```python\n{code}\n```")

    assert len(parts) > 1
    assert all([e["type"] for e in part.entities] == ["pre"] for part in parts)
    assert all(part.entities[0]["language"] == "python" for part in parts)


@settings(deadline=None)
@given(
    blocks=st.lists(
        st.sampled_from(
            ["word " * 30, "```py\n" + "code line\n" * 20 + "```", "| a | b |\n| - | - |\n" + "| 1 | 2 |\n" * 15]
        ),
        min_size=1,
        max_size=6,
    ),
    limit=st.integers(80, 400),
)
def test_markdown_parts_stand_on_their_own(blocks: list[str], limit: int) -> None:
    whole = "\n\n".join(blocks)
    parts = split_markdown(whole, limit)

    assert all(len(part.encode()) <= limit for part in parts)
    assert all(part.count("```") % 2 == 0 for part in parts)
    for word in ("word", "code line", "| 1 | 2 |"):
        assert sum(part.count(word) for part in parts) == whole.count(word)
    tables = [part for part in parts if "| 1 | 2 |" in part]
    assert all("| - | - |" in part for part in tables)


def test_a_fence_of_four_is_not_closed_by_three() -> None:
    inner = "````md\n```\ninside\n```\n````"

    assert split_markdown(inner, 1000) == [inner]


@pytest.mark.parametrize(
    ("markdown", "rich"),
    [
        ("plain **text** with `code`", False),
        ("| a | b |\n| --- | --- |\n| 1 | 2 |", True),
        ("- [ ] open\n- [x] done", True),
        ("so $$x^2$$ it is", True),
        (r"so \(x\) it is", True),
        ("it costs $5 or $$ more", False),
        ("```\n| a | b |\n| --- | --- |\n```", False),
        ("`$$x$$` is how to write it", False),
        ("a | b\nc - d", False),
    ],
)
def test_only_what_a_classic_message_cannot_show_is_rich(markdown: str, rich: bool) -> None:
    assert needs_rich(markdown) is rich
    assert plan(markdown, "auto").form == ("rich" if rich else "classic")


def test_the_setting_decides_before_the_content() -> None:
    assert plan("plain", "always").form == "rich"
    assert plan("| a |\n| - |\n| 1 |", "never").form == "classic"


def test_a_long_answer_is_rich_and_a_very_long_one_goes_along_as_a_document() -> None:
    long, very_long = "word " * 2000, "word " * 80_000

    assert (plan(long, "auto").form, plan(long, "auto").as_document) == ("rich", False)
    assert plan(very_long, "auto").as_document
    assert len(plan(very_long, "auto").parts) == 1
    assert len(plan(very_long, "auto").parts[0].encode()) <= RICH_LIMIT
    assert plan(very_long, "never").as_document


@given(text=st.text(max_size=3000))
@settings(deadline=None, max_examples=60)
def test_any_text_can_be_planned_and_rendered(text: str) -> None:
    planned = plan(text, "auto")

    assert len(planned.parts) <= MAX_MESSAGES
    for part in (classic_parts(text), plain_parts(text)):
        assert all(utf16_len(getattr(p, "text", p)) <= CLASSIC_LIMIT for p in part)


def test_a_line_without_a_space_is_cut_between_characters() -> None:
    parts = split_markdown("é😀" * 200, 100)

    assert "".join(parts) == "é😀" * 200
    assert not re.search("�", "".join(parts))
