"""A load test of the right server: processes, schedules, load, parity, and what may be said of them.

    target       where requests go
    process      a server spawned, watched, drained and reaped; guardian outlives us for that; commands per engine
    schedule     when each request is due, in nanoseconds, made once for any number of workers
    workload     what each request says, serialised before the first is sent
    load         the schedule sent over keep-alive connections (client), a record of each request (harness.records)
    validity     when a run says nothing
    slo          measurements of a run: latency limits, goodput, throughput, errors
    search       the largest rate that keeps its objectives
    parity floor whether the server is the model; how much load changes its answers
    telemetry    what the server says of itself: queue, cache, steps; which of them is the bottleneck
    stub         a scripted server with ground truth, for tests and controls: it says so

Importing any of them opens no socket and loads no heavy library. Units are seconds in every public signature unless a
name says otherwise.

On paper, 10^5 requests a second: one shard, a process on a core of its own, was measured at about 10^4 requests a second;
so 12 shards on each of two machines of 16 cores would do, each with slices of the one schedule (request i belongs to
shard i mod W) and the offset of its clock to the others' by the exchange of time stamps. Nothing is shared while a load
runs: each shard writes its slice, 64 bytes a request, and merging is a sort by sequence number, exact by construction.
"""
