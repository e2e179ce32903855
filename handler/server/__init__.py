"""The running server: the routes of the verbs and of chat together, and uvicorn around them."""
