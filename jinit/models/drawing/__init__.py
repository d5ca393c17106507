"""New parameters for any model."""
