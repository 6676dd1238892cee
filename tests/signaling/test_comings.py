"""How often one user may come to a room."""

from triocast.signaling.comings import PER_SECOND, Comings


def come(comings: Comings, user: str, now: float) -> bool:
    if comings.wait(user, now, at_once=4) > 0:
        return False
    comings.note(user, now)
    return True


def test_so_many_at_once_and_then_some_each_second() -> None:
    comings = Comings()
    assert [come(comings, "ann", 10) for _ in range(6)] == [True] * 4 + [False] * 2
    assert comings.wait("ann", 10, at_once=4) == 1 / PER_SECOND
    assert [come(comings, "ann", 10 + 1 / PER_SECOND) for _ in range(2)] == [True, False]
    later = 10 + 10 / PER_SECOND
    assert [come(comings, "ann", later) for _ in range(6)] == [True] * 4 + [False] * 2


def test_users_do_not_stand_in_each_others_way() -> None:
    comings = Comings()
    while come(comings, "ann", 0):
        pass
    assert come(comings, "bob", 0)


def test_who_came_long_ago_is_forgotten() -> None:
    comings = Comings()
    for n in range(1_000):
        come(comings, f"user{n}", n)
    assert len(comings) <= 2
