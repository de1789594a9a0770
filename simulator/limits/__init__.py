"""What no scheduler can beat: bounds, and the best schedule in hindsight."""
