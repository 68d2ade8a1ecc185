"""The benchmark of Tianji: `python -m bench` (or `make bench`). How it measures is told in `bench/README.md`."""
