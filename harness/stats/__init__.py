"""Every number that a verdict rests on: pure functions, numbers in, numbers out.

No files, clocks, random state or settings, and **only the standard library at run time**: a stranger must be
able to derive each verdict again, offline, with a Python interpreter and this folder. Sums are scalar, in a fixed
order or by ``math.fsum``, so that they give the same bytes on every CPU, where vectorised reductions do not.
(``math.exp`` and ``math.log`` come from the C library, which may differ in the last digit between platforms.)
numpy, scipy and statsmodels are oracles in the tests.

Every level is one-sided. Functions raise ValueError on domain errors; they never see a claim.

    special       binomial, beta, Student and normal tails
    intervals     one proportion: Clopper-Pearson, Wilson, exact tests
    paired        paired binary scores: McNemar, Tango, Newcombe, exact non-inferiority and equivalence
    permutation   paired scores of any kind: sign flips
    means         clustered means and ratios, Student's t
    betting       bounded means, valid for any n and at any stop
    series        requests in time: effective sample size, limits on a quantile
    ratio         run against run in ABBA blocks
    agreement     raters beyond chance: kappa, Krippendorff's alpha
    corrected     a judge's differences, corrected by people's labels
    families      several claims at one level: Holm, intersection-union, gatekeeping
    changes       change points in a history of runs
    plan          how many units a claim needs
"""
