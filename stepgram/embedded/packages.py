"""The packages as they are deployed, built for this machine: what strict mode runs, with nothing else on the path.

A zip comes from the very target of functions/Makefile that `sam build` calls; the agent from the requirements and the
files that its Dockerfile names (no Docker is needed). The Python is bare: the standard library of Lambda's version, or
of this process's where that is not installed. Lambda's own part is AWS's runtime client with a boto3, at the versions
of constraints.txt.

Each package lies in a folder of the cache that is named after the hash of everything that went in, so that an
unchanged one is built once; a lock file keeps two processes from building the same at once. What nobody used for some
days goes when something new is built.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from stepgram.embedded import dockerfile
from stepgram.embedded.template import ROOT, FunctionSpec

WANTED = "3.13"
"""Lambda's Python (template.yaml, Runtime)."""

CACHES = ("__pycache__", "*.pyc")
NOT_NEEDED = ("site-packages", "dist-packages", "test", "tests", "idlelib", "ensurepip", "tkinter", "turtledemo")
ARTIFACTS = "ARTIFACTS"
KEPT_SECONDS = 3 * 24 * 3600


class PackageError(Exception):
    """A package cannot be built; the message says which and what the tool printed."""


@dataclass(frozen=True)
class Python:
    """An interpreter of this machine: its command, `major.minor`, its standard library and its shared libraries."""

    command: str
    version: str
    library: Path
    shared: Path


@dataclass(frozen=True)
class Package:
    """One function's code as Lambda gets it. `environment` is what the image adds to Lambda's."""

    folder: Path
    handler: str
    environment: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Runtime:
    """What Lambda brings: a bare Python and the runtime client's folder."""

    python: Path
    version: str
    folder: Path

    @property
    def command(self) -> str:
        """The interpreter below `python`."""
        return f"bin/python{self.version}"


class Packages:
    """Builds the packages of the functions below `root`; `cache` keeps them (see `shared_cache`)."""

    def __init__(self, cache: Path, root: Path = ROOT) -> None:
        self._cache = cache
        self._functions = root / "functions"
        self.python = find_python()

    def of(self, spec: FunctionSpec) -> Package:
        """The package of one function of the template. Raises PackageError or DockerfileError."""
        return self.agent if spec.is_image else Package(self.zip(spec.logical_id), spec.handler)

    @cached_property
    def runtime(self) -> Runtime:
        """The bare Python, and the runtime client with its boto3."""
        python = self.python

        def bare(folder: Path) -> None:
            _bare_python(python, folder)

        def client(folder: Path) -> None:
            group = ("--group", f"{ROOT / 'pyproject.toml'}:runtime", "--constraints", str(ROOT / "constraints.txt"))
            self._install(folder, "Lambda's runtime client", *group)

        files = [ROOT / "pyproject.toml", ROOT / "constraints.txt"]
        home = self._built("python", [python.command, python.version, str(_stamp(python.library))], [], bare)
        return Runtime(home, python.version, self._built("runtime", [python.version, machine()], files, client))

    def zip(self, logical_id: str) -> Path:
        """The folder that `sam build` would make for a zip function; functions with one recipe share it."""
        recipe = make(self._functions, logical_id, self._variables(), dry=True)

        def build(folder: Path) -> None:
            # As SAM does: in a copy, so that the recipe can use nothing but the code folder.
            with tempfile.TemporaryDirectory() as scratch:
                source = Path(scratch) / "functions"
                shutil.copytree(self._functions, source, ignore=shutil.ignore_patterns(*CACHES))
                make(source, logical_id, {**self._variables(), "ARTIFACTS_DIR": str(folder)})

        return self._built("zip", [re.sub(r"build-\w+", "", recipe)], self._sources, build)

    @cached_property
    def agent(self) -> Package:
        """The folder with what the agent's image has in its Python: the requirements and the copied files."""
        image = dockerfile.read(self._functions / "agent" / "Dockerfile")

        def build(folder: Path) -> None:
            for requirements in image.requirements:
                self._install(folder, "the agent's image", "--requirement", str(self._functions / requirements))
            for source, target in image.copies:
                _copy(self._functions / source, folder / target)

        folder = self._built("agent", [str(image), self.python.version, machine()], self._sources, build)
        programs = ("PATH", "{task}/bin:${PATH}")  # in the image pip puts them next to Python
        return Package(folder, image.handler, (programs, *image.environment))

    @cached_property
    def _sources(self) -> list[Path]:
        return sorted(path for path in self._functions.rglob("*") if path.is_file() and "__pycache__" not in path.parts)

    def _variables(self) -> dict[str, str]:
        return {"LAMBDA_PLATFORM": f"{machine()}2014", "LAMBDA_PYTHON": self.python.version}

    def _install(self, folder: Path, what: str, *arguments: str) -> None:
        """Wheels for this machine into a folder, compiled, as `pip install` in an image does it."""
        target = ("--target", str(folder), "--python", self.python.command, "--only-binary", ":all:")
        command = [uv(), "pip", "install", "--quiet", "--compile-bytecode", *target, *arguments]
        _run(command, f"the packages of {what} cannot be installed", cwd=folder)  # not by this project's own settings

    def _built(self, kind: str, facts: Iterable[str], files: Iterable[Path], build: Callable[[Path], None]) -> Path:
        """The folder for these facts and files' content, built when there is none yet."""
        digest = hashlib.sha256("\0".join(facts).encode())
        for path in files:
            name = str(path.relative_to(self._functions)) if path.is_relative_to(self._functions) else path.name
            digest.update(f"\0{name}\0{path.stat().st_mode:o}\0".encode() + path.read_bytes())
        folder = self._cache / f"{kind}-{digest.hexdigest()[:20]}"
        with locked(self._cache / f"{folder.name}.lock"):
            if not folder.exists():
                _forget_old(self._cache, kind)
                with tempfile.TemporaryDirectory(dir=self._cache, prefix=f"{kind}-") as made:
                    new = Path(made) / kind
                    new.mkdir(mode=0o755)
                    build(new)
                    new.rename(folder)
            os.utime(folder)
        return folder


def _forget_old(cache: Path, kind: str) -> None:
    """Remove packages of a kind that nobody used for KEPT_SECONDS."""
    for folder in cache.glob(f"{kind}-*"):
        if folder.is_dir() and folder.stat().st_mtime < time.time() - KEPT_SECONDS:
            shutil.rmtree(folder)
            (cache / f"{folder.name}.lock").unlink(missing_ok=True)


def shared_cache() -> Path:
    """A cache of this user's that other users may read: containers run as users of their own where this one is root."""
    folder = Path(tempfile.gettempdir()) / f"stepgram-packages-{os.getuid()}"
    folder.mkdir(mode=0o755, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise PackageError(f"{folder} belongs to somebody else")
    folder.chmod(0o755)
    return folder


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file; other processes wait."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def machine() -> str:
    """This machine as wheels name it, up to `manylinux` (a year or a version follows)."""
    return f"{platform.machine()}-manylinux"


def uv() -> str:
    """The uv command: on the path, or the one that the Makefile set up."""
    found = shutil.which("uv") or shutil.which("uv", path=str(ROOT / ".tools" / "bin"))
    if found is None:
        raise PackageError("uv is not installed; `make setup` installs it")
    return found


def find_python() -> Python:
    """Lambda's Python when this machine has it (on the path, from pyenv or from uv), else the one that runs this."""
    ask = (
        "import sys, sysconfig; print(sys._base_executable, '%d.%d' % sys.version_info[:2], "
        "sysconfig.get_path('stdlib'), sysconfig.get_config_var('LIBDIR'), sep='\\n')"
    )
    for command in (*_candidates(), sys.executable):
        done = subprocess.run([command, "-I", "-c", ask], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            base, version, library, shared = done.stdout.split("\n")[:4]
            return Python(base, version, Path(library), Path(shared))
    raise PackageError("no Python can be started")


def _candidates() -> Iterator[str]:
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        if "shims" not in folder and os.access(found := Path(folder, f"python{WANTED}"), os.X_OK):
            yield str(found)
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted((str(p) for p in pyenv.glob(f"versions/{WANTED}*/bin/python{WANTED}")), reverse=True)
    find = [uv(), "python", "find", "--no-config", "--no-python-downloads", WANTED]
    found_by_uv = subprocess.run(find, capture_output=True, text=True, check=False, cwd="/")
    if found_by_uv.returncode == 0:
        yield found_by_uv.stdout.strip()


def _bare_python(python: Python, folder: Path) -> None:
    """The interpreter and its standard library without any package, where another user may run it."""
    (folder / "bin").mkdir()
    (folder / "lib").mkdir()
    _link(python.command, str(folder / "bin" / f"python{python.version}"))
    ignore = shutil.ignore_patterns(*NOT_NEEDED, "config-*")
    shutil.copytree(python.library, folder / "lib" / f"python{python.version}", ignore=ignore, copy_function=_link)
    for shared in python.shared.glob(f"libpython{python.version}*.so*"):
        _link(str(shared), str(folder / "lib" / shared.name))


def _link(source: str, target: str) -> None:
    """A hard link where the file system allows it and everyone may read the file, else a copy."""
    real = os.path.realpath(source)
    try:
        if not os.stat(real).st_mode & 0o004:
            raise PermissionError
        os.link(real, target)
    except OSError:
        shutil.copy2(real, target)
        os.chmod(target, os.stat(real).st_mode | 0o444)


def _copy(source: Path, target: Path) -> None:
    """As COPY does: a file to a file, a folder's content into a folder."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(*CACHES), dirs_exist_ok=True)
    else:
        shutil.copy2(source, target)


def make(folder: Path, logical_id: str, variables: dict[str, str], dry: bool = False) -> str:
    """Run SAM's make target of one function, or say what it would do."""
    given = [f"{name}={value}" for name, value in variables.items()]
    options = ["--dry-run", f"ARTIFACTS_DIR={ARTIFACTS}"] if dry else []
    tools = os.pathsep.join([os.path.dirname(uv()), os.environ.get("PATH", os.defpath)])
    command = ["make", "--no-print-directory", *options, f"build-{logical_id}", *given]
    what = f"the package of {logical_id} cannot be built"
    return _run(command, what, cwd=folder, env={**os.environ, "PATH": tools, "MAKEFLAGS": "", "MAKELEVEL": "0"})


def _run(command: list[str], what: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=env)
    except FileNotFoundError as error:
        raise PackageError(f"{what}: {command[0]} is not installed") from error
    if done.returncode:
        raise PackageError(f"{what}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _stamp(folder: Path) -> int:
    """When a standard library changed last, as far as its folder tells."""
    return int(folder.stat().st_mtime)
