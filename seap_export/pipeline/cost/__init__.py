"""What the work takes in time, memory and disk."""
