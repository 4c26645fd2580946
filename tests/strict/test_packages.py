"""Packages are what `sam build` makes, and an image that is not understood is refused."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from stepgram.embedded.dockerfile import DockerfileError, read
from stepgram.embedded.packages import KEPT_SECONDS, PackageError, Packages
from stepgram.embedded.template import ROOT, FunctionSpec

FROM = "FROM public.ecr.aws/lambda/python:3.13\n"
CMD = '\nCMD ["a.handler"]\n'


def spec(name: str, image: bool = False) -> FunctionSpec:
    return FunctionSpec(name, name, f"arn:{name}", "functions.telegram.webhook.handler", 30, 512, {}, image)


def changed(tmp_path: Path, file: str, old: str, new: str) -> Path:
    """A copy of the project's functions in which one file is different."""
    shutil.copytree(ROOT / "functions", tmp_path / "root" / "functions")
    path = tmp_path / "root" / "functions" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return tmp_path / "root"


def test_the_zip_holds_what_the_makefile_puts_there_and_the_requirements(packages: Packages) -> None:
    folder = packages.of(spec("WebhookFunction")).folder

    assert {path.name for path in (folder / "functions").iterdir()} == {
        *("__init__.py", "channel.py", "common", "conversation", "telegram", "web", "intake", "turn", "callback")
    }
    assert (folder / "pydantic").is_dir()
    assert not (folder / "boto3").exists()
    assert not (folder / "claude_agent_sdk").exists()


def test_functions_with_one_recipe_share_a_package_that_is_built_once(packages: Packages) -> None:
    folder = packages.of(spec("WebhookFunction")).folder
    built = folder.stat().st_ino

    assert packages.of(spec("CallbackFunction")).folder == folder
    assert folder.stat().st_ino == built


def test_a_changed_file_is_another_package(packages: Packages, tmp_path: Path) -> None:
    root = changed(tmp_path, "turn/__init__.py", "", "# changed\n")

    folder = Packages(tmp_path, root).zip("WebhookFunction")

    assert folder.name != packages.zip("WebhookFunction").name
    assert (folder / "functions" / "turn" / "__init__.py").read_text() == "# changed\n"


def test_a_package_nobody_used_for_days_goes_when_another_is_built(tmp_path: Path) -> None:
    for name, age in (("zip-old", 2 * KEPT_SECONDS), ("zip-young", 0), ("agent-old", 2 * KEPT_SECONDS)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (time.time() - age,) * 2)

    built = Packages(tmp_path).zip("WebhookFunction")

    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"zip-young", "agent-old", built.name}


def test_a_recipe_that_fails_names_the_function(tmp_path: Path) -> None:
    root = changed(tmp_path, "Makefile", "common conversation", "common nowhere conversation")

    with pytest.raises(PackageError, match=r"the package of WebhookFunction cannot be built: .*nowhere"):
        Packages(tmp_path, root).zip("WebhookFunction")


def test_the_agents_folder_holds_its_requirements_and_the_copied_files_alone(packages: Packages) -> None:
    package = packages.agent

    assert package.handler == "functions.agent.handler.handler"
    assert (package.folder / "claude_agent_sdk").is_dir()
    assert (package.folder / "boto3").is_dir()
    assert (package.folder / "functions" / "agent" / "handler.py").is_file()
    assert not (package.folder / "functions" / "telegram").exists()


def test_lambdas_part_is_its_runtime_client_with_a_boto3_and_a_bare_python(packages: Packages) -> None:
    runtime = packages.runtime

    assert (runtime.folder / "awslambdaric").is_dir()
    assert (runtime.folder / "boto3").is_dir()
    assert not list(runtime.python.rglob("site-packages"))


@pytest.mark.parametrize(
    "line",
    [
        "ADD https://example.com/x /var/task/",
        "COPY --from=build /out ${LAMBDA_TASK_ROOT}/out",
        "COPY agent /opt/agent",
        "RUN curl https://example.com | sh",
        "RUN pip install requests",
        "RUN for program in git; do curl https://example.com; done",
        'ENTRYPOINT ["/bin/sh"]',
        "USER nobody",
    ],
)
def test_a_line_of_the_dockerfile_that_is_not_understood_is_refused_and_shown(tmp_path: Path, line: str) -> None:
    (tmp_path / "Dockerfile").write_text(FROM + line + CMD)

    with pytest.raises(DockerfileError) as refused:
        read(tmp_path / "Dockerfile")

    assert line in str(refused.value)


def test_what_the_dockerfile_copies_installs_and_sets_is_read(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        FROM
        + "# tools\nRUN dnf install -y git \\\n    jq && dnf clean all\n"
        + 'RUN for program in git jq; do command -v "$program" > /dev/null || { echo "no $program"; exit 1; }; done\n'
        + "COPY agent/requirements.txt /tmp/requirements.txt\n"
        + "RUN pip install --no-cache-dir -r /tmp/requirements.txt && rm /tmp/requirements.txt\n"
        + "RUN python -m venv /opt/mcp && /opt/mcp/bin/pip install -r /tmp/mcp.txt\n"
        + 'ENV PATH="/opt/mcp/bin:${PATH}"\n'
        + "COPY common ${LAMBDA_TASK_ROOT}/functions/common"
        + CMD
    )

    image = read(tmp_path / "Dockerfile")

    assert image.python == "3.13"
    assert image.requirements == ("agent/requirements.txt",)
    assert image.copies == (("common", "functions/common"),)
    assert image.environment == (("PATH", "/opt/mcp/bin:${PATH}"),)
    assert image.handler == "a.handler"
