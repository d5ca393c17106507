"""What a model's parameters are, and whose convention drew them."""
