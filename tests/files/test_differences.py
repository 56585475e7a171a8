"""Two descriptions compared key by key."""

from files.differences import differing_keys


def test_equal_documents_have_no_difference() -> None:
    document = {"cameras": ["a", "b"], "network": {"widths": [1, 2], "depth": 3}}
    assert differing_keys(document, {"cameras": ("a", "b"), "network": {"widths": (1, 2), "depth": 3}}) == []


def test_every_differing_key_is_named_with_both_values() -> None:
    found = {"cameras": ["a"], "network": {"depth": 3, "old": 1}}
    wanted = {"cameras": ["a", "b"], "network": {"depth": 4}}
    assert differing_keys(found, wanted) == [
        "cameras: ['a'] here, ['a', 'b'] wanted",
        "network.depth: 3 here, 4 wanted",
        "network.old: 1 here, 'nothing' wanted",
    ]
