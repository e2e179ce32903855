"""The host agent, `breakglass-pve`. It runs on the Proxmox host with the standard library alone."""
