"""The networks whose features the paper's measures compare, and their weight files."""
