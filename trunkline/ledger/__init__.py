"""The ledger: what has been delivered, claimed and replayed. One database, small modules over it, one for each kind."""
