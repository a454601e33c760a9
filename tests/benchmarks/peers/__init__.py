"""Parts of `peers_table`: writing and running the exporters' artifacts, and the tables."""
