"""Where ranks meet that no torchrun starts."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed import TCPStore


def meeting_place() -> tuple["TCPStore", dict[str, str]]:
    """Open the store through which ranks find each other, as torchrun does for its own.

    It takes a port that nobody has. A port that was only looked up may go to another process before
    rank 0 asks for it: that rank fails, and the others wait for an answer of whoever has it.

    Returns:
        The store, which closes with the object, and the environment by which ranks find it.
    """
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    return store, {
        "MASTER_ADDR": store.host,
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
