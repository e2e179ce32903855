"""Jobs: a job's request, its directory in /run, its lock, its result and its copy on disk."""
