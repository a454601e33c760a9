"""The validation of a variant or a whole export: integrity, parity, router, quality, speed and signatures."""
