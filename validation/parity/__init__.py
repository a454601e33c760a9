"""The parity gate: a written model against the model that it was written from."""
