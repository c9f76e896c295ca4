"""Time taggers."""
