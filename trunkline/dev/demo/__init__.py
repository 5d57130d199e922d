"""The demo's parts: a broker with nothing of the bus on it, a target, a worker, a sender, and the waiting for the end.

What a run leaves behind is in its folder (`build/demo`): the target's database, the worker's log, the reports. Broker
and ledger are where every command finds them, so that a second terminal sees the same bus; when a person's own records
are there, the run has both in its folder.
"""
