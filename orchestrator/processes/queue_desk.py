"""The operators' desk: what the control socket asks about the queue is answered by the orchestrator's own loop.

The socket has a thread of its own; queue and schedule belong to the loop.  So a request waits in line until the loop
takes it, and the thread waits for its answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from orchestrator import runtime
from orchestrator.events.status import QueueStatus, pair_name
from orchestrator.scheduling.entries import Entry, HistoryLine, Work, in_words
from orchestrator.scheduling.queue_store import Forgotten
from orchestrator.scheduling.ring_queue import KEPT, RingQueue
from orchestrator.scheduling.ring_schedule import RingSchedule
from orchestrator.scheduling.scheduler import Pair
from orchestrator.scheduling.suspending import Suspensions
from orchestrator.scheduling.turns import Turns
from orchestrator.wire.control_socket import Done, Reply
from orchestrator.wire.queue_control import (
    AbortEntry,
    AddEntry,
    HistoryRow,
    HistoryShown,
    HoldQueue,
    MoveEntry,
    QueueRequest,
    QueueRow,
    QueueShown,
    ResumeQueue,
    ShowHistory,
    ShowQueue,
)

ANSWER_PATIENCE_S = 5.0


class QueueDesk:
    """Answers for one orchestrator.  ``why_away`` says why a pair cannot be served, empty if it can."""

    def __init__(
        self,
        queue: RingQueue,
        turns: Turns,
        schedule: RingSchedule,
        suspensions: Suspensions,
        why_away: Callable[[Pair], str],
        clock: Callable[[], float],
    ) -> None:
        self._queue, self._turns, self._schedule, self._suspensions = queue, turns, schedule, suspensions
        self._why_away = why_away
        self._clock = clock
        self._asked: runtime.Queue[tuple[QueueRequest, runtime.Future[Reply]]] = runtime.queue()

    def ask(self, request: QueueRequest) -> Reply:
        """Called by the socket's thread; raises what the loop raises, TimeoutError if it stands still."""
        answer: runtime.Future[Reply] = runtime.future()
        self._asked.put((request, answer))
        try:
            return answer.result(ANSWER_PATIENCE_S)
        except TimeoutError:
            raise TimeoutError(
                f"the orchestrator did not come to it within {ANSWER_PATIENCE_S:g} s; look at the queue before you ask again"
            ) from None

    def serve(self) -> None:
        """Called by the loop: answer everybody who waits."""
        while not self._asked.empty():
            request, answer = self._asked.get()
            try:
                answer.set_result(self._answer(request))
            except Exception as error:  # noqa: BLE001 - whoever asked is told, or finds it in the log
                answer.set_exception(error)

    def _answer(self, request: QueueRequest) -> Reply:
        queue = self._queue
        match request:
            case AddEntry():
                work = Work(
                    request.kind,
                    request.who,
                    request.pairs,
                    request.bits,
                    request.until_stock,
                    request.steps,
                    request.note,
                )
                entry = queue.add(work, priority=request.priority, due_in_s=request.due_in_s)
                return self._shown([entry])
            case ShowQueue(closed):
                return self._shown([*queue.entries, *queue.closed(closed)])
            case HoldQueue(who, number):
                running = [entry.number for entry in queue.entries if entry.state == "running"]
                queue.hold(who, number)
                return Done(f"{_named(number)} held{_what_follows(number, running)}")
            case ResumeQueue(who, pair=pair, since=since) if pair is not None:
                self._suspensions.resume(who, pair, since)
                self._schedule.again_at_once(pair)
                return Done(f"{pair_name(pair)} makes key again")
            case ResumeQueue(who, number):
                queue.resume(who, number)
                return Done(f"{_named(number)} resumed")
            case AbortEntry(who, number, take_over):
                lit = any(entry.number == number and entry.state == "running" for entry in queue.entries)
                entry = queue.abort(who, number, take_over=take_over)
                made = f"; {sum(entry.made):,} bits that it made stay in stock" if any(entry.made) else ""
                ends = "; its light ends at once" if lit and entry.state == "aborted" else ""
                return Done(f"entry {number} is {entry.state}: {in_words(entry.work)}{ends}{made}")
            case MoveEntry(who, number):
                queue.move(
                    who,
                    number,
                    before=request.before,
                    priority=request.priority,
                    due_in_s=request.due_in_s,
                )
                return self._shown(queue.entries)
            case ShowHistory(number, limit):
                lines = queue.history(number, limit)
                return history_shown(lines, queue.forgotten())

    def status(self) -> QueueStatus:
        """For whoever follows the ring."""
        entries = self._queue.entries
        states = [entry.state for entry in entries]
        running = next((entry.number for entry in entries if entry.state == "running"), None)
        return QueueStatus(states.count("waiting"), states.count("held"), running, self._queue.resting)

    # -- what is shown -------------------------------------------------------------------------------

    def _shown(self, entries: list[Entry]) -> QueueShown:
        now_s = self._clock()
        times = self._turns.times_s(now_s)
        hold = self._queue.held_by
        rows = [self._row(entry, times.get(entry.number), now_s) for entry in entries]
        return QueueShown(hold.who if hold else "", hold.at if hold else None, rows)

    def _row(self, entry: Entry, times: tuple[float | None, float | None] | None, now_s: float) -> QueueRow:
        work = entry.work
        due_s = self._queue.due_s(entry.number)
        made = list(entry.made)
        if work.until_stock and entry.is_open:
            made = [min(self._schedule.known_stock(pair) or 0, work.bits) for pair in work.pairs]
        durations = {step: self._queue.duration(step) for step in entry.steps_left if entry.is_open}
        ring_s, ready_s = times if times is not None else (None, None)
        return QueueRow(
            entry.number,
            work.kind,
            in_words(work),
            work.owner,
            work.note,
            entry.state,
            self._why(entry, waits=times is None),
            entry.priority,
            None if due_s is None else due_s - now_s,
            sum(made),
            work.bits * len(work.pairs),
            ring_s if ring_s != float("inf") else None,
            ready_s if ready_s != float("inf") else None,
            entry.added_at,
            entry.began_at,
            entry.ended_at,
            work.steps,
            entry.steps_done,
            tuple(step for step, known in durations.items() if known is None),
            min((known.at for known in durations.values() if known is not None), default=None),
            pairs=work.pairs,
        )

    def _why(self, entry: Entry, *, waits: bool) -> str:
        """Why an entry waits, as far as it is known."""
        if entry.state != "waiting":
            return entry.reason
        if rests := self._queue.resting:
            return f"the ring rests: {rests}"
        away = [
            f"{pair_name(pair)}: {why}" for pair in entry.work.pairs if (why := self._why_not(entry, pair))
        ]
        if away and len(away) == len(entry.work.pairs):
            return "; ".join(away)[:400]
        if any(self._queue.in_work(entry.number, pair) for pair in entry.work.pairs) and waits:
            return "its block is in work"
        return entry.reason

    def _why_not(self, entry: Entry, pair: Pair) -> str:
        """A suspended pair can be calibrated."""
        makes_key = entry.work.kind != "calibration"
        return self._why_away(pair) or (self._suspensions.why(pair) if makes_key else "")


def history_shown(lines: Sequence[HistoryLine], forgotten: Forgotten) -> HistoryShown:
    """What happened, and what is kept of it."""
    rows = [HistoryRow(line.at, line.entry, line.who, line.what) for line in lines]
    return HistoryShown(rows, KEPT, forgotten.lines, forgotten.entries, forgotten.until)


def _what_follows(held: int | None, running: list[int]) -> str:
    """What a hold means for what is lit at the moment."""
    if held is None:
        return "; what is lit is finished, then the bench is made safe"
    if held in running:
        return "; its block that is lit is finished, then others have the ring"
    return "; nothing of it is lit"


def _named(number: int | None) -> str:
    return "the queue is" if number is None else f"entry {number} is"
