"""Coverage across sessions: whether the interval of one session holds in the next.

trained      the models of four methods, trained once into a folder
timing       one session: new servers, the same models, every method at every batch size
coverage     each session's intervals against the median of the other sessions

    python -m bench.selftest.sessions train FOLDER         once, minutes
    python -m bench.selftest.sessions time FOLDER          one session of a minute; quiet machine
    python -m bench.selftest.sessions judge FOLDER         the table, at any time

`make meters SESSIONS=12` does all three, and goes on where it was interrupted.
"""
