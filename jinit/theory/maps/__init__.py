"""From layer to layer in infinitely wide networks: lengths, correlations, gradients."""
