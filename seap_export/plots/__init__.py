"""What variants keep, how much they share and what they cost in quality: the numbers, and pictures of them."""
