"""Node addresses of emulated clusters that run at the same time."""

WORKER_TESTS = 151
SYSTEM_TESTS = 101


def node_address(worker_id: str, first: int) -> str:
    """Return a loopback address that belongs to one pytest-xdist worker, counted from 127.0.0.`first`.

    All emulators draw node ports from the same range, so two emulators on one address would collide. Only Linux answers
    on all loopback addresses without a set-up.
    """
    number = int(worker_id.removeprefix("gw")) if worker_id.startswith("gw") else 0
    return f"127.0.0.{first + number}"
