"""How whole models are drawn: conventions leaf by leaf, and starts, recipes for a whole model."""
