"""The command `breakglass-pve check`: reads the host, judges it, and yields findings."""
