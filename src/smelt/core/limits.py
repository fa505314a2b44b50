"""What the system allows this process."""

import resource

_ENOUGH = 65536
_DARWIN = 10240  # what macOS gives at most, whatever it says


def allow_open_files() -> None:
    """Raise the number of files that may be open towards what the user may have.

    A merge holds every shard of every model open, and some systems start with 256.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (_ENOUGH, _DARWIN):
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if soft == resource.RLIM_INFINITY or soft >= most:
            return
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        except (ValueError, OSError):
            continue
        return
