"""Words and tools that every part uses. Of this project, they import only the host agent's words."""
