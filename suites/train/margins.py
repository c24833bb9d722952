"""What the claims on training demand unless the lifecycle file says otherwise. Fixed before data."""

from __future__ import annotations

# T2, T3, T4: rows of the training that are read for a mutant, for packing, for an adapter.
MUTANT_ROWS, PACKED_ROWS, ADAPTER_ROWS = 24, 6, 1

# Float32 has 2**-23; logits reach 40, and thirty blocks add up: what no rounding explains is above a thousandth.
ROUNDING = 1e-3  # T3, T4: largest difference of a logit; T6: of an answer token's log-probability, in nats

ANSWERS = 32  # T6: answers that are compared; 25 without any difference show the bound below
PLACES = 6  # T6: answers compared in float32, where one too far off decides
SERVED_CAP = 0.1  # nats: an answer's mean divergence counts no higher
SERVED = 0.02  # nats, mean over answers: ten times what rounding to 16 bits alone costs
SERVED_TOP1 = 0.15  # places of an answer where the likeliest token is another, mean over answers
QLORA_STEPS, QLORA_ROWS = 6, 24
QLORA = 0.03  # nats: each answer of a QLoRA adapter merged onto what it was trained on

BATCH, STEPS = 2, 10  # T7: rows in the batch, steps on it
LEARNED = 0.1  # nats per token of the answers after these steps
