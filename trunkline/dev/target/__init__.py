"""One small HTTP server that stands for remote APIs, can be broken and healed, and counts what really happened.

    python -m trunkline.dev.target --port 8801 --database var/target.db

It knows no business: the first path segment names the API, so `/NAME/any/path` answers for any NAME and any method.
A request's idempotency key is its `Idempotency-Key` header (bare or quoted); without one, the method and path of a PUT
or DELETE; otherwise it has none and is an effect of its own. A key takes effect once. The same key with the same body
is a repeat and changes nothing; with another body it is refused with 422.

    200 {"applied": true, "key": "…"}      the effect happened now
    200 {"applied": false, "key": "…"}     it had happened before

Witnesses count in the SQLite file (WAL, so reading never disturbs the server; open it with `mode=ro`):

    effects   name, key (NULL without one), method, path, body, body_sha256, at, first_seq, times, repeats
              One row per (name, key), and one per request without a key. `times` counts how often it was applied: 1,
              unless the API was told not to honour keys. `repeats` counts the requests that found it applied.
              The row is that of the first application, whose attempt is `first_seq`.
    attempts  seq, name, key, path, body_sha256, status, at, in_flight_at_arrival
              One row per request that arrived whole. `seq` rises in order of arrival, over restarts too. `status` is
              the answer, NULL when none was given (cut, or the client left). `in_flight_at_arrival` counts the others
              of that API.
    overlaps  seq, beside, name
              One row per pair of requests whose paths begin with the same segment, `seq` having arrived before
              the answer to `beside` began: a client that keeps such a segment in order has none.
    changes   number, seq, name, path, version, body_sha256, at
              What an API that `stores` holds: one row per change of a path's value. `number` rises in their order.

`path` is what follows /NAME, percent-encoded as sent, without the query. `at` is in epoch seconds: of the arrival for
an attempt, of the application for an effect. `body` is TEXT when it is UTF-8 and BLOB otherwise. All tables are
committed before a request is answered or cut, all requests of one pass of the event loop together: what was answered
is in the file even when the process is killed.

Control, in JSON: POST, GET and DELETE ?name=NAME on /_control/behaviours, GET /_control/stats, POST /_control/reset.
"""
