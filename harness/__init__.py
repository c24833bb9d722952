"""Every claim about the life of a language model is a test.

A stranger's own claim:

    from harness import Claim, at_least, evals

    @pytest.mark.claim(Claim("tickets.accuracy", "answers 80% of our tickets", at_least(0.80), min_n=150))
    def test_tickets(claim, engine, golden):
        claim.check(evals.exact_match(engine("mine"), golden("tickets")))

    pytest --subject mine=gguf:./mine.gguf

Importing this package opens no socket, reads no environment and loads no heavy library.
"""

from harness.bounds import at_least, at_most, better_than, equivalent, identical, non_inferior, within
from harness.errors import HarnessError
from harness.types import Claim, Control, Measurement, Sample, Subject, Verdict

__version__ = "0.1.0"

__all__ = [
    "Claim",
    "Control",
    "HarnessError",
    "Measurement",
    "Sample",
    "Subject",
    "Verdict",
    "at_least",
    "at_most",
    "better_than",
    "equivalent",
    "identical",
    "non_inferior",
    "within",
]
