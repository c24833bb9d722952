"""What must be true of any training, whatever it is to teach: facts as JSON rows, and the faults that prove they bite.

    render     the token ids that training sees are those that evaluation and serving see
    mask       the loss covers each answer with its end mark, and nothing else
    packing    what is packed into one row stays apart
    adapters   a fresh adapter changes nothing; it has the parameters it should; the base stays as it was; gradient reaches it alone
    parity     merged, unmerged and served say the same
    learning   one batch can be learned by heart

A row is ``{"name": ..., "found": ..., "expected": ...}``, as it should be where both are equal, or ``{"name": ..., "value": number}``.
A ``fault`` is a mutant: the same measurement of a training that is wrong in a known way.
"""
