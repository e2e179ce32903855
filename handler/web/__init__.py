"""HTTP: authentication and limits, one file for each route, and the server."""
