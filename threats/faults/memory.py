"""How much memory trials may take: a share of what the machine or its device has in all.

Of what there is, not of what is free at the moment: the same machine then cuts a campaign alike every time.
"""

import os

import jax

_ASSUMED = 2**34
_MOST_ON_HOST = 2**34


def budget(share: float) -> int:
    """Bytes, a share of the device's memory.

    On a CPU that is the machine's, of which at most 16 GiB count: others use it too. What cannot be told counts as 16.

    Args:
      share: in (0, 1].
    """
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return int(share * min(_of_host(), _MOST_ON_HOST))
    limit = (device.memory_stats() or {}).get("bytes_limit", _ASSUMED)
    return int(share * limit)


def _of_host() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on this system
        return _ASSUMED
