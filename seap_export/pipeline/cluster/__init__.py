"""An export on several machines, through Ray: the driver hands out steps and records them, workers make them.

Ray starts workers, moves files and notices those that are lost. What is done already is not its matter: that is in the
output folder, as it is without a cluster.
"""
