"""The HTTP edge: the only layer that imports Litestar and uvicorn."""
