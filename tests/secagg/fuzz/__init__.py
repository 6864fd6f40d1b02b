"""Fuzzing of every decoder and every role: ``python -m tests.secagg.fuzz --minutes 30``.

Nothing may escape a server or an aggregator; nothing but RemoteProtocolError and Aborted a client, and a
LocalProtocolError where its contribution is missing; nothing but its documented error a decoder. The
fuzzing runs in child processes whose memory is limited, and each session that is fuzzed has to
end with the right sum. A seed repeats the mutations, save those of what HPKE sealed, which differs each time.
"""
