"""The demo model: its recipe, the corpus it learns, and the weights that came out."""
