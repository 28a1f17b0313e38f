"""Which negatives an example has in which epoch."""

from recipe.training.examples import Examples
from recipe.training.groups import Group

PASSAGES = tuple(f"p{number}" for number in range(9))
GROUPS = [Group(f"q{n}", "?", PASSAGES, tuple(map(float, range(9)))) for n in range(40)]


def test_negatives_are_drawn_anew_each_epoch_the_same_for_a_seed() -> None:
    examples, again, other = (Examples(GROUPS, 5, seed) for seed in (1, 1, 2))
    epochs = [[examples[epoch, index] for index in range(40)] for epoch in (0, 1)]
    # In any order, as after a stop.
    assert [again[1, index] for index in reversed(range(40))] == epochs[1][::-1]
    assert [other[0, index] for index in range(40)] != epochs[0]
    changed = sum(a.passages != b.passages for a, b in zip(*epochs, strict=True))
    assert changed > 35
    for group in (*epochs[0], *epochs[1]):
        assert group.passages[0] == "p0"
        assert len(set(group.passages)) == 5
        assert [f"p{score:.0f}" for score in group.scores] == list(group.passages)
    drawn = {passage for group in epochs[0] for passage in group.passages}
    assert drawn == set(PASSAGES)


def test_an_example_without_more_negatives_stays_as_it_is() -> None:
    plain = [Group("q", "?", PASSAGES[:5])]
    assert Examples(plain, 5, 1)[3, 0] is plain[0]
