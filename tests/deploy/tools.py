"""SAM's command line, MiniStack and AWS's runtime interface client, each in an environment of its own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PYTHON_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"

SETTINGS = {"SAM_CLI_TELEMETRY": "0", "SAM_CLI_POLL_DELAY": "0.2", "AWS_DEFAULT_REGION": "us-east-1"}
"""How SAM is run: it asks an emulator more often than AWS, which counts requests, how far a deployment is."""


def this_platform() -> str:
    """This machine as `uv pip install --python-platform` calls it."""
    machine = {"arm64": "aarch64", "amd64": "x86_64"}.get(platform.machine().lower(), platform.machine())
    return f"{machine}-apple-darwin" if sys.platform == "darwin" else f"{machine}-manylinux_2_28"


def tool(constraints: str, package: str, *command: str) -> list[str]:
    """A command of a package in an environment of its own, with pinned versions."""
    return [
        *("uv", "tool", "run", "--no-config", "--constraints", str(HERE / constraints), "--from", package),
        *command,
    ]


def sam(folder: Path, *arguments: str, **environment: str) -> str:
    """Run SAM; returns what it printed. Fails with all of it."""
    done = subprocess.run(
        tool("constraints-sam.txt", "aws-sam-cli", "sam", *arguments),
        cwd=folder,
        env={**os.environ, **SETTINGS, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def runtime(folder: Path) -> Path:
    """Make in `folder` what Lambda's Python runtime has besides a function's package; returns its Python."""
    python = folder / "bin" / "python"
    install = ("uv", "pip", "install", "--quiet", "--no-config", "--only-binary", ":all:", "--python", str(python))
    subprocess.run(["uv", "venv", "--quiet", "--no-config", "--python", sys.executable, str(folder)], check=True)
    subprocess.run([*install, "--requirement", str(HERE / "constraints-runtime.txt")], check=True)
    return python


def python_of(constraints: str, package: str) -> str:
    """The Python of a package's own environment."""
    command = tool(constraints, package, "python", "-c", "import sys; print(sys.executable)")
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
