"""The host agent, and the program that joins it into one file."""
