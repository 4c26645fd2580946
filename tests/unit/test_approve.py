"""The rules of the hook: whatever a call is made of, what must ask is never let through."""

from __future__ import annotations

import os
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.agent.approve import PATHS, WRITERS, asks, decide, fingerprint

OUT = ("..", "/etc/passwd", "c/x", "a/../../out", "~/x", " ../out")
NAMES = st.sampled_from(["Bash", "Read", "Write", "Edit", "NotebookEdit", "Glob", "Grep", "WebFetch", "mcp__aws__x"])
TEXT = st.text(
    st.sampled_from([*string.ascii_lowercase[:3], *"/.~ *?[{}\t\n", "\ufeff", "\u00a0", "e", "\u0301"]), max_size=12
)
ARGUMENTS = st.dictionaries(st.sampled_from(["file_path", "notebook_path", "path", "pattern", "command"]), TEXT)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a link out of it, and a folder beside it that begins with its name."""
    made = tmp_path_factory.mktemp("approve")
    for folder in ("w/a/b", "w-beside", "skills", "out"):
        (made / folder).mkdir(parents=True)
    (made / "w" / "c").symlink_to(made / "out")
    return made


def rules(root: Path, **more: Any) -> dict[str, Any]:
    known = {"workspace": str(root / "w"), "readable": [str(root / "skills")], "allowed": [], "decided": {}}
    return {"ask": ["Bash", "outside"], **known, **more}


@given(name=NAMES, arguments=ARGUMENTS, known=st.booleans(), agent=st.booleans())
def test_what_must_ask_is_let_through_only_when_a_person_said_so(
    root: Path, name: str, arguments: dict[str, str], known: bool, agent: bool
) -> None:
    other = {"allow": True, "reason": "", "call": fingerprint(name, {**arguments, "x": 1})}
    call = {"tool_name": name, "tool_input": arguments, "tool_use_id": "id", **({"agent_id": "a"} if agent else {})}
    given_rules = rules(root, decided={"id" if known else "another": other})

    decision, _ = decide(call, given_rules)

    if known or asks(name, arguments, given_rules):
        assert decision == ("deny" if known or agent else "defer")
    else:
        assert decision == "allow"


@given(name=st.sampled_from(sorted(PATHS)), path=TEXT, pattern=TEXT)
def test_a_file_tool_that_asks_nobody_stays_in_the_workspace(root: Path, name: str, path: str, pattern: str) -> None:
    workspace = os.path.realpath(root / "w")

    if asks(name, {PATHS[name]: path, "pattern": pattern}, rules(root)):
        return

    taken = path.strip().strip("\ufeff")
    for place in (taken, os.path.join(taken, pattern.strip()) if name == "Glob" and pattern.strip()[:1] == "/" else ""):
        assert not place.startswith("~")
        fixed = place if place == taken else os.path.dirname(place.split("*")[0])
        real = os.path.realpath(os.path.join(workspace, fixed))
        assert os.path.commonpath((real, workspace)) == workspace


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        *((name, {PATHS[name]: path}) for name in PATHS for path in OUT),
        *((name, {PATHS[name]: "../skills/x"}) for name in WRITERS),
        *((name, {PATHS[name]: path}) for name in WRITERS for path in (".git/config", "a/.git/hooks/x", "a/.git")),
        ("Glob", {"pattern": "/etc/*"}),
        ("Glob", {"pattern": " /etc/*"}),
        ("Glob", {"pattern": "../*"}),
        ("Glob", {"pattern": "*/../../out/*"}),
        ("Glob", {"pattern": "c/*"}),
        ("Glob", {"pattern": "~/*"}),
        ("Glob", {"pattern": "*", "path": ".."}),
        ("Grep", {"pattern": "x", "path": "\ufeff/etc"}),
        ("Grep", {"pattern": "x", "path": "\0"}),
    ],
)  # fmt: skip
def test_outside_is_asked(root: Path, name: str, arguments: dict[str, Any]) -> None:
    assert asks(name, arguments, rules(root))


def test_a_pattern_that_begins_with_the_workspaces_name_is_outside(root: Path) -> None:
    assert asks("Glob", {"pattern": f"{root}/w*/*"}, rules(root))
    assert not asks("Glob", {"pattern": f"{root}/w/*"}, rules(root))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("Read", {"file_path": "a/b/x"}),
        ("Write", {"file_path": ".claude/settings.json"}),
        ("Write", {"file_path": ".gitignore"}),
        ("Glob", {"pattern": "**/*.py"}),
        ("Glob", {"pattern": "*", "path": "a"}),
        ("Grep", {"pattern": "/etc/../x"}),
        ("Read", {"file_path": "../skills/hello/SKILL.md"}),
    ],
)
def test_inside_and_the_agents_own_skills_ask_nobody(root: Path, name: str, arguments: dict[str, Any]) -> None:
    assert not asks(name, arguments, rules(root))
