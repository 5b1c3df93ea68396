"""What is in a weight file, read without running it."""
