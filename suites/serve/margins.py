"""What a served model must keep, fixed before its data; the lifecycle file may override each by claim id."""

# L3: the knee
LADDER = 16  # requests at once, on the highest rung that is looked at
EXPECTED_GROWTH = 1.4  # times the tokens a second, by the last doubling that is worth it

# V4: the server is the model.
PARITY_PROMPTS = 60  # 0 errors of 59 bound their share by 5%
PARITY_CONTROLS = 20  # prompts of a planted fault: each is wrong on nearly all
GREEDY_ERRORS = 0.05  # prompts that leave the reference's greedy answer by more than a numeric tie
EXPECTED_DISTANCE = 0.4  # of the tolerance, which is three times the reference's own rounding
# The right weights behind the wrong base of rotary positions: healthy, fast, fluent, knows the capital of France, and is another model.
WRONG_OPTIONS = {"hf-overrides": '{"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}'}

# V2, V3, V6
AGREEING = 12  # prompts whose answers are asked for in three ways
TRUNCATED = 0.05  # share of broken streams that a layer may accept: decided by 0 of 59
TRUNCATIONS = 59
KILLED_STREAMS = 3  # under way when the engine is killed, one of our own beside them: as many as every server takes at once
DEPTH_TIE = 0.5  # nats by which the reference may find the server's words at depth less likely than its own, over a whole answer

# K5: company and load change no answer
FLIPS_PROMPTS, FLIPS_LEAST = 60, 59
FLIPS = 0.05  # answers that leave the one alone by more than a numeric tie; 0 of 59 are needed

# K1, K2: the prefix cache; K6: preemption
PREFIX_PROMPTS = 24  # asked cold and warm
PREFIX_RUN, PREFIX_LONG = 5, 24  # requests of a timed run; questions of some 45 tokens that they share
PREFIX_TTFT, EXPECTED_PREFIX_TTFT = 0.7, 0.4  # of the time to the first token without the cache
PREEMPTED_PROMPTS, PREEMPTED_AT = 24, 8  # prompts, and how many at a time
PRESSED = {"max-model-len": "512", "block-size": "32", "num-gpu-blocks-override": "20"}  # 640 tokens for eight requests of 110

# F3, F4, F5: how a server ends, and what it keeps of clients that left
GONE_S, FAKE_GONE_S = 5.0, 0.5  # until nothing is left of what was killed
STREAMS, STREAM_TOKENS = 4, 300  # answers under way when it is told to end
DRAINING = {"vllm": {"shutdown-timeout": "60"}}  # flags that ask an engine to drain, which it does not by itself
FREE_S, LEAVERS, LEAVE_AFTER = 1.0, 20, 20  # seconds until the place of a client is free; the slowest of so many; frames it waits for

# M1, M2: memory as predicted, and as promised
MEMORY_ERROR = 0.15  # of what was predicted

# L4: an optimisation
AT_ONCE = 4  # requests
GAIN = 1.10  # times the tokens a second of the flags before
EXPECTED_GAIN = 1.5

# L6: a soak
LAPS, SOAKED = 48, 4  # laps, and requests at once in each
DRIFT = 1.10  # times as long a request may take half a soak later
LEAK = 1.02  # times the memory

# L7: tenants
SHORTS, SHORT_RATE, LONG_EVERY_S = 24, 1.2, 4.0  # short requests of a run, and how many a second; seconds between two long ones
STARVED = 3.0  # times the wait for the first token

# L2: throughput at the promised rate
DELIVERED = 0.9  # of the requests that were asked for, a second
LEAST_TOKENS = 4.0  # of an answer: so many times the rate are delivered a second
