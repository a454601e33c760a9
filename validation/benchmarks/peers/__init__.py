"""Parts of `peers_table`: what the exporters write, how it is run, and the tables of it."""
