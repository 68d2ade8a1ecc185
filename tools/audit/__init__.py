"""Keeps every plugin alike: one small module a rule in `tools/audit/rules`, run by `make audit` and `make generate`.

A rule has `validate(plugin)`, which yields problems, and may have `validate_repo(repo)` for what concerns the whole
repository and `generate(repo)`, which returns the files that it writes. The docstring of a rule is its page in
`docs/rules`. A plugin is excused from a rule by a line beside it, never by a list here:

    [tool.tianji.exempt]
    size = "AWS event stream framing"
"""
