"""The bounds of this suite, fixed before any data are seen; each may be overridden by claim id in the lifecycle file."""

EXACT = 0.01  # of rows: equal to an earlier one, or equal but for case, punctuation, spacing
NEAR = 0.05  # of rows: 4/5 of their word triples shared with a row that stays
TRUNCATED = 0.01  # of rows: longer than the context
RECALL = 0.95  # of planted canaries found, lower confidence limit
PRECISION = 0.95  # of what is called personal data, in sentences whose labels are known
BLOCKED = 5  # rows that a person can look at
FALSE_ALARMS = 1e-4  # of rows, with findings that nobody planted
LONGER = (0.3, 0.7)  # of preference pairs of different length: the chosen answer is the longer
FLIPPED = 0.02  # of preference rows: ranked the other way elsewhere
