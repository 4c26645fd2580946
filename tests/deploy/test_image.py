"""The agent's image, as far as it can be looked at without a Docker engine (this project's CI has none)."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

IMAGE = ROOT / "functions" / "agent"
DOCKERFILE = re.sub(r"\\\n\s*", " ", (IMAGE / "Dockerfile").read_text())
PACKAGES = {"find": "findutils", "git": "git-core", "ps": "procps-ng"} | {n: n for n in ("gzip", "jq", "tar", "unzip")}
"""Amazon Linux 2023's package of each program that the minimal base image lacks."""


@pytest.mark.parametrize("program", PACKAGES)
def test_the_image_installs_what_an_agent_reaches_for(program: str) -> None:
    installed = re.search(r"^RUN dnf install (.*?)&&", DOCKERFILE, re.MULTILINE)

    assert installed is not None
    assert PACKAGES[program] in installed[1].split()


def test_the_build_fails_when_a_program_is_missing() -> None:
    looked_for = re.search(r"^RUN for program in ([\w ]+);", DOCKERFILE, re.MULTILINE)

    assert looked_for is not None
    assert set(looked_for[1].split()) == {*PACKAGES, "rg"}


def test_every_file_the_dockerfile_copies_exists() -> None:
    copied = re.findall(r"^COPY (\S+) ", DOCKERFILE, re.MULTILINE)

    assert [path for path in copied if not (ROOT / "functions" / path).exists()] == []


@pytest.mark.parametrize("platform", ["aarch64-manylinux2014", "x86_64-manylinux2014"])
def test_every_requirement_of_the_agent_has_a_wheel_for_lambda(platform: str, tmp_path: Path) -> None:
    """A pinned version with wheels for other systems only (ripgrep 15.1.0 is one) would end `docker build`."""
    done = subprocess.run(
        [
            *("uv", "pip", "install", "--dry-run", "--no-config", "--target", str(tmp_path), "--only-binary", ":all:"),
            *("--python-version", "3.13", "--python-platform", platform, "-r", str(IMAGE / "requirements.txt")),
        ],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "+ ripgrep==" in done.stderr
