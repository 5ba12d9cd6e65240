"""Laws of the container: rules that a linter would hold it to, and examples that are what they say. An image is built
only where an engine runs."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile with their arguments, lines that go on joined."""
    text = re.sub(r"(?m)^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


def last_stage() -> list[tuple[str, str]]:
    found = instructions()
    return found[max(place for place, (name, _) in enumerate(found) if name == "FROM") :]


def test_the_image_is_of_a_named_version_and_runs_without_rights() -> None:
    """Every base has a version; the last user is not root, and is made before; commands are lists, without a shell."""
    for name, rest in instructions():
        if name == "FROM":
            assert re.fullmatch(r"[\w/.-]+:(?!latest)[\w.-]+( AS \w+)?", rest), rest
        if name in ("CMD", "ENTRYPOINT"):
            assert rest.startswith("["), rest
        assert name not in ("ADD", "MAINTAINER"), rest
        assert "sudo" not in rest
    users = [rest for name, rest in last_stage() if name == "USER"]
    assert users == ["psla"]
    made = " ".join(rest for name, rest in last_stage() if name == "RUN")
    assert "useradd" in made
    assert "psla" in made
    names = [name for name, _ in last_stage()]
    assert names.index("RUN") < names.index("USER") < names.index("ENTRYPOINT")


def test_it_is_small_and_says_how_it_is() -> None:
    """pip and apt keep nothing; a health check asks /healthz at the port that is served; stages leave builds behind."""
    for name, rest in instructions():
        if name == "RUN" and "pip install" in rest:
            assert "--no-cache-dir" in rest
        assert "apt-get install" not in rest or (
            "rm -rf /var/lib/apt/lists" in rest and "--no-install-recommends" in rest
        )
    (check,) = [rest for name, rest in last_stage() if name == "HEALTHCHECK"]
    (port,) = [rest for name, rest in last_stage() if name == "EXPOSE"]
    assert f"127.0.0.1:{port}/healthz" in check
    (command,) = [rest for name, rest in last_stage() if name == "CMD"]
    assert f'"{port}"' in command
    assert [name for name, _ in instructions()].count("FROM") == 2


def test_what_is_copied_is_let_through() -> None:
    """.dockerignore keeps everything out but what the Dockerfile copies, which is there."""
    first, *let_through = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert first == "*"
    copied = [rest.split()[:-1] for name, rest in instructions() if name == "COPY" and "--from" not in rest]
    for file in (each for files in copied for each in files):
        assert (ROOT / file).exists()
        assert f"!{file}" in let_through
    assert not {"!.git", "!tests", "!docs"} & set(let_through)


def test_the_examples_are_what_they_say() -> None:
    """Compose and Kubernetes examples are YAML; they run the image without rights and ask where it answers."""
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/cluster.md").read_text(encoding="utf-8"), re.S)
    compose, kubernetes = [list(yaml.safe_load_all(block)) for block in blocks]
    assert compose[0]["services"]["psla"]["image"] == "psla"
    deployment, service = kubernetes
    assert (deployment["kind"], service["kind"]) == ("Deployment", "Service")
    template = deployment["spec"]["template"]
    assert template["spec"]["securityContext"]["runAsNonRoot"] is True
    (container,) = template["spec"]["containers"]
    assert container["readinessProbe"]["httpGet"] == {"path": "/healthz", "port": 8000}
    assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    assert service["spec"]["ports"][0]["targetPort"] == container["ports"][0]["containerPort"]


@pytest.mark.soak
def test_the_image_builds(tmp_path: Path) -> None:
    """The image builds, and its psla answers."""
    engine = next((name for name in ("docker", "podman") if shutil.which(name)), None)
    if engine is None or subprocess.run([engine, "info"], capture_output=True, check=False).returncode:
        pytest.skip("no container engine runs on this machine")
    subprocess.run([engine, "build", "-t", "psla-test", str(ROOT)], check=True, timeout=280)
    said = subprocess.run([engine, "run", "--rm", "psla-test", "--version"], check=True, capture_output=True, text=True)
    assert said.stdout.startswith("psla ")
