"""`./dev release`: builds what a release consists of, from a clean tree, byte for byte the same each time.

The wheel, the sdist, the Proxmox host's Debian package, an SBOM of the locked packages, and SHA256SUMS with a signature
by an SSH key if one is given. Every time in the files is the time of the commit.
"""

import argparse
import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import uuid
from io import BytesIO
from pathlib import Path

from breakglass.agents.bundle import bundle
from breakglass.agents.pve.main import _parser as agent_parser
from breakglass.agents.pve.words import PASTED, VERSION
from breakglass.base.templates import fill
from breakglass.cli.install import END_SESSIONS

from .locks import ROOT

HOST = "breakglass-host"
NAMESPACE = "breakglass release"  # of the signature, so that it can't pass for a signature of something else
DEBIAN = "deploy/debian"
SCRIPTS = ("preinst", "postinst", "prerm", "postrm")


def main() -> None:
    parser = argparse.ArgumentParser(prog="./dev release", description="Build a release into dist/.")
    parser.add_argument("--sign", metavar="KEY", help="the file of an SSH key that signs SHA256SUMS")
    parser.add_argument("--to", type=Path, default=ROOT / "dist", help="another directory than dist/")
    settings = parser.parse_args()
    if changed := _run("git", "status", "--porcelain", cwd=ROOT):
        sys.exit(f"dev: the tree is not clean, so no release was built:\n{changed}")
    epoch = int(_run("git", "log", "-1", "--format=%ct", cwd=ROOT))
    with tempfile.TemporaryDirectory() as directory:
        source, built = Path(directory, "source"), Path(directory, "dist")
        source.mkdir()
        built.mkdir()
        archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
        with tarfile.open(fileobj=BytesIO(archive)) as tar:
            tar.extractall(source, filter="data")
        build(source, built, epoch)
        sign(built, settings.sign)
        shutil.rmtree(settings.to, ignore_errors=True)
        shutil.copytree(built, settings.to)
    print((settings.to / "SHA256SUMS").read_text(), end="")


def build(source: Path, built: Path, epoch: int) -> None:
    """Build every file of a release from an exported tree."""
    os.umask(0o022)
    words = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(built), str(source)]
    _run(*words, cwd=source, SOURCE_DATE_EPOCH=str(epoch))
    [sdist] = built.glob("*.tar.gz")
    sdist.write_bytes(repack(sdist.read_bytes(), epoch))
    build_package(source, built, epoch)
    for name in ("requirements.txt", "deploy/container/Containerfile"):
        shutil.copyfile(source / name, built / Path(name).name)
    [wheel] = built.glob("*.whl")
    bill = bill_of_materials((source / "requirements.txt").read_text(), wheel, epoch)
    (built / f"breakglass-{VERSION}.cdx.json").write_text(json.dumps(bill, indent=2) + "\n")


def repack(data: bytes, epoch: int) -> bytes:
    """Return a .tar.gz with its members in order, owned by root, and with one time."""
    packed = BytesIO()
    with tarfile.open(fileobj=BytesIO(data)) as old, tarfile.open(fileobj=packed, mode="w") as new:
        for member in sorted(old.getmembers(), key=lambda each: each.name):
            member.mtime, member.uid, member.gid, member.uname, member.gname = epoch, 0, 0, "root", "root"
            member.mode, member.pax_headers = member.mode & 0o755, {}
            new.addfile(member, old.extractfile(member) if member.isfile() else None)
    return gzip.compress(packed.getvalue(), mtime=epoch)


# --- the Proxmox host's package ---


def build_package(source: Path, built: Path, epoch: int, version: str = VERSION) -> Path:
    """Build the Debian package of the host agent; return its path."""
    with tempfile.TemporaryDirectory() as directory:
        tree = Path(directory, HOST)
        for name, data, mode in package_files(source, epoch):
            path = tree / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            path.chmod(mode)
        files = [path for path in sorted(tree.rglob("*")) if path.is_file()]
        size = sum(-(-path.stat().st_size // 1024) for path in files)
        sums = [f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(tree)}\n" for path in files]
        control = tree / "DEBIAN"
        control.mkdir()
        (control / "md5sums").write_text("".join(sums))
        (control / "control").write_text(fill(_text(source, "control"), version=version, size=size))
        end_sessions = END_SESSIONS.replace(PASTED, "/usr/(local/)?sbin/breakglass-pve")
        for name in SCRIPTS:
            (control / name).write_text(fill(_text(source, name), version=version, end_sessions=end_sessions))
            (control / name).chmod(0o755)
        target = built / f"{HOST}_{version}_all.deb"
        command = ["dpkg-deb", "--root-owner-group", "-Zxz", "--build", str(tree), str(target)]
        _run(*command, cwd=source, SOURCE_DATE_EPOCH=str(epoch))
        return target


def package_files(source: Path, epoch: int) -> list[tuple[str, bytes, int]]:
    """Return the path, the content and the mode of each file that the package installs."""
    date = time.gmtime(epoch)
    commands = agent_commands()
    manual = "\n".join(f".TP\n.B {usage}\n{what}" for usage, what in commands.values() if what).replace("-", "\\-")
    page = fill(
        _text(source, "breakglass-pve.8"), version=VERSION, date=time.strftime("%Y-%m-%d", date), commands=manual
    )
    completion = fill(_text(source, "completion.bash"), commands=" ".join(commands))
    control = _text(source, "control")
    [maintainer] = re.findall("^Maintainer: (.*)$", control, re.MULTILINE)
    changes = f"{HOST} ({VERSION}) stable; urgency=medium\n\n  * CHANGELOG.md of Breakglass {VERSION}.\n\n"
    changes += f" -- {maintainer}  {time.strftime('%a, %d %b %Y %H:%M:%S +0000', date)}\n"
    rights = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\n"
    rights += _as_paragraph((source / "LICENSE").read_text())
    share, doc = "usr/share", f"usr/share/doc/{HOST}"
    return [
        ("usr/sbin/breakglass-pve", bundle().encode(), 0o755),
        ("usr/lib/tmpfiles.d/breakglass-host.conf", _text(source, "tmpfiles.conf").encode(), 0o644),
        (f"{share}/{HOST}/sshd.conf", _text(source, "sshd.conf").encode(), 0o644),
        (f"{share}/bash-completion/completions/breakglass-pve", completion.encode(), 0o644),
        (f"{share}/man/man8/breakglass-pve.8.gz", gzip.compress(page.encode(), mtime=0), 0o644),
        (f"{doc}/changelog.gz", gzip.compress(changes.encode(), mtime=0), 0o644),
        (f"{doc}/copyright", rights.encode(), 0o644),
    ]


def agent_commands() -> dict[str, tuple[str, str]]:
    """Return the usage and the help of each command of the host agent."""
    [commands] = [action for action in agent_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    helps = {action.dest: action.help or "" for action in commands._choices_actions}
    found = {}
    for name, parser in commands.choices.items():
        usage = " ".join(parser.format_usage().removeprefix("usage: ").split())
        found[name] = (re.sub(r" \[(-h|--root ROOT)\]", "", usage), helps.get(name, ""))
    return found


def _as_paragraph(text: str) -> str:
    """Return a licence as fields of Debian's copyright file."""
    [holder] = re.findall("^Copyright (.*)$", text, re.MULTILINE)
    body = "\n".join(f" {line}" if line else " ." for line in text.splitlines())
    return f"Copyright: {holder}\nLicense: Expat\n{body}\n"


def _text(source: Path, name: str) -> str:
    return (source / DEBIAN / name).read_text()


# --- what the release is made of ---


def bill_of_materials(lock: str, wheel: Path, epoch: int) -> dict[str, object]:
    """Return a CycloneDX document: the wheel, and each package of the lock with the hashes of its files."""
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    components = []
    for entry in re.split(r"\n(?=[a-z0-9])", re.sub(r"^#.*\n", "", lock, flags=re.MULTILINE).replace("\\\n", " ")):
        if found := re.match(r"([\w.-]+)==([\w.+!-]+)", entry.strip()):
            name, version = found.groups()
            purl = f"pkg:pypi/{name}@{version}"
            files = [
                {"type": "distribution", "url": f"https://pypi.org/project/{name}/{version}/", "hashes": [_hash(each)]}
                for each in re.findall(r"--hash=sha256:([0-9a-f]{64})", entry)
            ]
            component = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
            components.append({**component, "externalReferences": files})
    ref = f"pkg:pypi/breakglass@{VERSION}"
    about = {"type": "application", "bom-ref": ref, "name": "breakglass", "version": VERSION, "purl": ref}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, digest)}",
        "version": 1,
        "metadata": {
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch)),
            "component": {**about, "hashes": [_hash(digest)], "licenses": [{"license": {"id": "MIT"}}]},
        },
        "components": components,
        "dependencies": [{"ref": ref, "dependsOn": [component["bom-ref"] for component in components]}],
    }


def _hash(content: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": content}


def sign(built: Path, key: str | None) -> None:
    """Write SHA256SUMS of all files, and its signature if there is a key."""
    files = sorted(path for path in built.iterdir() if path.is_file())
    sums = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files)
    (built / "SHA256SUMS").write_text(sums)
    if key is not None:
        _run("ssh-keygen", "-q", "-Y", "sign", "-f", str(Path(key).resolve()), "-n", NAMESPACE, "SHA256SUMS", cwd=built)


def _run(*command: str, cwd: Path, **environment: str) -> str:
    ran = subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        sys.exit(f"dev: {' '.join(command)} failed:\n{ran.stdout}{ran.stderr}")
    return ran.stdout.strip()


if __name__ == "__main__":
    main()
