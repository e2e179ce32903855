"""What the host agent reads in /etc/pve about one VM: the node that has it, and what HA wants."""

import json
from pathlib import Path
from typing import Any

from breakglass.agents.pve.host.cluster import Cluster, _read_cluster
from breakglass.agents.pve.host.paths import Host

from ..support.rows import each_row

HERE, THERE = "etc/pve/qemu-server/102.conf", "etc/pve/nodes/pve2/qemu-server/102.conf"
VMLIST = {"etc/pve/.vmlist": json.dumps({"ids": {"102": {"node": "pve2", "type": "qemu"}}})}
CONTAINER = {"etc/pve/.vmlist": json.dumps({"ids": {"102": {"node": "pve2", "type": "lxc"}}})}


def manager(**state: str) -> dict[str, str]:
    status = {"service_status": {"vm:102": {"state": "started", **state}}, "node_status": {"pve2": "online"}}
    return {"etc/pve/ha/manager_status": json.dumps(status)}


ROWS: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "here": ({HERE: "name: web\nlock: backup\n"}, {"config": True, "node": "", "name": "web", "lock": "backup"}),
    "here, and in an old list": ({HERE: "", **VMLIST}, {"config": True, "node": "", "migrating": False}),
    "nowhere": ({}, {"config": False, "node": "", "name": None, "migrating": False}),
    "there": (
        {THERE: "name: web\n", **VMLIST, **manager()},
        {"config": False, "node": "pve2", "name": "web", "migrating": False, "lock": "", "node_seen": "online"},
    ),
    "it moves there": ({THERE: "lock: migrate\n", **VMLIST}, {"node": "pve2", "migrating": True}),
    "it is on its way": (VMLIST, {"node": "pve2", "name": None, "migrating": True}),
    "a backup there": ({THERE: "lock: backup\n", **VMLIST}, {"node": "pve2", "migrating": False}),
    "a container": (CONTAINER, {"node": "", "container": True}),
    "HA has no goal": (manager(), {"ha_seen": "started", "ha_goal": ""}),
    "HA moves it": (manager(target="pve3", maintenance_node="pve1"), {"ha_goal": "pve3"}),
    "HA brings it back": (manager(maintenance_node="pve1"), {"ha_goal": "pve1"}),
}


def read(root: Path, files: dict[str, str]) -> Cluster:
    (root / "etc/pve/local").mkdir(parents=True)
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return _read_cluster(Host(102, str(root)))


@each_row("name", ROWS)
def test_each_row_of_files_is_a_place(tmp_path: Path, name: str) -> None:
    files, wanted = ROWS[name]
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
