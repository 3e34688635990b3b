"""Python imports this when it starts with this folder on its path: two names cannot be exchanged then, as on NFS."""

import errno

import filelock._util

filelock._util._rename_call = lambda: (lambda *_: errno.EINVAL, 2)
