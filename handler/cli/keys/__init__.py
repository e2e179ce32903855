"""`breakglass keys`: the callers in the configuration and their secrets, made, listed, changed and ended."""
