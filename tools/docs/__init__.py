"""The generator of `docs/reference`: pages that are read out of the code, so that they cannot differ from it.

    python -m tools.docs            write them
    python -m tools.docs --check    fail where a page is not what would be written

One module a page. What a page says of a thing is the thing's own docstring; where the code has no room for one (keys
of the configuration, headers), the words are in the page's module, and generating fails when they name something that
is gone or leave out something that is there. `docs/reference/plugins.md` is `tools.audit`'s, `performance.md` the
benchmark's.
"""
