"""A load test of the right server: processes, schedules, load, parity, and what may be said of them.

    target exchange    where requests go; one request and its whole reply
    process      a server spawned, watched, drained and reaped; its guardian outlives us for that; commands per engine
    api          whether it keeps the protocol: schema, streams, errors, options, consistency, context
    parity       whether it is the model: a reference (expected), what was heard, the noise floor of company
    memory       what it takes, on paper
    schedule     when each request is due, in nanoseconds, made once for any number of workers
    workload     what each request says, serialised before the first is sent
    load         the schedule sent over keep-alive connections (client), a record of each request (harness.records)
    validity     when a run says nothing
    slo          measurements of a run: latency limits, goodput, throughput, errors
    search       the largest rate that keeps its objectives
    knee blocks soak    the curve against concurrency; run against run; hours of load
    telemetry    what the server says of itself: queue, cache, steps; what its processes take
    command      ``harness load``: the same for people without pytest
    stub proxy   a scripted server with ground truth, a proxy that breaks bytes: for tests and controls, and they say so

Importing any of them opens no socket and loads no heavy library. Units are seconds in every public signature unless a
name says otherwise.

On paper, 10^5 requests a second: one shard, a process on a core of its own, was measured at about 10^4 requests a second;
so 12 shards on each of two machines of 16 cores would do (``harness load --machine I/2 --start TIME``), each with its
slice of the one schedule (request i belongs to shard i mod W, counted over all machines), from one instant of UTC on. Nothing
is shared while a load runs: each shard writes its records, 64 bytes a request, and merging is a sort by sequence number,
exact by construction (load.machines). How far the clocks may be apart stands beside the verdict; no latency depends on it.
"""
