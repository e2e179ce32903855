"""The verbs that only read: what they answer, and the processes that answer them."""
