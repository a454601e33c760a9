"""The kinds of sublayers: the nodes of each, and the states that it keeps."""
