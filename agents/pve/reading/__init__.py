"""The verbs that only read: their answers, and the processes that answer."""
