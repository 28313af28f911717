"""The part of harness.py for a file of tests that runs in the root of another release of Debian (see
other_release_test.py): its clients are that release's, while nbdinetd, and each program with nbdinetd
in its command, are the machine's own."""

import os

# Names the descriptor of the machine's own root.
VARIABLE = "NBDINETD_OUTSIDE"

_outside = None
if VARIABLE in os.environ:
    _outside = int(os.environ.pop(VARIABLE))
    os.set_inheritable(_outside, False)


def is_entered():
    return _outside is not None


def is_program_outside(path):
    """Whether the machine's own root has this program."""
    return os.access(str(path).lstrip("/"), os.X_OK, dir_fd=_outside)


def leave():
    """In a child: back to the machine's own root, if this isn't it."""
    if _outside is not None:
        os.fchdir(_outside)
        os.chroot(".")
