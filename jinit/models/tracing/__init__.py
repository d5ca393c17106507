"""What a traced model does with its parameters and signals."""
