"""The HTTP service over an index: search, pictures, changes behind a token, metrics.

It needs the extra `serve`; nothing here is imported before a command asks for it.
"""
