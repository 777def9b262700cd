"""Published systems, a file each, as their authors describe them."""
