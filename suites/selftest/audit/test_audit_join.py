"""The join finds what comparing all pairs finds: on hostile little sets, and on thousands of edited copies."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import sparse

from harness.audit import join
from harness.audit.join import Sets, ranked
from harness.errors import AuditError

pytestmark = pytest.mark.selftest

PLAIN = settings(derandomize=True, deadline=None, max_examples=300)
LITTLE = st.lists(st.sets(st.integers(0, 12), max_size=9), max_size=14)
THRESHOLDS = st.sampled_from([(4, 5), (1, 2), (7, 10), (9, 10), (1, 1), (1, 3), (2, 3), (1, 20), (999_983, 1_000_000)])


def brute(sets, num, den):
    """All pairs, one by one, in fractions."""
    return [
        (i, j, len(sets[i] & sets[j]))
        for i in range(len(sets))
        for j in range(i + 1, len(sets))
        if sets[i] and sets[j] and Fraction(len(sets[i] & sets[j]), len(sets[i] | sets[j])) >= Fraction(num, den)
    ]


def connected(n, edges):
    """The smallest node each node can reach."""
    label = list(range(n))
    for _ in range(n):
        for i, j, *_ in edges:
            label[i] = label[j] = min(label[i], label[j])
    return label


def triples(found):
    return list(zip(*(column.tolist() for column in found), strict=True))


def without_unshared(sets):
    """The same sets, with what only one of them has no longer listed."""
    whole = ranked(sets)
    counts = np.bincount(whole.tokens, minlength=1)
    keep = counts[whole.tokens] > 1
    ends = np.concatenate(([0], np.cumsum(keep)))[whole.starts]
    return Sets(whole.tokens[keep], ends.astype(np.int64), whole.sizes)


@PLAIN
@given(LITTLE, THRESHOLDS)
@example([{1, 2, 3, 4}, {1, 2, 3, 4, 5}, set(), {1, 2, 3, 4}, set()], (4, 5))
def test_pairs_are_those_of_comparing_all(sets, threshold):
    expected = brute(sets, *threshold)
    assert triples(join.pairs(ranked(sets), *threshold)) == expected
    assert triples(join.pairs(without_unshared(sets), *threshold)) == expected


@PLAIN
@given(LITTLE, THRESHOLDS, st.integers(1, 5))
def test_parts_are_disjoint_and_together_the_whole(sets, threshold, parts):
    every = [triples(join.pairs(ranked(sets), *threshold, part=part, parts=parts)) for part in range(parts)]
    assert sorted(pair for one in every for pair in one) == brute(sets, *threshold)


@PLAIN
@given(LITTLE, THRESHOLDS, st.integers(1, 3))
def test_clusters_are_the_connected_components(sets, threshold, parts):
    expected = connected(len(sets), brute(sets, *threshold))
    assert join.clusters(without_unshared(sets), *threshold).tolist() == expected
    every = [join.spanning(ranked(sets), *threshold, part=part, parts=parts) for part in range(parts)]
    assert all(len(i) < max(1, len(sets)) and (i < j).all() for i, j in every)
    edges = [np.concatenate(side) for side in zip(*every, strict=True)]
    assert join.components(len(sets), *edges).tolist() == expected


@PLAIN
@given(LITTLE, st.integers(0, 14), THRESHOLDS)
def test_cross_pairs_are_those_between_the_two(sets, cut, threshold):
    cut = min(cut, len(sets))
    whole = ranked(sets)
    found = join.cross(whole.taken(range(cut)), whole.taken(range(cut, len(sets))), *threshold)
    assert [(i, j + cut, n) for i, j, n in triples(found)] == [pair for pair in brute(sets, *threshold) if pair[0] < cut <= pair[1]]


@PLAIN
@given(LITTLE, THRESHOLDS)
def test_what_goes_has_an_earlier_one_that_stays_and_is_proven_like_it(sets, threshold):
    near = {(i, j) for i, j, _ in brute(sets, *threshold)}
    expected, kept = [], []
    for x in range(len(sets)):
        like = [y for y in kept if (y, x) in near]
        expected.append(like[0] if like else -1)
        if not like:
            kept.append(x)
    label = join.clusters(ranked(sets), *threshold)
    leader = join.leaders(without_unshared(sets), *threshold, label, np.arange(len(sets)))
    assert leader.tolist() == expected
    by_cluster = np.full(len(sets), -1)  # one cluster after the other gives the same
    for one in np.unique(label):
        members = np.flatnonzero(label == one)
        by_cluster[members] = join.leaders(ranked(sets), *threshold, label, members)[members]
    assert by_cluster.tolist() == leader.tolist()


@PLAIN
@given(LITTLE)
def test_least_similarity_is_that_of_all_pairs(sets):
    sets = [one for one in sets if one]
    middle = len(sets) // 2
    nums, dens = join.least(without_unshared(sets), np.arange(len(sets)), np.array([0, middle, len(sets)]))
    for (low, high), num, den in zip([(0, middle), (middle, len(sets))], nums, dens, strict=True):
        group = sets[low:high]
        all_pairs = [Fraction(len(a & b), len(a | b)) for i, a in enumerate(group) for b in group[:i]]
        assert Fraction(int(num), int(den)) == min(all_pairs, default=1)


# --- template ---------------------------------------------------------------------------------------


def cut_at(sets, cut):
    """The same sets, with tokens from ``cut`` on as template; the oracle's sets of what is their own, by rank."""
    whole = ranked(sets)
    lists = [set(whole.tokens[a:b].tolist()) for a, b in zip(whole.starts, whole.starts[1:], strict=False)]
    own = [{token for token in one if token < cut} for one in lists]
    return Sets(whole.tokens, whole.starts, np.array([len(one) for one in own], np.int64), cut), lists, own


def similarity(a, b):
    return Fraction(len(a & b), len(a | b)) if a | b else Fraction(1)


@PLAIN
@given(LITTLE, THRESHOLDS, st.integers(0, 10), st.integers(1, 3))
def test_with_template_two_sets_are_as_alike_as_the_less_of_both(sets, threshold, cut, parts):
    cutted, lists, own = cut_at(sets, cut)
    alike = [
        (i, j, len(own[i] & own[j]))
        for i in range(len(sets))
        for j in range(i + 1, len(sets))
        if own[i] and own[j] and min(similarity(own[i], own[j]), similarity(lists[i], lists[j])) >= Fraction(*threshold)
    ]
    assert sorted(t for part in range(parts) for t in triples(join.pairs(cutted, *threshold, part=part, parts=parts))) == alike
    label = join.clusters(cutted, *threshold, threads=parts)
    assert label.tolist() == connected(len(sets), alike)
    leader = join.leaders(cutted, *threshold, label, np.arange(len(sets)))
    for x, y in enumerate(leader.tolist()):
        before = [i for i, j, _ in alike if j == x and leader[i] < 0]
        assert y == min(before, default=-1)
    some = np.arange(len(sets))
    nums, dens = join.similarities(cutted, some, some[::-1])
    both = [(x, y) for x, y in zip(some, some[::-1], strict=True) if own[x] and own[y]]
    assert all(Fraction(int(nums[x]), int(dens[x])) == min(similarity(own[x], own[y]), similarity(lists[x], lists[y])) for x, y in both)


@PLAIN
@given(LITTLE, THRESHOLDS, st.integers(2, 4))
def test_a_part_needs_only_the_sets_it_is_sent(sets, threshold, parts):
    whole = ranked(sets)
    which, part = join.shuffled(whole, *threshold, parts)
    found = []
    for one in range(parts):
        sent = which[part == one]
        i, j, shared = join.pairs(whole.taken(sent), *threshold, part=one, parts=parts)
        found += triples((sent[i], sent[j], shared))
    assert sorted(found) == brute(sets, *threshold)


# --- thousands of edited copies -------------------------------------------------------------------


def corpus(rng, n=5000):  # as arrays of numbers, one a shingle
    """Shingles of documents as they are found: templates, edited copies of copies, common words, a few long ones."""
    common = rng.zipf(1.3, 4 * n) % 30_000
    documents = []
    for i in range(n):
        kind = rng.random()
        if kind < 0.5 and documents:
            words = documents[rng.integers(max(0, i - 300), i)].copy()
            changed = rng.random(len(words)) < rng.choice([0, 0.01, 0.03, 0.08, 0.2])
            words[changed] = rng.choice(common, changed.sum())
        else:
            words = rng.choice(common, min(400, 3 + rng.geometric(1 / 40)))
        documents.append(words)
    return [np.unique((words[:-2] * 30_000 + words[1:-1]) * 30_000 + words[2:]) for words in documents]


def ranked_arrays(documents):
    """As ``ranked``, of sorted arrays."""
    lengths = np.array([len(one) for one in documents], np.int64)
    _, inverse, counts = np.unique(np.concatenate(documents), return_inverse=True, return_counts=True)
    rank = np.argsort(np.argsort(counts, kind="stable"), kind="stable")
    owner = np.repeat(np.arange(len(documents)), lengths)
    tokens = rank[inverse]
    return Sets(tokens[np.lexsort((tokens, owner))].astype(np.int32), np.concatenate(([0], np.cumsum(lengths))), lengths)


def by_matrix(sets: Sets, thresholds):
    """The oracle: the product of the incidence matrix with its transpose, no filter of any kind; the pairs at each threshold."""
    ones = np.ones(len(sets.tokens), np.int32)
    matrix = sparse.csr_array((ones, sets.tokens, sets.starts), shape=(len(sets), int(sets.tokens.max()) + 1))
    shared = sparse.triu(matrix @ matrix.T, k=1).tocoo()
    union = sets.sizes[shared.row] + sets.sizes[shared.col] - shared.data
    for num, den in thresholds:
        near = np.flatnonzero(shared.data * den >= num * union)
        near = near[np.lexsort((shared.col[near], shared.row[near]))]
        yield shared.row[near], shared.col[near], shared.data[near]


@pytest.mark.parametrize("seed", range(20))
def test_five_thousand_documents_at_three_thresholds(seed):
    sets = ranked_arrays(corpus(np.random.default_rng(seed)))
    thresholds = ((1, 2), (7, 10), (4, 5))
    for threshold, expected in zip(thresholds, by_matrix(sets, thresholds), strict=True):
        assert len(expected[0]) > 500
        found = join.pairs(sets, *threshold)
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
        label = join.components(len(sets), *expected[:2])
        assert np.array_equal(join.clusters(sets, *threshold), label)


def test_threads_find_what_one_finds():
    sets = ranked_arrays(corpus(np.random.default_rng(99)))
    with ThreadPoolExecutor(2) as pool:
        halves = list(pool.map(lambda part: join.pairs(sets, 4, 5, part=part, parts=2), range(2)))
    whole = [np.concatenate(columns) for columns in zip(*halves, strict=True)]
    order = np.lexsort((whole[1], whole[0]))
    assert all(np.array_equal(a[order], b) for a, b in zip(whole, join.pairs(sets, 4, 5), strict=True))


# --- hostile sizes: these would not end if the work were quadratic --------------------------------


def csr(lists, sizes=None):
    lengths = np.array([len(one) for one in lists], np.int64)
    flat = np.concatenate(lists).astype(np.int32)
    return Sets(flat, np.concatenate(([0], np.cumsum(lengths))), lengths if sizes is None else sizes)


def test_half_a_million_equal_sets():
    n, width = 500_000, 8
    sets = Sets(np.tile(np.arange(width, dtype=np.int32), n), np.arange(n + 1) * width, np.full(n, width))
    label = join.clusters(sets, 4, 5)
    assert not label.any()
    leader = join.leaders(sets, 4, 5, label, np.arange(n))
    assert leader[0] == -1 and not leader[1:].any()


def test_half_a_million_tiny_sets_that_share_one_token():
    n = 500_000
    sets = Sets(np.column_stack((np.arange(n), np.full(n, n))).ravel().astype(np.int32), np.arange(n + 1) * 2, np.full(n, 2))
    assert len(join.pairs(sets, 4, 5)[0]) == 0
    listed = Sets(np.full(n, 0, np.int32), np.arange(n + 1), np.full(n, 2))  # as it comes from near: what is not shared is not listed
    assert np.array_equal(join.clusters(listed, 4, 5), np.arange(n))


def test_sets_of_millions_of_tokens():
    n = 2_000_000
    sets = csr([np.arange(n), np.arange(200_000, n), np.arange(500_000, n), np.arange(5)])
    assert triples(join.pairs(sets, 4, 5)) == [(0, 1, n - 200_000), (1, 2, n - 500_000)]
    assert join.clusters(sets, 4, 5).tolist() == [0, 0, 0, 3]
    assert join.leaders(sets, 4, 5, np.array([0, 0, 0, 3]), np.arange(4)).tolist() == [-1, 0, -1, -1]  # the chain's end stays


@pytest.mark.parametrize("threshold", [(0, 1), (-1, 2), (6, 5), (1, 10**7)])
def test_a_threshold_that_is_none(threshold):
    with pytest.raises(AuditError, match="Jaccard threshold"):
        join.pairs(ranked([{1}]), *threshold)


def test_a_part_that_is_none():
    with pytest.raises(AuditError, match="part 2 of 2"):
        join.pairs(ranked([{1}]), 4, 5, part=2, parts=2)


def test_nothing_to_join():
    for sets in ([], [set()], [set(), set()], [{1}]):
        assert triples(join.pairs(ranked(sets), 4, 5)) == []
        assert join.clusters(ranked(sets), 4, 5).tolist() == list(range(len(sets)))
