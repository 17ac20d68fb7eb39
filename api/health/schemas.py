"""Response bodies of the probes and of `/api/capabilities`."""

import msgspec


class Health(msgspec.Struct, frozen=True):
    status: str = "ok"


class Capabilities(msgspec.Struct, frozen=True):
    """Optional features of this server. True if their image is configured."""

    lark_cli_init_image: bool
    lark_cli_broker_image: bool
