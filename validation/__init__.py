"""Does an artifact compute what it should, and how fast? Parity, quality, zero-shot accuracy and speed."""
