"""The repository's own tools. Nothing here is shipped."""
