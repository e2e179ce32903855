"""Messages to people: what they say, to whom they go, and what is not sent yet. Loaded only with [[notify]]."""
