"""One Proxmox host: the connection, the requests on it, and their answers."""
