"""What the adapters share: no stack is imported here.

A stack brings containers, transports and its own word for a round. The rest is the same in each: a party with its
files (:mod:`~secagg.integrations._shared.party`), its privacy budget (:mod:`~secagg.integrations._shared.budget`),
metrics in the sum (:mod:`~secagg.integrations._shared.metrics`), digests of models and requests
(:mod:`~secagg.integrations._shared.digests`), the sessions that a server opens
(:mod:`~secagg.integrations._shared.sessions`), its rounds over a channel of the stack
(:mod:`~secagg.integrations._shared.rounds`), what a message says
(:mod:`~secagg.integrations._shared.statements`), and roles behind a function from bytes to bytes
(:mod:`~secagg.integrations._shared.hosted`). Where a stack carries calls between a server and its sites, both sides
are here too: the site (:mod:`~secagg.integrations._shared.site`) with its operator's settings
(:mod:`~secagg.integrations._shared.settings`), and the server's rounds over such calls
(:mod:`~secagg.integrations._shared.site_rounds`).
"""
