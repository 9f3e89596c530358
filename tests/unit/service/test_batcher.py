"""Protects the batcher's contract, sentence by sentence: triggers, places, dropping, failure, shutdown, counters."""

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from anykey.encoder.item import Item
from anykey.encoder.protocol import Role
from anykey.service.embedding.batcher import Batcher, Encoded, Lane, LaterItems
from anykey.service.errors import DeadlineExceededError, InternalError, NotReadyError, OverloadedError
from tests.fakes import FakeEncoder
from tests.service_inputs import png
from tests.serving import WAIT_S, GatedEncoder

FOREVER = float("inf")


@pytest.fixture
def encoder() -> Iterator[GatedEncoder]:
    encoder = GatedEncoder()
    yield encoder
    encoder.gate.set()


@pytest.fixture
def make_batcher(encoder: GatedEncoder) -> Iterator[Any]:
    with ExitStack() as stack:

        def make(**values: Any) -> Batcher[Any]:
            settings = {
                "max_batch_items": 8,
                "max_batch_tokens": 1000,
                "max_wait_s": 0.0,
                "max_queue_items": 64,
                **values,
            }
            batcher: Batcher[Any] = Batcher(encoder, **settings)
            stack.callback(batcher.close, WAIT_S)
            stack.callback(encoder.gate.set)
            return batcher

        yield make


def submit(batcher: Batcher[Any], text: str, deadline_s: float = FOREVER) -> Future[Encoded]:
    with batcher.reserve() as place:
        return place.submit(GatedEncoder().prepare(Item(text=text), Role.QUERY), deadline_s)


def block(batcher: Batcher[Any], encoder: GatedEncoder) -> Future[Encoded]:
    """Occupies the worker with one item until the gate is set."""
    encoder.gate.clear()
    future = submit(batcher, "blocker")
    encoder.wait_until_entered()
    return future


def test_a_single_item_comes_out_as_the_encoder_makes_it(make_batcher: Any, encoder: GatedEncoder) -> None:
    encoded = submit(make_batcher(), "red circle").result(WAIT_S)
    np.testing.assert_array_equal(encoded.vector_D, GatedEncoder().encode([Item(text="red circle")])[0])
    assert encoded.batch_items == 1


def test_items_that_waited_while_a_batch_computed_leave_together(make_batcher: Any, encoder: GatedEncoder) -> None:
    batcher = make_batcher()
    blocker = block(batcher, encoder)
    futures = [submit(batcher, f"text {n}") for n in range(5)]
    encoder.gate.set()
    assert [future.result(WAIT_S).batch_items for future in futures] == [5] * 5
    assert blocker.result(WAIT_S).batch_items == 1
    assert encoder.batches == [1, 5]


def test_a_full_batch_leaves_without_waiting_for_the_clock(make_batcher: Any, encoder: GatedEncoder) -> None:
    batcher = make_batcher(max_batch_items=3, max_wait_s=1000.0)  # waiting for the time would hang this test
    with batcher.reserve():  # of one that is never done
        futures = [submit(batcher, f"text {n}") for n in range(3)]
        assert [future.result(WAIT_S).batch_items for future in futures] == [3, 3, 3]


def test_an_item_that_comes_alone_does_not_wait(make_batcher: Any) -> None:
    batcher = make_batcher(max_batch_items=1000, max_wait_s=1000.0)  # waiting would hang this test
    assert submit(batcher, "alone").result(WAIT_S).batch_items == 1


def test_an_item_waits_for_those_that_are_being_decoded(make_batcher: Any) -> None:
    batcher = make_batcher(max_wait_s=1000.0)
    with batcher.reserve() as first, batcher.reserve() as second, batcher.reserve():
        futures = [
            place.submit(GatedEncoder().prepare(Item(text="text"), Role.QUERY), FOREVER) for place in (first, second)
        ]
        with pytest.raises(TimeoutError):
            futures[0].result(0.05)
    assert [future.result(WAIT_S).batch_items for future in futures] == [2, 2], "the third place was given up"


def test_no_batch_is_larger_than_its_cap(make_batcher: Any, encoder: GatedEncoder) -> None:
    batcher = make_batcher(max_batch_items=4)
    block(batcher, encoder)
    futures = [submit(batcher, f"text {n}") for n in range(10)]
    encoder.gate.set()
    for future in futures:
        future.result(WAIT_S)
    assert encoder.batches == [1, 4, 4, 2]


def test_no_batch_has_more_tokens_than_its_cap_but_one_of_a_single_item(
    make_batcher: Any, encoder: GatedEncoder
) -> None:
    batcher = make_batcher(max_batch_tokens=6)
    block(batcher, encoder)
    texts = ["two words", "two words", "two words", "two words", "a text of more than six words", "one", "one"]
    futures = [submit(batcher, text) for text in texts]
    encoder.gate.set()
    assert [future.result(WAIT_S).batch_items for future in futures] == [3, 3, 3, 1, 1, 2, 2]


def test_a_batch_leaves_without_waiting_where_the_next_item_does_not_fit(
    make_batcher: Any, encoder: GatedEncoder
) -> None:
    batcher = make_batcher(max_batch_tokens=3, max_wait_s=1000.0)  # waiting for the time would hang this test
    with batcher.reserve():  # of one that is never done
        first = [submit(batcher, "one"), submit(batcher, "two words")]
        submit(batcher, "next")
        assert [future.result(WAIT_S).batch_items for future in first] == [2, 2]


def test_the_oldest_item_waits_no_longer_than_the_longest_wait(make_batcher: Any, encoder: GatedEncoder) -> None:
    batcher = make_batcher(max_batch_items=1000, max_wait_s=0.01)
    with batcher.reserve():  # of one that takes long
        encoded = submit(batcher, "alone").result(WAIT_S)
    assert encoded.batch_items == 1
    assert 0.01 <= encoded.queue_s < WAIT_S


def test_each_item_keeps_its_own_text_weight_in_a_shared_batch(make_batcher: Any, encoder: GatedEncoder) -> None:
    batcher = make_batcher()
    block(batcher, encoder)
    image = png((250, 10, 10))
    item = Item(text="red circle", images=(image,))
    futures = []
    for weight in (0.0, 0.3, 1.0):
        with batcher.reserve() as place:
            futures.append(place.submit(encoder.prepare(item, Role.QUERY, weight), FOREVER))
    encoder.gate.set()
    for weight, future in zip((0.0, 0.3, 1.0), futures, strict=True):
        np.testing.assert_allclose(future.result(WAIT_S).vector_D, GatedEncoder().encode([item], weight)[0], rtol=1e-6)
    assert encoder.batches == [1, 3]


def test_a_full_queue_rejects_at_once(make_batcher: Any, encoder: GatedEncoder) -> None:
    batcher = make_batcher(max_queue_items=2)
    block(batcher, encoder)
    waiting = [submit(batcher, "one"), submit(batcher, "two")]
    with pytest.raises(OverloadedError):
        batcher.reserve()
    assert batcher.counters()["rejected"] == 1
    encoder.gate.set()
    assert all(future.result(WAIT_S) for future in waiting)


def test_a_place_counts_from_before_the_decoding(make_batcher: Any) -> None:
    batcher = make_batcher(max_queue_items=1)
    with batcher.reserve(), pytest.raises(OverloadedError):
        batcher.reserve()


def test_a_place_left_unused_is_given_back(make_batcher: Any) -> None:
    batcher = make_batcher(max_queue_items=1)
    with pytest.raises(ZeroDivisionError), batcher.reserve():
        raise ZeroDivisionError  # the decoding failed
    submit(batcher, "next").result(WAIT_S)
    assert batcher.counters()["places_taken"] == 0


def test_the_batch_that_computes_holds_no_place(make_batcher: Any, encoder: GatedEncoder) -> None:
    batcher = make_batcher(max_queue_items=1)
    block(batcher, encoder)
    submit(batcher, "takes the only place")
    assert batcher.counters()["places_taken"] == 1


def test_cancelled_items_are_dropped_and_counted_when_the_batch_is_formed(
    make_batcher: Any, encoder: GatedEncoder
) -> None:
    batcher = make_batcher()
    block(batcher, encoder)
    futures = [submit(batcher, f"text {n}") for n in range(3)]
    assert futures[1].cancel()
    encoder.gate.set()
    assert futures[0].result(WAIT_S).batch_items == 2
    assert futures[2].result(WAIT_S).batch_items == 2
    assert encoder.batches == [1, 2]
    assert batcher.counters()["dropped"] == 1


def test_a_batch_of_cancelled_items_never_reaches_the_encoder(make_batcher: Any, encoder: GatedEncoder) -> None:
    batcher = make_batcher()
    block(batcher, encoder)
    submit(batcher, "gone").cancel()
    encoder.gate.set()
    batcher.close(WAIT_S)
    assert encoder.batches == [1]


def test_items_past_their_deadline_are_not_encoded(make_batcher: Any, encoder: GatedEncoder) -> None:
    now_s = [0.0]
    batcher = make_batcher(clock=lambda: now_s[0])
    block(batcher, encoder)
    late, in_time = submit(batcher, "late", deadline_s=5.0), submit(batcher, "in time", deadline_s=50.0)
    now_s[0] = 10.0
    encoder.gate.set()
    assert in_time.result(WAIT_S).batch_items == 1
    with pytest.raises(DeadlineExceededError):
        late.result(WAIT_S)
    assert batcher.counters()["expired"] == 1


def test_a_failing_batch_fails_every_item_in_it_and_the_worker_lives_on(
    make_batcher: Any, encoder: GatedEncoder
) -> None:
    batcher = make_batcher()
    encoder.failures = [None, *[RuntimeError("out of device memory")] * 5]  # of the batch, its halves, and theirs
    block(batcher, encoder)
    futures = [submit(batcher, f"text {n}") for n in range(3)]
    encoder.gate.set()
    errors = [future.exception(WAIT_S) for future in futures]
    assert all(isinstance(error, InternalError) for error in errors)
    assert len({id(error) for error in errors}) == 3, "each future needs an error of its own"
    assert all(isinstance(error.__cause__, RuntimeError) for error in errors if error)
    assert batcher.counters()["failed"] == 3
    assert batcher.is_alive
    assert submit(batcher, "after").result(WAIT_S).batch_items == 1


def test_an_item_that_came_alone_is_tried_once_more(make_batcher: Any, encoder: GatedEncoder) -> None:
    batcher = make_batcher()
    encoder.failures = [RuntimeError("the device was away for a moment")]
    np.testing.assert_array_equal(
        submit(batcher, "alone").result(WAIT_S).vector_D, FakeEncoder().encode([Item(text="alone")])[0]
    )
    assert (batcher.counters()["batches"], batcher.counters()["failed"]) == (2, 0)


def test_an_item_that_the_encoder_fails_on_fails_alone(make_batcher: Any, encoder: GatedEncoder) -> None:
    batcher = make_batcher()
    encoder.gate.clear()
    blocked = submit(batcher, "the first")
    encoder.wait_until_entered()
    futures = [submit(batcher, "poison" if n == 2 else f"text {n}") for n in range(5)]
    encode, poison = encoder.encode_prepared, encoder.prepare(Item(text="poison"), Role.QUERY).text_D

    def fail_on_poison(prepared: Any) -> Any:
        if any(np.array_equal(one.text_D, poison) for one in prepared):
            raise ZeroDivisionError("a bug of ours")
        return encode(prepared)

    encoder.encode_prepared = fail_on_poison  # type: ignore[method-assign]
    encoder.gate.set()
    assert blocked.result(WAIT_S)
    for number, future in enumerate(futures):
        if number == 2:
            assert isinstance(future.exception(WAIT_S), InternalError)
        else:
            expected = FakeEncoder().encode([Item(text=f"text {number}")])[0]
            np.testing.assert_array_equal(future.result(WAIT_S).vector_D, expected)
    assert (batcher.counters()["encoded"], batcher.counters()["failed"]) == (5, 1)


def test_what_is_late_is_not_tried_again_after_a_failure(make_batcher: Any, encoder: GatedEncoder) -> None:
    now_s = [0.0]
    batcher = make_batcher(clock=lambda: now_s[0])
    block(batcher, encoder)
    late, in_time = submit(batcher, "late", deadline_s=5.0), submit(batcher, "in time", deadline_s=50.0)
    encoder.failures = [None, RuntimeError("out of device memory")]
    encode = encoder.encode_prepared

    def take_long(prepared: Any) -> Any:
        now_s[0] += 6.0 if len(prepared) == 2 else 0.0
        return encode(prepared)

    encoder.encode_prepared = take_long  # type: ignore[method-assign]
    encoder.gate.set()
    assert in_time.result(WAIT_S).batch_items == 1
    assert isinstance(late.exception(WAIT_S), DeadlineExceededError)
    assert batcher.counters()["expired"] == 1


@pytest.mark.parametrize(
    "wrong", [np.zeros((2, 8)), np.zeros((1, 7)), np.full((1, 8), np.nan)], ids=["rows", "width", "nan"]
)
def test_an_encoder_that_answers_nonsense_is_a_failing_batch(wrong: Any) -> None:
    class Nonsense(FakeEncoder):
        def encode_prepared(self, prepared: Any) -> Any:
            return wrong

    batcher: Batcher[Any] = Batcher(Nonsense(), max_batch_items=1, max_batch_tokens=99, max_wait_s=0, max_queue_items=9)
    assert isinstance(submit(batcher, "text").exception(WAIT_S), InternalError)
    batcher.close(WAIT_S)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_dies_is_seen_and_leaves_nobody_waiting(make_batcher: Any, encoder: GatedEncoder) -> None:
    batcher = make_batcher(max_batch_items=1)
    encoder.failures = [SystemExit()]
    first = block(batcher, encoder)
    behind = submit(batcher, "behind")
    encoder.gate.set()
    for future in (first, behind):
        assert isinstance(future.exception(WAIT_S), NotReadyError)
    assert not batcher.is_alive
    with pytest.raises(NotReadyError):
        batcher.reserve()


def test_closing_encodes_what_is_queued(make_batcher: Any, encoder: GatedEncoder) -> None:
    batcher = make_batcher(max_wait_s=1000.0)  # close must not sit out the waiting time
    with batcher.reserve():  # of one that is never done
        futures = [submit(batcher, f"text {n}") for n in range(5)]
        batcher.close(WAIT_S)
    assert all(future.done() and future.exception() is None for future in futures)
    assert batcher.counters()["encoded"] == 5


def test_closing_answers_what_it_cannot_drain_in_time(make_batcher: Any, encoder: GatedEncoder) -> None:
    batcher = make_batcher()
    computing = block(batcher, encoder)
    queued = submit(batcher, "queued")
    batcher.close(drain_s=0.0)
    for future in (computing, queued):
        assert isinstance(future.exception(WAIT_S), NotReadyError)
    assert batcher.counters()["abandoned"] == 2
    encoder.gate.set()  # the worker comes back to a batch that was answered for it


def test_a_closed_batcher_takes_nothing(make_batcher: Any) -> None:
    batcher = make_batcher()
    place = batcher.reserve()
    batcher.close(WAIT_S)
    batcher.close(WAIT_S)
    with pytest.raises(NotReadyError), place:
        place.submit(GatedEncoder().prepare(Item(text="late"), Role.QUERY), FOREVER)
    with pytest.raises(NotReadyError):
        batcher.reserve()
    assert batcher.counters()["places_taken"] == 0


def test_many_threads_lose_nothing(make_batcher: Any, encoder: GatedEncoder) -> None:
    batcher = make_batcher(max_batch_items=7, max_queue_items=1000)
    results: dict[int, Encoded] = {}

    def client(first: int) -> None:
        for n in range(first, first + 25):
            results[n] = submit(batcher, "a" * (n % 5 + 1)).result(WAIT_S)

    threads = [threading.Thread(target=client, args=(25 * i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert len(results) == 200
    for n, encoded in results.items():
        assert encoded.vector_D[3 + (n % 5 + 1) % 5] == 1.0, "an item got its neighbour's vector"
    counters = batcher.counters()
    assert (counters["encoded"], counters["places_taken"]) == (200, 0)
    assert max(encoder.batches) <= 7


def submit_later(batcher: Batcher[Any], text: str) -> Future[Encoded]:
    with batcher.reserve(Lane.LATER) as place:
        return place.submit(GatedEncoder().prepare(Item(text=text), Role.KEY), FOREVER)


def order_of(batcher: Batcher[Any], encoder: GatedEncoder, futures: dict[str, Future[Encoded]]) -> list[str]:
    """Lets one batch after the other go; gives the names in the order in which their batches ended."""
    order: list[str] = []
    for name, future in futures.items():
        future.add_done_callback(lambda _, name=name: order.append(name))
    encoder.gate.set()
    for future in futures.values():
        future.result(WAIT_S)
    return order


def test_items_of_later_stand_back_behind_those_of_now(make_batcher: Any, encoder: GatedEncoder) -> None:
    batcher = make_batcher(max_batch_items=2, later=LaterItems(64, 2, max_wait_s=1000.0))
    block(batcher, encoder)
    later = {f"later {n}": submit_later(batcher, f"key {n}") for n in range(3)}
    now = {f"now {n}": submit(batcher, f"query {n}") for n in range(5)}
    order = order_of(batcher, encoder, later | now)
    assert [name.split()[0] for name in order] == ["now"] * 5 + ["later"] * 3
    assert encoder.batches == [1, 2, 2, 1, 2, 1]  # and none holds items of both


def test_items_of_later_get_on_though_those_of_now_never_end(make_batcher: Any, encoder: GatedEncoder) -> None:
    batcher = make_batcher(max_batch_items=2, later=LaterItems(64, 1, max_wait_s=0.0))
    block(batcher, encoder)
    later = {f"later {n}": submit_later(batcher, f"key {n}") for n in range(2)}
    now = {f"now {n}": submit(batcher, f"query {n}") for n in range(4)}
    order = order_of(batcher, encoder, later | now)
    assert order[0] == "later 0"
    assert encoder.batches[:2] == [1, 1]


def test_a_batch_of_later_is_small_while_items_of_now_come(make_batcher: Any, encoder: GatedEncoder) -> None:
    rule = LaterItems(64, 3, max_wait_s=1000.0, quiet_s=1000.0)
    batcher = make_batcher(later=rule)
    block(batcher, encoder)
    futures = [submit_later(batcher, f"key {n}") for n in range(7)]
    encoder.gate.set()
    assert [future.result(WAIT_S).batch_items for future in futures] == [3, 3, 3, 3, 3, 3, 1]


def test_a_batch_of_later_is_as_large_as_any_where_no_item_of_now_comes(
    make_batcher: Any, encoder: GatedEncoder
) -> None:
    batcher = make_batcher(max_wait_s=1000.0, later=LaterItems(64, 3, max_wait_s=1000.0))
    with batcher.reserve(Lane.LATER):  # of one that is never done
        futures = [submit_later(batcher, f"key {n}") for n in range(8)]
        assert [future.result(WAIT_S).batch_items for future in futures] == [8] * 8


def test_a_small_batch_of_later_has_its_share_of_the_tokens(make_batcher: Any, encoder: GatedEncoder) -> None:
    rule = LaterItems(64, 4, max_wait_s=1000.0, quiet_s=1000.0)
    batcher = make_batcher(max_batch_tokens=8, later=rule)
    block(batcher, encoder)
    futures = [submit_later(batcher, text) for text in ("two words", "two words", "one", "a text of many words", "one")]
    encoder.gate.set()
    assert [future.result(WAIT_S).batch_items for future in futures] == [2, 2, 1, 1, 1]


def test_the_lanes_have_places_of_their_own(make_batcher: Any, encoder: GatedEncoder) -> None:
    batcher = make_batcher(max_queue_items=1, later=LaterItems(2, 1, max_wait_s=1000.0))
    block(batcher, encoder)
    waiting = [submit_later(batcher, "one"), submit_later(batcher, "two")]
    with pytest.raises(OverloadedError):
        batcher.reserve(Lane.LATER)
    waiting.append(submit(batcher, "a search finds its place"))
    counted = batcher.counters()
    assert (counted["places_taken"], counted["later_places_taken"]) == (1, 2)
    encoder.gate.set()
    for future in waiting:
        future.result(WAIT_S)
    counted = batcher.counters()
    assert (counted["places_taken"], counted["later_places_taken"], counted["rejected"]) == (0, 0, 1)


def test_a_batcher_without_later_items_has_no_place_for_them(make_batcher: Any) -> None:
    with pytest.raises(OverloadedError):
        make_batcher().reserve(Lane.LATER)


def test_closing_answers_items_of_both_lanes(make_batcher: Any, encoder: GatedEncoder) -> None:
    batcher = make_batcher(later=LaterItems(64, 1, max_wait_s=1000.0))
    block(batcher, encoder)
    waiting = [submit_later(batcher, "key"), submit(batcher, "query")]
    batcher.close(0.0)
    for future in waiting:
        with pytest.raises(NotReadyError):
            future.result(WAIT_S)
    encoder.gate.set()


def test_what_is_queued_in_both_lanes_is_encoded_on_closing(make_batcher: Any, encoder: GatedEncoder) -> None:
    batcher = make_batcher(max_wait_s=1000.0, later=LaterItems(64, 1, max_wait_s=1000.0))
    with batcher.reserve(), batcher.reserve(Lane.LATER):  # of some that are never done
        waiting = [submit_later(batcher, "key"), submit(batcher, "query")]
        batcher.close(WAIT_S)
    assert all(future.result(0).batch_items == 1 for future in waiting)


class Timed(FakeEncoder):
    """An encoder that takes a second for each token, by a clock of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.extra_s = 0.0

    def encode_prepared(self, prepared: Any) -> Any:
        """Moves the clock on, and encodes."""
        self.now_s += sum(item.num_tokens for item in prepared) + self.extra_s
        return super().encode_prepared(prepared)


@pytest.fixture
def timed() -> Iterator[tuple[Timed, Batcher[Any]]]:
    """A batcher that has seen how long a token takes, though its first batch took longer."""
    encoder = Timed()
    batcher: Batcher[Any] = Batcher(
        encoder,
        max_batch_items=8,
        max_batch_tokens=100,
        max_wait_s=1e9,
        max_queue_items=64,
        clock=lambda: encoder.now_s,
        later=LaterItems(64, 1, max_wait_s=0.0),
    )
    encoder.extra_s = 1000.0
    for text in ("one", "two words", "one", "one", "two words"):
        submit(batcher, text).result(WAIT_S)
        encoder.extra_s = 0.0
    yield encoder, batcher
    batcher.close(WAIT_S)


def test_an_item_that_would_be_late_is_refused_though_there_are_places(timed: tuple[Timed, Batcher[Any]]) -> None:
    encoder, batcher = timed
    with batcher.reserve():  # of one that is being decoded, and takes a second and a half like those before
        futures = [submit(batcher, "a text of five words") for _ in range(2)]  # ten seconds
        # They take 11.5 s, and those that may yet join its batch, as much as four such: 6 s.
        with pytest.raises(OverloadedError, match=r"3 queries are waiting, and one more takes about 17\.5 s, too long"):
            batcher.reserve(deadline_s=encoder.now_s + 24.9)
        with pytest.raises(OverloadedError):
            batcher.require_room(encoder.now_s + 24.9)
        with batcher.reserve(deadline_s=encoder.now_s + 25.1):  # of which seven tenths are more
            batcher.require_room(encoder.now_s + 29.5)
        assert (batcher.counters()["hopeless"], batcher.counters()["rejected"]) == (2, 0)
        with batcher.reserve(Lane.LATER, deadline_s=encoder.now_s):
            pass  # who stands back has no turn that could be foretold
    for future in futures:
        assert future.result(WAIT_S).batch_items == 2


def test_a_batch_holds_no_more_than_is_done_in_half_of_what_who_waits_longest_has_left(
    timed: tuple[Timed, Batcher[Any]],
) -> None:
    encoder, batcher = timed
    with batcher.reserve():  # of one that is being decoded, so that the others wait
        first = submit(batcher, "two words", deadline_s=encoder.now_s + 11.0)  # half of it is five tokens
        others = [submit(batcher, "two words", deadline_s=encoder.now_s + 1000.0) for _ in range(3)]
    assert [future.result(WAIT_S).batch_items for future in (first, *others)] == [2, 2, 2, 2]


def test_where_nothing_waits_nothing_is_refused(timed: tuple[Timed, Batcher[Any]]) -> None:
    encoder, batcher = timed
    with batcher.reserve(deadline_s=encoder.now_s):
        pass


def test_before_anything_was_measured_nothing_is_refused(make_batcher: Any, encoder: GatedEncoder) -> None:
    batcher = make_batcher()
    block(batcher, encoder)
    submit(batcher, "waits")
    with batcher.reserve(deadline_s=0.0):
        pass


class Meeting(FakeEncoder):
    """An encoder whose first batch ends once another has begun."""

    def __init__(self) -> None:
        super().__init__()
        self._num_begun = itertools.count(1)
        self._both = threading.Event()

    def encode_prepared(self, prepared: Any) -> Any:
        """Waits for the other one, and encodes."""
        if next(self._num_begun) == 2:
            self._both.set()
        assert self._both.wait(WAIT_S), "no other batch began"
        return super().encode_prepared(prepared)


@pytest.fixture
def two_workers() -> Iterator[Any]:
    """Makes batchers of two workers over an encoder."""
    with ExitStack() as stack:

        def make(encoder: FakeEncoder, **values: Any) -> Batcher[Any]:
            settings = {"max_batch_items": 40, "max_batch_tokens": 1000, "max_wait_s": 1000.0, "max_queue_items": 64}
            batcher: Batcher[Any] = Batcher(encoder, num_workers=2, **(settings | values))
            stack.callback(batcher.close, WAIT_S)
            if isinstance(encoder, GatedEncoder):
                stack.callback(encoder.gate.set)
            return batcher

        yield make


def test_two_workers_share_what_waits(two_workers: Any) -> None:
    encoder = Meeting()
    batcher = two_workers(encoder)
    with ExitStack() as decoded:
        places = [decoded.enter_context(batcher.reserve()) for _ in range(24)]
        prepared = encoder.prepare(Item(text="text"), Role.QUERY)
        futures = [place.submit(prepared, FOREVER) for place in places]
    assert all(future.result(WAIT_S).vector_D.shape == (8,) for future in futures)
    assert sum(encoder.batches) == 24
    assert max(encoder.batches) <= 20  # half of what a batch may hold
    assert batcher.counters()["batches"] == len(encoder.batches) == sum(batcher.sizes.seconds.counts)


def test_few_items_are_not_shared_out(two_workers: Any, encoder: GatedEncoder) -> None:
    batcher = two_workers(encoder)
    with batcher.reserve():  # of one that is never done
        futures = [submit(batcher, f"text {n}") for n in range(7)]
    assert {future.result(WAIT_S).batch_items for future in futures} == {7}


def test_a_batch_that_is_too_small_to_be_shared_is_of_one_worker(two_workers: Any, encoder: GatedEncoder) -> None:
    batcher = two_workers(encoder, max_batch_items=15)
    first = block(batcher, encoder)
    futures = [submit(batcher, f"text {n}") for n in range(15)]
    encoder.gate.set()
    assert [future.result(WAIT_S).batch_items for future in [first, *futures]] == [1, *[15] * 15]


def test_keys_leave_the_other_worker_to_searches(two_workers: Any, encoder: GatedEncoder) -> None:
    batcher = two_workers(encoder, later=LaterItems(64, 1, max_wait_s=1000.0, quiet_s=1000.0))
    submit(batcher, "one").result(WAIT_S)  # since when it is not quiet
    encoder.wait_until_entered()
    encoder.gate.clear()
    futures = [submit_later(batcher, f"key {n}") for n in range(3)]
    encoder.wait_until_entered()
    futures.append(submit(batcher, "two"))
    encoder.wait_until_entered()  # beside a key
    assert batcher.counters()["later_queued"] == 2
    encoder.gate.set()
    assert all(future.result(WAIT_S).batch_items == 1 for future in futures)


def test_neither_keys_nor_few_searches_begin_beside_a_search(two_workers: Any, encoder: GatedEncoder) -> None:
    batcher = two_workers(encoder, later=LaterItems(64, 1, max_wait_s=1000.0, quiet_s=1000.0))
    futures = [block(batcher, encoder), submit_later(batcher, "key")]
    futures += [submit(batcher, f"query {n}") for n in range(7)]
    counted = batcher.counters()
    assert (counted["queued"], counted["later_queued"]) == (7, 1)
    futures.append(submit(batcher, "one more"))
    encoder.wait_until_entered()  # the eight
    assert batcher.counters()["later_queued"] == 1
    encoder.gate.set()
    assert [future.result(WAIT_S).batch_items for future in futures] == [1, 1, *[8] * 8]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_where_one_worker_dies_nobody_waits_for_the_other(two_workers: Any, encoder: GatedEncoder) -> None:
    batcher = two_workers(encoder)
    encoder.failures = [SystemExit()]
    futures = [block(batcher, encoder), submit(batcher, "beside it"), submit(batcher, "behind")]
    encoder.gate.set()
    answers = [future.exception(WAIT_S) for future in futures]
    assert any(isinstance(answer, NotReadyError) for answer in answers)
    assert not batcher.is_alive
    with pytest.raises(NotReadyError):
        batcher.reserve()
    batcher.close(WAIT_S)
