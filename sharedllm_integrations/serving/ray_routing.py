"""Routing: a request goes to the replica that has its memory open, unless that one is busy.

Ray's own multiplexing keeps to the replicas that have loaded a model until they are full, and its
``ConsistentHashRouter`` as well. Full is late here: a replica takes many more requests than it
answers at once, for its own line says 429 and when to come again; and a server of one memory would
never use a second replica. So this is consistent hashing with bounded loads (Mirrokni et al., 2018,
https://arxiv.org/abs/1608.01350): no replica gets much more than its share.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

SPREAD = 1.25  # times its share of all requests that a replica may have


class HomeRouter(RequestRouter):  # type: ignore[misc]  # Ray's classes are Any here
    """Sends what has the same ``session_id`` to the same replica.

    Every router finds the same one without asking (rendezvous hashing), and when a replica comes or
    goes only its own part of the requests moves. A replica that has more than 1.25 times its share
    of all requests, or `busy` of them, is passed over for the next one; if all have so many, the
    one with the fewest is taken.
    """

    _busy = 1

    def initialize_state(self, *, busy: int = 1, **_: Any) -> None:
        """Take the router's settings: requests that a replica answers at once."""
        self._busy = busy

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """The replicas to try, the best first; Ray takes the least loaded of those in one list."""
        if pending_request is None or not candidate_replicas:
            return [candidate_replicas]
        # Ray waits between rounds of this, in which nobody had room
        pending_request.routing_context.should_backoff = True
        home = pending_request.metadata.session_id or pending_request.metadata.internal_request_id
        order = sorted(candidate_replicas, key=lambda one: _weight(home, one))
        cache = self.replica_queue_len_cache
        held = [cache.get(one.replica_id) or 0 for one in order]
        most = min(self._busy, math.ceil(SPREAD * (sum(held) + 1) / len(order)))
        free = [one for one, count in zip(order, held, strict=True) if count < most]
        return [free[:1], order]


def _weight(home: str, replica: RunningReplica) -> bytes:
    return hashlib.sha256(f"{home} {replica.replica_id.unique_id}".encode()).digest()
