"""`breakglass demo`: a Proxmox host, a VM and a model, all on this machine."""
