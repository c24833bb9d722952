"""What the comparisons demand unless the lifecycle file says otherwise. Fixed before data.

Chosen for a primary set of about 560 items and controls of 300, on a model of middling accuracy: what such n can decide.
"""

from __future__ import annotations

from collections import defaultdict

# The gain that training was planned to bring, in points of accuracy, and the items it was expected to change either way.
GAIN, GAIN_PSI = 0.20, 0.30
POWER = 0.80  # at that gain
# Points that may be lost on a guardrail, and the items expected to change either way.
GUARDRAIL = defaultdict(lambda: 0.05, commonsense=0.03)
PSI = defaultdict(lambda: 0.10)

HEALTH = 0.05  # points by which the share of answers cut off, empty, unreadable or lost may differ between arms

ANALYSED = 20  # failures
OTHER = 0.10  # of the failures, without a type of their own
STABLE = 0.70  # Krippendorff's alpha between two rules that type failures

# An iteration: on items that nobody looked at it may lose, and it was planned to bring, so many points.
ITERATION, ITERATION_GAIN, ITERATION_PSI = 0.07, 0.08, 0.20

DRESS = ("rephrased", "uppercase", "blanks", "option_order")  # other ways to ask the same
CONTENT = ("rephrased", "renumbered")  # what a model that knows the items by heart would not follow
GAP = 0.10  # points by which other words or other content of the same form may lower the score
CANARY = 0.05  # the level below which a canary is too likely among its twins, after Holm
TWINS = 99  # of each canary

RERUNS = 3
FLIPS = 0.10  # of the items may change between right and wrong in so many reruns
EXPECTED_FLIPS = 0.03
SAME = 0.10  # of the items may change when they are asked in another dress
APPROVED = 0.08  # points that a pass rate may lie below the approved one
