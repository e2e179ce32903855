"""deploy/kubernetes: built by kustomize, checked against Kubernetes' schemas, its Secret mounted as a kubelet does."""

import base64
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # its stubs are one more package

from breakglass.agents.pve.words import VERSION

from ..support.documents import ROOT, commands, settings
from ..support.other_user import run_as
from ..support.service import give_to_handler

pytestmark = [pytest.mark.real("kustomize"), pytest.mark.slow]

Manifest = dict[str, Any]

KUBERNETES = ROOT / "deploy/kubernetes"
OLDEST = "1.30"  # that docs/kubernetes.md names
SECRETS = {"session", "operator.signing-key", "pve_power"}


def manifests(text: str) -> dict[str, Manifest]:
    """Return the documents of a build by kind and name."""
    documents: list[Manifest] = list(yaml.safe_load_all(text))
    found = {f"{each['kind']}/{each['metadata']['name']}": each for each in documents}
    assert len(found) == len(documents)
    return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site's directory, made as docs/kubernetes.md says."""
    checkout = tmp_path_factory.mktemp("checkout")
    shutil.copytree(KUBERNETES, checkout / "deploy/kubernetes")
    for text in commands("docs/kubernetes.md", "The files"):
        ran = subprocess.run(["bash", "-euc", text], cwd=checkout, capture_output=True, text=True, timeout=60)
        assert ran.returncode == 0, ran.stderr
        places = set(re.findall(r"^\./([^:]+):\d+:", ran.stdout, re.MULTILINE))
    assert places == {"breakglass.toml", "kustomization.yaml", "networkpolicy.yaml"}
    return checkout / "breakglass-kubernetes/site"


@pytest.fixture(scope="module")
def built(site: Path) -> str:
    ran = subprocess.run(["kustomize", "build", str(site)], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def pod(built: str) -> Manifest:
    spec: Manifest = manifests(built)["Deployment/breakglass"]["spec"]["template"]["spec"]
    return spec


@pytest.fixture(scope="module")
def container(pod: Manifest) -> Manifest:
    [container] = pod["containers"]
    found: Manifest = container
    return found


# --- what kustomize makes of it ---


def test_it_is_what_kubernetes_reads(built: str, tmp_path: Path) -> None:
    """The site with its base, and the Ingress of the document. A field that Kubernetes doesn't know is an error."""
    [ingress] = settings("docs/kubernetes.md", "Installing")
    file = tmp_path / "all.yaml"
    file.write_text(f"{built}---\n{ingress}")
    program = str(Path(sys.executable).parent / "kubernetes-validate")
    ran = subprocess.run(
        [program, "--strict", "-k", OLDEST, str(file)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout
    assert ran.stdout.count("INFO") == len(manifests(file.read_text())) == 9


# --- the pod ---


def test_the_pod_is_restricted(built: str, pod: Manifest, container: Manifest) -> None:
    """It meets the Pod Security standard, which the namespace enforces, and has no token of the cluster."""
    labels = manifests(built)["Namespace/breakglass"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert not re.search("privileged:|host(Network|PID|IPC|Path|Port):|procMount:|sysctls:|envFrom:|valueFrom:", built)
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert container["env"] == [{"name": "BREAKGLASS_CHAT", "value": "off"}]
    assert [set(volume) for volume in pod["volumes"]] == [{"name", "secret"}] * 2


def containerfile() -> dict[str, str]:
    """Return the image's settings: its variables, and the instructions that Kubernetes would repeat."""
    text = (ROOT / "deploy/container/Containerfile").read_text().replace("\\\n", " ")
    found = dict(re.findall(r"^(USER|CMD|ENTRYPOINT|EXPOSE) (.+)$", text, re.MULTILINE))
    [variables] = re.findall(r"^ENV (.+)$", text, re.MULTILINE)
    return found | dict(word.split("=") for word in variables.split())


def test_it_says_what_the_image_says(pod: Manifest, container: Manifest, site: Path) -> None:
    image = containerfile()
    context = pod["securityContext"]
    assert f"{context['runAsUser']}:{context['runAsGroup']}" == image["USER"]
    assert context["fsGroup"] == context["runAsGroup"]
    assert "command" not in container  # the image's ENTRYPOINT
    assert container["args"] == yaml.safe_load(image["CMD"])
    assert [str(port["containerPort"]) for port in container["ports"]] == [image["PORT"]] == [image["EXPOSE"]]
    config = Path(image["BREAKGLASS_CONFIG"])
    mounts = {each["mountPath"]: each["readOnly"] for each in container["volumeMounts"]}
    assert mounts == {str(config.parent): True, f"{config.parent}/callers.d": True}
    files = [site / config.name, *(site / "callers.d").iterdir()]
    named = [name for file in files for name in re.findall(r'_file = "(.+?)"', file.read_text())]
    assert named == [f"{config.parent}/{Path(name).name}" for name in named]
    assert {Path(name).name for name in named} == SECRETS
    [program] = yaml.safe_load(image["ENTRYPOINT"])
    scripts = (ROOT / "docs/kubernetes.md").read_text()
    assert set(re.findall(r"-- (\S+)", scripts)) == {program}
    assert container["image"] == f"registry.example.org/breakglass:{VERSION}"


# --- the Secret ---


def mount_secret(files: dict[str, bytes], volume: Manifest, fs_group: int, place: Path) -> None:
    """Lay out a Secret as the kubelet does: root's, with links, and with the group of `fsGroup`.

    The kubelet gives the group what the mode gives the owner, for a volume that is read-only: r, and x for a directory.
    """
    data = place / "..2026_11_28_03_00_00.1234567890"
    data.mkdir(parents=True)
    for name, content in files.items():
        (data / name).write_bytes(content)
        (data / name).chmod(volume["secret"]["defaultMode"] | 0o440)
        (place / name).symlink_to(f"..data/{name}")
    (place / "..data").symlink_to(data.name)
    for path in (place, *place.rglob("*")):
        os.chown(path, 0, fs_group, follow_symlinks=False)
    data.chmod(0o2755)
    place.chmod(0o3777)


@pytest.mark.real("root")
def test_the_handler_takes_the_secret_as_it_is_mounted(
    built: str, pod: Manifest, container: Manifest, site: Path, tmp_path: Path
) -> None:
    """The example is a good configuration, the pod's user can read it, and the check of modes lets it through."""
    found, place = manifests(built), tmp_path / "mounted"
    names = [{"breakglass.toml"} | SECRETS, {"operator.toml"}]
    context, root = pod["securityContext"], container["volumeMounts"][0]["mountPath"]
    (tmp_path / "x").touch()
    give_to_handler(tmp_path / "x")  # for the directories above
    for volume, mount, wanted in zip(pod["volumes"], container["volumeMounts"], names, strict=True):
        secret = found[f"Secret/{volume['secret']['secretName']}"]
        assert re.fullmatch(rf"breakglass(-{volume['name']})?-[a-z0-9]{{10}}", secret["metadata"]["name"])
        assert (secret["immutable"], set(secret["data"])) == (True, wanted)
        for name in wanted & SECRETS:
            assert base64.b64decode(secret["data"][name]) == (site / name).read_bytes()
        decoded = {name: base64.b64decode(value) for name, value in secret["data"].items()}
        data = {name: value.replace(root.encode(), bytes(place)) for name, value in decoded.items()}
        mount_secret(data, volume, context["fsGroup"], place / mount["mountPath"].removeprefix(root).lstrip("/"))
    ids = (context["runAsUser"], context["runAsGroup"])
    ran = run_as(*ids, "check", str(place / "breakglass.toml"))
    expected = f"{place}/breakglass.toml: no problems; callers: operator; hosts: pve1; VMs: devvm\n"
    assert (ran.returncode, ran.stdout) == (0, expected), ran.stderr
    place.joinpath("..data/session").chmod(0o444)
    ran = run_as(*ids, "check", str(place / "breakglass.toml"))
    assert (ran.returncode, "sessions.secret_file: is not safe" in ran.stderr) == (2, True), ran.stderr
