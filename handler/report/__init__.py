"""The report of a night, from what the hosts remember of their jobs."""
