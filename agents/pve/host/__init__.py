"""The Proxmox host as the agent reads it: paths, processes, QEMU's monitor, /etc/pve, tasks and locks."""
