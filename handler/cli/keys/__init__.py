"""`breakglass keys`: creates, lists, changes and revokes callers and their secrets."""
