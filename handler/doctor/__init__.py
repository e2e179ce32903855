"""The command `breakglass doctor`: walks the whole path of a request, and judges each part of it."""
