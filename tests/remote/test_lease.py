"""Who may write to a folder on an object store: in a store of the tests' own, whose clock stands still until it is set,
and in which the operations of several commands take turns in any order."""

import os
import random
import socket
import threading

import msgspec
import pytest
from support.object_store import Objects

from kdbench.errors import UserError
from kdbench.remote import lease as leases
from kdbench.remote.bucket import StoreError
from kdbench.remote.lease import FOLDER, Lease, LostLease, Note, lease_seconds


@pytest.fixture
def objects(monkeypatch):
    monkeypatch.setattr(leases.time, "sleep", lambda seconds: None)
    monkeypatch.setenv("KDBENCH_LEASE_SECONDS", "99")  # and another one, as dates may have whole seconds
    return Objects()


def notes(objects):
    return [msgspec.json.decode(content, type=Note) for content in objects.objects.values()]


def held(objects, machine="a"):
    lease = Lease(objects, machine)
    lease.acquire()
    return lease


def test_a_second_command_is_refused_with_the_process_the_host_and_the_end_of_the_lease(objects):
    held(objects)
    objects.later(40)
    with pytest.raises(UserError) as refused:
        held(objects, "b")
    assert str(refused.value) == (
        f"s3://bucket/run: in use by process {os.getpid()} on {socket.gethostname()}; its lease ends in 60 s, at "
        "2001-01-01 00:01:40 UTC, unless that process renews it")
    assert len(objects.objects) == 1


def test_a_released_lease_is_gone(objects):
    held(objects).release()
    assert objects.objects == {}
    held(objects, "b")


def test_a_lease_that_is_renewed_lives_on_and_one_that_is_not_ends(objects):
    first = held(objects)
    for _ in range(5):
        objects.later(99)
        first.renew()
        with pytest.raises(UserError, match="in use by"):
            held(objects, "b")
    objects.later(99)
    with pytest.raises(UserError, match="ends in 1 s"):
        held(objects, "b")
    objects.later(1)
    held(objects, "b").renew()
    assert [note.machine for note in notes(objects)] == ["b"]


@pytest.mark.parametrize("begun", [0, .1, .5, .9])
def test_no_lease_ends_early_at_a_store_whose_dates_have_whole_seconds(objects, begun):
    write = objects.write

    def rounded(name, content):
        found = write(name, content)
        objects.dates[name] = objects.now.replace(microsecond=0)
        return found

    objects.write = rounded
    objects.later(begun)
    held(objects)
    objects.later(98.99)
    with pytest.raises(UserError, match="in use by"):
        held(objects, "b")
    objects.later(2)
    held(objects, "b")


def test_the_time_that_a_lease_lasts_is_its_own_and_not_that_of_who_wants_it(objects, monkeypatch):
    held(objects)
    objects.later(50)
    monkeypatch.setenv("KDBENCH_LEASE_SECONDS", "1")
    with pytest.raises(UserError, match="ends in 50 s"):
        held(objects, "b")


def test_a_command_that_slept_too_long_finds_that_its_lease_is_lost_and_lets_the_other_one_go_on(objects):
    first = held(objects)
    objects.later(100)
    second = held(objects, "b")
    with pytest.raises(LostLease, match=f"process {os.getpid()} on .* took the folder over"):
        first.renew()
    second.renew()
    assert [note.machine for note in notes(objects)] == ["b"]


@pytest.mark.skipif(not hasattr(leases.time, "CLOCK_BOOTTIME"), reason="a clock of Linux")
def test_a_command_knows_that_its_lease_ran_out_as_soon_as_its_machine_wakes_up(objects, monkeypatch):
    first = held(objects)
    first.need_alive()
    read = leases.time.clock_gettime
    monkeypatch.setattr(leases.time, "clock_gettime",  # as after sleep; no other clock goes on in it
                        lambda clock: read(clock) + 100 * (clock == leases.time.CLOCK_BOOTTIME))
    with pytest.raises(StoreError, match="the lease of this command ran out"):
        first.need_alive()
    first.ensure()
    first.need_alive()


def test_a_command_that_found_its_lease_lost_has_it_at_no_later_look(objects):
    first = held(objects)
    objects.later(100)
    held(objects, "b")
    with pytest.raises(LostLease):
        first.renew()
    with pytest.raises(StoreError):
        first.need_alive()
    with pytest.raises(LostLease):
        first.ensure()


def test_a_renewal_counts_once_the_command_has_looked_for_others(objects, monkeypatch):
    def away():
        raise StoreError("the store fails", passing=True)

    clock = [0.0]
    monkeypatch.setattr(leases, "_clock", lambda: clock[0])
    first = held(objects)
    clock[0] = 50
    objects.turn = iter_after(3, away, objects)  # at the second listing, when the lease was written
    with pytest.raises(StoreError):
        first.renew()
    clock[0] = 120
    with pytest.raises(StoreError, match="ran out"):
        first.need_alive()
    first.renew()
    first.need_alive()


def test_a_lease_is_lost_too_if_the_other_one_is_done_already(objects):
    first = held(objects)
    objects.later(100)
    held(objects, "b").release()
    with pytest.raises(LostLease, match="another one took the folder over"):
        first.renew()
    assert objects.objects == {}


def test_a_lease_written_by_a_command_that_just_lost_it_does_not_disturb_the_other_one(objects):
    """The first command listed its lease before it was taken over, and writes it after."""
    first = held(objects)
    (name,) = objects.objects
    content = objects.objects[name]
    objects.later(100)
    second = held(objects, "b")
    objects.write(name, content)
    second.renew()
    with pytest.raises(LostLease):
        first.renew()
    second.renew()


def test_of_two_leases_of_one_number_one_is_lost(objects):
    first, second = held(objects), Lease(objects, "b")
    second._note = msgspec.structs.replace(first._note, machine="b")
    second._write()
    lost = []
    for lease in (first, second, first, second):
        try:
            if lease not in lost:
                lease.renew()
        except LostLease:
            lost.append(lease)
    assert len(lost) == 1 and len(objects.objects) == 1


def test_who_only_asks_disturbs_nobody(objects):
    first = held(objects)
    objects.turn = iter_after(6, first.renew, objects)
    with pytest.raises(UserError, match="in use by"):
        held(objects, "b")
    first.renew()


def iter_after(count, action, objects):
    """A turn that does something else before the operation of that number."""
    left = [count]

    def turn():
        left[0] -= 1
        if left[0] == 0:
            objects.turn = lambda: None
            action()
    return turn


def test_a_dead_command_of_the_same_mirror_is_not_waited_for(objects):
    held(objects, "a")
    held(objects, "a").renew()
    assert len(objects.objects) == 1


def test_a_mirror_of_the_same_name_on_another_machine_is_another_one(objects, monkeypatch):
    held(objects, "a")
    monkeypatch.setattr(leases.socket, "gethostname", lambda: "elsewhere")
    with pytest.raises(UserError, match="in use by"):
        held(objects, "a")


def test_a_lease_that_cannot_be_read_runs_out_like_any_other(objects):
    objects.write(f"{FOLDER}/x.json", b"{")
    with pytest.raises(UserError, match="in use by process 0 on an unknown machine"):
        held(objects)
    objects.later(leases.SECONDS + 1)
    held(objects)
    assert len(objects.objects) == 1


@pytest.mark.parametrize("dead", [False, True], ids=["free", "left by a dead command"])
def test_of_commands_that_ask_at_the_same_time_never_two_get_it(objects, monkeypatch, dead):
    """Their operations take turns, drawn anew each time."""
    winners = 0
    for seed in range(150):
        objects.objects.clear()
        if dead:
            held(objects, "dead")
            objects.later(100)
        monkeypatch.setattr(leases.time, "sleep", lambda seconds: None)
        got = together(objects, [Lease(objects, machine) for machine in "abc"], random.Random(seed))
        assert len(got) <= 1
        assert [note.machine for note in notes(objects) if note.held] == got
        winners += len(got)
    assert winners > 50


def test_of_commands_that_sleep_for_too_long_at_any_time_one_at_most_has_it_in_the_end(objects, monkeypatch):
    for seed in range(150):
        objects.objects.clear()
        chance, wanted = random.Random(seed), [Lease(objects, machine) for machine in "abc"]
        got = together(objects, wanted, chance, sleeps=.1)
        having = [lease for lease in wanted if lease._note.machine in got]
        for lease in (*having, *having):
            try:
                lease.renew()
            except LostLease:
                having.remove(lease) if lease in having else None
        assert len(having) <= 1
        assert [note.machine for note in notes(objects) if note.held] == [lease._note.machine for lease in having]


def together(objects, wanted, chance, sleeps=0.0):
    """Let all acquire in threads of their own, one operation at a time in a drawn order; the machines that got it. With
    the probability `sleeps` all leases run out before an operation."""
    baton, got, waiting, alive = threading.Condition(), [], set(), set(range(len(wanted)))
    allowed = [None]
    number = threading.local()

    def choose():
        if allowed[0] is None and alive and waiting == alive:
            allowed[0] = chance.choice(sorted(waiting))
            baton.notify_all()

    def turn():
        with baton:
            waiting.add(number.own)
            choose()
            baton.wait_for(lambda: allowed[0] == number.own)
            waiting.remove(number.own)
            allowed[0] = None
            if chance.random() < sleeps:
                objects.later(100)

    def ask(own):
        number.own = own
        try:
            wanted[own].acquire()
            got.append(wanted[own]._note.machine)
        except UserError:
            pass
        with baton:
            alive.remove(own)
            choose()

    objects.turn = turn
    threads = [threading.Thread(target=ask, args=(own,), daemon=True) for own in range(len(wanted))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    objects.turn = lambda: None
    assert not alive
    return got


@pytest.mark.parametrize("text", ["x", "0", "-1", "nan", "inf", "1e9"])
def test_a_time_that_is_none_is_refused(text):
    with pytest.raises(UserError, match=f"KDBENCH_LEASE_SECONDS={text}: expected seconds from 1 to 86400"):
        lease_seconds({"KDBENCH_LEASE_SECONDS": text})
