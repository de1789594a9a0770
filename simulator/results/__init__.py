"""What a run came to: rows, folders, and the numbers made from them."""
