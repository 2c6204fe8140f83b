"""A server of the Model Context Protocol: Duet's jobs as tools for agents, by the Python client. See docs/mcp.md."""
