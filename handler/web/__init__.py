"""HTTP: authentication and limits, one file for each route. Knows nothing of chat."""
