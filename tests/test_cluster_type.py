"""The label algebra: every property of the type lattice, by property."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supcam.cluster_type import TYPE_LABELS, ClusterType, Relation, composed_type
from supcam.errors import UsageError

types = st.sampled_from(ClusterType)
relations = st.sampled_from(Relation)


@given(types, types, relations)
def test_the_composed_type_is_the_union_of_the_bits(a: ClusterType, b: ClusterType, r: Relation) -> None:
    result = composed_type(a, b, r)
    assert (result & 1) == (a & 1 or b & 1 or r & 1)
    assert (result & 2) == (a & 2 or b & 2 or r & 2)


@given(types, types, relations)
def test_commutative(a: ClusterType, b: ClusterType, r: Relation) -> None:
    assert composed_type(a, b, r) is composed_type(b, a, r)


@given(types, types, types, relations, relations)
def test_associative(a: ClusterType, b: ClusterType, c: ClusterType, r: Relation, s: Relation) -> None:
    assert composed_type(composed_type(a, b, r), c, s) is composed_type(a, composed_type(b, c, s), r)


@given(types, types, relations)
def test_monotone_no_bit_is_ever_cleared(a: ClusterType, b: ClusterType, r: Relation) -> None:
    result = composed_type(a, b, r)
    assert result & a == a
    assert result & b == b
    assert result & r == r


@given(types, relations)
def test_touching_overlapping_absorbs(a: ClusterType, r: Relation) -> None:
    assert composed_type(a, ClusterType.TOUCHING_OVERLAPPING, r) is ClusterType.TOUCHING_OVERLAPPING


@given(types, types, relations)
def test_a_single_chromosome_is_never_composed(a: ClusterType, b: ClusterType, r: Relation) -> None:
    assert composed_type(a, b, r) is not ClusterType.INSTANCE


@given(types, types)
def test_disjoint_crops_are_refused(a: ClusterType, b: ClusterType) -> None:
    with pytest.raises(UsageError, match="not a cluster"):
        composed_type(a, b, 0)  # type: ignore[arg-type]


@given(types, relations)
def test_names_read_back_whatever_their_spelling(kind: ClusterType, relation: Relation) -> None:
    assert ClusterType.parse(kind.label) is kind
    assert ClusterType.parse(f" {kind.label.upper().replace('-', '_')} ") is kind
    assert Relation.parse(relation.label) is relation


def test_unknown_names_say_what_is_allowed() -> None:
    with pytest.raises(UsageError, match="type 'fused' is unknown; allowed are instance, touching"):
        ClusterType.parse("fused")
    with pytest.raises(UsageError, match="relation 'near' is unknown; allowed are touch"):
        Relation.parse("near")


def test_labels_are_in_class_order() -> None:
    assert TYPE_LABELS == ("instance", "touching", "overlapping", "touching-overlapping")
