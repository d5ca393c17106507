"""The `jinit` command, a file for each family of commands; `main` gathers them."""
