"""One conformance suite for each family of plugins. Import them from `tianji.testing`."""
