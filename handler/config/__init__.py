"""The configuration: TOML to frozen dataclasses."""
