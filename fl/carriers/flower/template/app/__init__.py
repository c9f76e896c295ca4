"""A Flower app whose clients add up their updates under quantum keys."""
