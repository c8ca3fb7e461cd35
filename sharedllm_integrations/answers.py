"""The core's answers behind messages and responses, which hold plain values only.

The last ones of a process are kept, for those who want to show an answer's evidence as a page or a
picture after a chain has run.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sharedllm_integrations.errors import SetupError

if TYPE_CHECKING:
    from sharedllm import Answer

MOST = 64
_kept: OrderedDict[str, Answer] = OrderedDict()
_lock = threading.Lock()


def keep(answer: Answer) -> str:
    """Keep `answer`, and give the id under which it is found."""
    name = secrets.token_hex(8)
    with _lock:
        _kept[name] = answer
        while len(_kept) > MOST:
            _kept.popitem(last=False)
    return name


def kept(details: object) -> Answer:
    """The answer that `details` tell of.

    Parameters
    ----------
    details : what an adapter told about an answer

    Raises
    ------
    SetupError
        If it tells of none, or the answer is not kept any more.
    """
    name: Any = details.get("answer_id") if isinstance(details, Mapping) else None
    if name is None:
        raise SetupError(
            "this was not written by a SharedLLM; give the message or response of one, as it came"
        )
    with _lock:
        found = _kept.get(name)
    if found is None:
        raise SetupError(
            f"the answer is not kept: only the last {MOST} of this process are. Its citations are "
            "in the message; ask again for the rest"
        )
    return found
