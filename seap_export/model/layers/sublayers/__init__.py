"""The kinds of sublayers in torch: what each computes, and the channels of its output projection."""
