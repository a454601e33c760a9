"""Files of several tools, measured on the same texts: the parts of `frontier_table`."""
