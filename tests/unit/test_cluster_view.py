"""What the host agent reads in /etc/pve about one VM: the node that has it, and what HA wants."""

from pathlib import Path

from breakglass.agents.pve.host.cluster import Cluster, _read_cluster
from breakglass.agents.pve.host.paths import Host

from ..support.rows import each_row, read_rows


def read(root: Path, files: dict[str, str]) -> Cluster:
    (root / "etc/pve/local").mkdir(parents=True)
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return _read_cluster(Host(102, str(root)))


@each_row(("files", "wanted"), read_rows("vm_files.yaml")["places"].values())
def test_each_row_of_files_is_a_place(tmp_path: Path, files: dict[str, str], wanted: dict[str, object]) -> None:
    view = read(tmp_path, files)
    assert (view.answers, view.quorate) == (True, True)
    assert {field: getattr(view, field) for field in wanted} == wanted


def test_a_missing_or_read_only_etc_pve_is_named(tmp_path: Path) -> None:
    """Without a quorum, the node's own directory is read-only."""
    missing = _read_cluster(Host(102, str(tmp_path)))
    assert (missing.trouble, missing.answers) == ("pmxcfs-not-mounted", False)
    (tmp_path / "etc/pve/local").mkdir(parents=True)
    (tmp_path / "etc/pve/local").chmod(0o500)
    assert not _read_cluster(Host(102, str(tmp_path))).quorate
