"""A run as one HTML page: gathered from its artifacts, drawn, and written."""
