"""The host agent, `breakglass-pve`: it runs on the Proxmox host with the standard library alone."""
