"""The command `breakglass doctor`: checks each part of the whole path of a request."""
