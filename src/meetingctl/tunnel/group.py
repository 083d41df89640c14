"""What all links of one loop share: their rules, their totals, and two sweeps instead of a timer per link."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meetingctl.tunnel.reactor import Reactor
from meetingctl.tunnel.rules import LinkRules

if TYPE_CHECKING:
    from meetingctl.tunnel.link import Link


class LinkGroup:
    """The links of one loop. `sent_bytes` and `received_bytes` are payload to and from the peers."""

    def __init__(self, reactor: Reactor, rules: LinkRules) -> None:
        self.reactor = reactor
        self.rules = rules
        self.links: set[Link] = set()
        self.queued_bytes = self.sent_bytes = self.received_bytes = 0
        self._busy: set[Link] = set()
        self._is_sweeping = False
        reactor.call_later(rules.life_sweep_s, self._sweep_all)

    def note_busy(self, link: Link) -> None:
        """Have the streams of the link looked after."""
        self._busy.add(link)
        if not self._is_sweeping:
            self._is_sweeping = True
            self.reactor.call_later(self.rules.sweep_s, self._sweep_busy)

    def note_idle(self, link: Link) -> None:
        """Leave a link without streams in peace."""
        self._busy.discard(link)

    def _sweep_busy(self) -> None:
        self._is_sweeping = bool(self._busy)
        if self._busy:
            self.reactor.call_later(self.rules.sweep_s, self._sweep_busy)
        for link in list(self._busy):
            link.check_streams(self.reactor.now_s)

    def _sweep_all(self) -> None:
        self.reactor.call_later(self.rules.life_sweep_s, self._sweep_all)
        for link in list(self.links):
            link.check_life(self.reactor.now_s)
