"""Many scans: a table of them, what happened to each, and what they say together."""
