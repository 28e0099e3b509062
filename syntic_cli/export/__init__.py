"""Artifacts as other tools read them: a file a format, and the rows that all of them write."""
