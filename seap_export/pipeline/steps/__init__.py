"""The steps of an export. Each knows what it needs, the key of its inputs, and how it is made."""
