"""The `breakglass` command."""
