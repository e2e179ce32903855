"""Stand-ins for Proxmox's commands, and the host that they run on."""
