"""`./dev release`: builds what a release consists of, from a clean tree, byte for byte the same each time.

The wheel, the sdist, the Debian packages of the handler and of the Proxmox host, an SBOM of the locked packages, and
SHA256SUMS with a signature by an SSH key if one is given. Every time in the files is the time of the commit.
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
import zipfile
from email import message_from_bytes
from email.message import Message
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from breakglass.agents.bundle import bundle
from breakglass.agents.pve.account_script import MAKE_ACCOUNT, REMOVE_ACCOUNT
from breakglass.agents.pve.main import _parser as agent_parser
from breakglass.agents.pve.words import PASTED, VERSION
from breakglass.base.templates import fill
from breakglass.cli.install import END_SESSIONS

from .locks import ROOT
from .wheelhouse import trixie_wheels

HOST, HANDLER = "breakglass-host", "breakglass"
NAMESPACE = "breakglass release"  # of the signature, so that it can't pass for a signature of something else
DEBIAN = "deploy/debian"
SCRIPTS = ("preinst", "postinst", "prerm", "postrm")
HOME, PYTHON = "usr/lib/breakglass", "python3.13"  # Debian 13's
SHELL = {
    "breakglass.1": "man/man1/breakglass.1.gz",
    "breakglass.bash": "bash-completion/completions/breakglass",
    "breakglass.fish": "fish/vendor_completions.d/breakglass.fish",
    "_breakglass": "zsh/vendor-completions/_breakglass",
}
OVERRIDES = "# Files of the locked wheels, whose bytes stay.\nbreakglass: unstripped-binary-or-object [*.so]\n"
PROGRAM = f"""#!/{HOME}/bin/python
import sys

from breakglass.cli.main import main

sys.exit(main())
"""


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
    [wheel] = built.glob("*.whl")
    build_package(host_package(source, epoch), source, built, epoch)
    build_package(handler_package(source, epoch, wheel), source, built, epoch)
    for name in ("requirements.txt", "deploy/container/Containerfile"):
        shutil.copyfile(source / name, built / Path(name).name)
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


# --- the Debian packages ---


class File(NamedTuple):
    """A file that a package installs. A link has no mode, and its content is the target."""

    path: str
    content: bytes
    mode: int | None = 0o644


class Package(NamedTuple):
    """A Debian package; `folder` has its control file and its scripts, which `words` fill."""

    name: str
    architecture: str
    folder: str
    files: list[File]
    words: dict[str, str]


def build_package(package: Package, source: Path, built: Path, epoch: int, version: str = VERSION) -> Path:
    """Build a Debian package; return its path."""
    control = _text(source, f"{package.folder}/control")
    doc, date = f"usr/share/doc/{package.name}", time.gmtime(epoch)
    [maintainer] = re.findall("^Maintainer: (.*)$", control, re.MULTILINE)
    changes = f"{package.name} ({version}) stable; urgency=medium\n\n  * CHANGELOG.md of Breakglass {version}.\n\n"
    changes += f" -- {maintainer}  {time.strftime('%a, %d %b %Y %H:%M:%S +0000', date)}\n"
    about = File(f"{doc}/changelog.gz", gzip.compress(changes.encode(), mtime=0))
    with tempfile.TemporaryDirectory() as directory:
        tree = Path(directory, package.name)
        for name, data, mode in [*package.files, about]:
            path = tree / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if mode is None:
                path.symlink_to(data.decode())
                continue
            path.write_bytes(data)
            path.chmod(mode)
        files = [path for path in sorted(tree.rglob("*")) if path.is_file() and not path.is_symlink()]
        size = sum(-(-path.stat().st_size // 1024) for path in files)
        sums = [f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(tree)}\n" for path in files]
        about_it = tree / "DEBIAN"
        about_it.mkdir()
        (about_it / "md5sums").write_text("".join(sums))
        (about_it / "control").write_text(fill(control, version=version, size=size))
        for name in SCRIPTS:
            script = fill(_text(source, f"{package.folder}/{name}"), version=version, **package.words)
            (about_it / name).write_text(script)
            (about_it / name).chmod(0o755)
        target = built / f"{package.name}_{version}_{package.architecture}.deb"
        command = ["dpkg-deb", "--root-owner-group", "-Zxz", "--build", str(tree), str(target)]
        _run(*command, cwd=source, SOURCE_DATE_EPOCH=str(epoch))
        return target


def host_package(source: Path, epoch: int) -> Package:
    """Return the package of the host agent, for the Proxmox host."""
    commands = agent_commands()
    manual = "\n".join(f".TP\n.B {usage}\n{what}" for usage, what in commands.values() if what).replace("-", "\\-")
    page = fill(
        _text(source, "host/breakglass-pve.8"),
        version=VERSION,
        date=time.strftime("%Y-%m-%d", time.gmtime(epoch)),
        commands=manual,
    )
    completion = fill(_text(source, "host/completion.bash"), commands=" ".join(commands))
    share = "usr/share"
    files = [
        File("usr/sbin/breakglass-pve", bundle().encode(), 0o755),
        File("usr/lib/tmpfiles.d/breakglass-host.conf", _text(source, "host/tmpfiles.conf").encode()),
        File(f"{share}/{HOST}/sshd.conf", _text(source, "host/sshd.conf").encode()),
        File(f"{share}/bash-completion/completions/breakglass-pve", completion.encode()),
        File(f"{share}/man/man8/breakglass-pve.8.gz", gzip.compress(page.encode(), mtime=0)),
        File(f"{share}/doc/{HOST}/copyright", _rights(source).encode()),
    ]
    end_sessions = END_SESSIONS.replace(PASTED, "/usr/(local/)?sbin/breakglass-pve")
    words = {"end_sessions": end_sessions, "make_account": MAKE_ACCOUNT, "remove_account": REMOVE_ACCOUNT}
    return Package(HOST, "all", "host", files, words)


def handler_package(source: Path, epoch: int, wheel: Path) -> Package:
    """Return the package of the handler, for Debian 13: a virtual environment with its wheel and the locked ones."""
    packages = f"{HOME}/lib/{PYTHON}/site-packages"
    files = [
        File(f"{HOME}/pyvenv.cfg", b"home = /usr/bin\ninclude-system-site-packages = true\n"),
        File(f"{HOME}/bin/python", f"../../../bin/{PYTHON}".encode(), None),
        File(f"{HOME}/bin/breakglass", PROGRAM.encode(), 0o755),
        File("usr/bin/breakglass", b"../lib/breakglass/bin/breakglass", None),
        File(f"usr/share/lintian/overrides/{HANDLER}", OVERRIDES.encode()),
        File("usr/share/breakglass/nginx.conf", (source / "deploy/nginx/breakglass.conf").read_bytes()),
    ]
    rights = _rights(source)
    for each in [wheel, *sorted(trixie_wheels().glob("*.whl"))]:
        with zipfile.ZipFile(each) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/") and ".data/" not in name]
            files += [File(f"{packages}/{name}", archive.read(name)) for name in names]
            [about] = [name for name in names if name.endswith(".dist-info/METADATA")]
            fields = message_from_bytes(archive.read(about))
        if each != wheel:
            tops = {name.partition("/")[0] for name in names}
            paths = [
                f"{packages}/{top}" if top.endswith((".py", ".so")) else f"{packages}/{top}/*" for top in sorted(tops)
            ]
            rights += "\nFiles: " + "\n ".join(paths)
            rights += f"\nCopyright: the authors of {fields['Name']}\nLicense: {_licence(fields)}\n"
            rights += f" The text is in {packages}/{about.partition('/')[0]}.\n"
    for path in sorted((source / "deploy/systemd").iterdir()):
        text = path.read_text().replace("/opt/breakglass/bin/breakglass", "/usr/bin/breakglass")
        place = {".sysusers": "sysusers.d/breakglass.conf", ".tmpfiles": "tmpfiles.d/breakglass.conf"}
        files.append(File(f"usr/lib/{place.get(path.suffix, f'systemd/system/{path.name}')}", text.encode()))
    for name, where in SHELL.items():
        if (path := source / "handler/cli/shell" / name).exists():
            data = path.read_bytes()
            files.append(File(f"usr/share/{where}", gzip.compress(data, mtime=0) if where.endswith(".gz") else data))
    files.append(File(f"usr/share/doc/{HANDLER}/copyright", rights.encode()))
    return Package(HANDLER, "amd64", "handler", files, {})


def _licence(fields: Message) -> str:
    """Return a short name of a wheel's licence, without spaces, as Debian's copyright file wants it."""
    classified = [each.rpartition(" :: ")[2] for each in fields.get_all("Classifier", []) if "License" in each]
    name = fields["License-Expression"] or next(iter(classified), "") or fields["License"]
    return str(name).replace(" ", "-")


def agent_commands() -> dict[str, tuple[str, str]]:
    """Return the usage and the help of each command of the host agent."""
    [commands] = [action for action in agent_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    helps = {action.dest: action.help or "" for action in commands._choices_actions}
    found = {}
    for name, parser in commands.choices.items():
        usage = " ".join(parser.format_usage().removeprefix("usage: ").split())
        found[name] = (re.sub(r" \[(-h|--root ROOT)\]", "", usage), helps.get(name, ""))
    return found


def _rights(source: Path) -> str:
    """Return Debian's copyright file with our licence."""
    text = (source / "LICENSE").read_text()
    [holder] = re.findall("^Copyright (.*)$", text, re.MULTILINE)
    body = "\n".join(f" {line}" if line else " ." for line in text.splitlines())
    form = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/"
    return f"{form}\n\nFiles: *\nCopyright: {holder}\nLicense: Expat\n{body}\n"


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
