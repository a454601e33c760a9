"""An export on several machines, through Ray: the driver hands out steps and records them, workers make them."""
