"""The process of claude: how it starts, what it may do, and what its output means."""
