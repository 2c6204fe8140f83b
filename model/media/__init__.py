"""Media files in and out, through PyAV alone, and pictures of them."""
