"""What an export is asked to make."""
