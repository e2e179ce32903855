"""Jobs: the request of each, its directory in /run, its lock, its result and its copy on disk."""
