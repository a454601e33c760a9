"""What parity compares with torch: a written folder in each runtime."""
