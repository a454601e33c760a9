"""What all floors share."""
