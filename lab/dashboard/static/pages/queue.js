// The queue as a time line with what an operator may do to it, who has the ring, and which pairs lack key.

import { ask } from "/static/act.js";
import { each, grid, h, row, say, tell } from "/static/dom.js";
import { ago, keyRate, lasting, pairName, quantity } from "/static/format.js";

const OPEN = ["running", "waiting", "held"];
const LEAST_S = 120;
const PAST_S = 1800;
const COLUMNS = ["entry", "what", "asked by", "state", "made", "may be ready", "actions"];

export function mount(root, store) {
  const now = h("p");
  const held = h("p", { class: "hint" });
  const all = h("p", { class: "buttons" },
    h("button", { type: "button", onclick: () => ask("queue-hold", "Hold the whole queue? The block that is lit is finished; then nothing begins until somebody resumes.", () => ({})) }, "Hold all"),
    h("button", { type: "button", onclick: () => ask("queue-resume", "Let the whole queue go on?", () => ({})) }, "Resume all"));
  const scale = h("p", { class: "note" });
  const timeline = h("ol", { class: "timeline" });
  const rows = h("tbody");
  const closed = h("tbody");
  const lacking = h("tbody");
  const none = h("p");
  root.replaceChildren(h("h1", {}, "Queue"), now, held, all, h("h2", {}, "Time line"), scale, timeline, none,
    grid("Entries", COLUMNS, rows),
    grid("Pairs whose key is short", ["pair", "wanted", "there", "on its way", "rate", "about", "why not served", "age"], lacking),
    grid("Entries that left the queue, newest first", ["entry", "what", "asked by", "state", "ended"], closed));

  const age = (at) => (at ? store.since(at) : Infinity);

  function update() {
    const queue = store.get("queue");
    const entries = queue?.entries ?? [];
    const open = entries.filter((entry) => OPEN.includes(entry.state));
    const left = entries.filter((entry) => !OPEN.includes(entry.state)).sort((a, b) => (b.ended_at ?? 0) - (a.ended_at ?? 0));
    const problem = store.get("problem/queue");
    say(now, told(store));
    say(held, [queue?.held_by ? `The whole queue is held by ${queue.held_by}${queue.held_at ? ` for ${ago(age(queue.held_at))}` : ""}.` : "",
      queue?.left_off ? `${queue.left_off} entries more are not shown (qunetlab queue list shows all).` : "",
      problem ? `The queue cannot be read: ${problem}` : ""].filter(Boolean).join(" "));
    say(none, queue ? (open.length ? "" : "Nothing is in the queue.") : "The queue of this ring is not known here: it is read from an orchestrator on this machine.");
    all.hidden = !queue;
    const span = window_of(open, left, age);
    say(scale, queue ? `From ${lasting(span.past)} ago to ${lasting(span.future)} ahead; read ${ago(store.age("queue"))} ago. Estimates are of the plans and of what was measured.` : "");
    each(timeline, [...left.filter((entry) => entry.began_at && age(entry.ended_at) < span.past).reverse(), ...open], ({ number }) => number,
      () => h("li", {}, h("span"), h("div", { class: "track" }, h("div", { class: "now" }), h("div", { class: "bar" }))), (item, entry) => draw(item, entry, span, age));
    each(rows, open, ({ number }) => number, (entry) => makeRow(entry, () => (store.get("queue")?.entries ?? []).filter(({ state }) => OPEN.includes(state))), tellRow);
    each(closed, left, ({ number }) => number, () => row(4), (one, entry) =>
      tell(one, [entry.number, entry.what, by(entry), state(entry), `${ago(age(entry.ended_at))} ago`]));
    each(lacking, store.items("PairStatus").filter(([, pair]) => pair.demand_bits > pair.stock_bits), ([, pair]) => pairName(pair.first, pair.second),
      () => row(7), tellShort);
  }
  return { update };
}

const by = ({ owner, note }) => (note ? `${owner}: ${note}` : owner);
const state = ({ state: word, reason }) => (reason ? `${word}: ${reason}` : word);

function told(store) {
  const [, ring, said] = store.items("RingStatus")[0] ?? [];
  const status = store.items("QueueStatus")[0]?.[1];
  const who = !ring ? "Where the ring stands is not known." : ring.phase === "free" ? `The ring is free for ${ago(ring.for_s + said)}` : `${pairName(ring.first, ring.second)} has the ring, lease ${ring.lease_number}, ${ring.phase} for ${ago(ring.for_s + said)}`;
  const entry = status?.running_entry ? `, for entry ${status.running_entry}` : "";
  return ring ? `${who}${entry}.${status?.rests ? ` The ring rests: ${status.rests}.` : ""}` : who;
}

// How far back and ahead the line shows.
function window_of(open, left, age) {
  const ahead = open.map((entry) => entry.ready_in_s ?? entry.ring_s ?? 0);
  const back = [...open.map((entry) => age(entry.began_at)), ...left.map((entry) => age(entry.began_at))].filter((each) => each < PAST_S);
  return { future: Math.max(LEAST_S, ...ahead), past: Math.max(LEAST_S, ...back) };
}

// From when it began, or from when it may have its turn, until it ended or may be ready; nothing ahead where no estimate is.
function draw(item, entry, { past, future }, age) {
  const [label, track] = item.children;
  const bar = track.lastChild;
  const place = (seconds) => (100 * (Math.min(future, Math.max(-past, seconds)) + past)) / (past + future);
  const from = entry.began_at ? -age(entry.began_at) : entry.ready_in_s !== null ? Math.max(0, entry.ready_in_s - (entry.ring_s ?? 0)) : 0;
  const to = entry.ended_at ? -age(entry.ended_at) : entry.ready_in_s ?? 0;
  say(label, `${entry.number}: ${entry.what} (${entry.state})`);
  track.firstChild.style.left = `${place(0)}%`;
  bar.style.left = `${place(from)}%`;
  bar.style.width = `${Math.max(0.5, place(to) - place(from))}%`;
  bar.dataset.state = entry.state;
}

function makeRow(entry, openEntries) {
  const { number } = entry;
  const button = (word, action) => h("button", { type: "button", "aria-label": `${word} entry ${number}`, onclick: action }, word);
  return h("tr", {}, h("th", { scope: "row" }), h("td"), h("td"), h("td"), h("td"), h("td"), h("td", { class: "buttons" },
    button("Hold", () => ask("queue-hold", `Hold entry ${number} (${entry.what})? A block that is lit for it is finished.`, () => ({ number }))),
    button("Resume", () => ask("queue-resume", `Let entry ${number} (${entry.what}) go on?`, () => ({ number }))),
    button("Abort", () => abort(entry)),
    button("Move", () => move(entry, openEntries()))));
}

function abort({ number, what, kind, owner }) {
  const over = h("input", { type: "checkbox" });
  const fields = kind === "maintenance" ? [h("p", {}, h("label", {}, over, ` take it over from ${owner}`))] : [];
  ask("queue-abort", `Take entry ${number} (${what}) out of the queue? A block that is lit for it ends at once and gives no key.`, () => ({ number, take_over: over.checked }), fields);
}

function move({ number, what, priority }, open) {
  const before = h("select", {}, h("option", { value: "" }, "its place"), open.filter((entry) => entry.number !== number).map((entry) => h("option", { value: entry.number }, `before ${entry.number}`)));
  const rank = h("input", { type: "number", min: -1000, max: 1000, value: priority });
  const due = h("input", { type: "number", min: 1, placeholder: "as it is" });
  const field = (label, input) => h("p", {}, h("label", {}, `${label} `, input));
  ask("queue-move", `Move entry ${number} (${what})`, () => ({ number, before: before.value ? Number(before.value) : null,
    priority: Number(rank.value) === priority ? null : Number(rank.value), due_in_s: due.value ? 60 * Number(due.value) : null }),
  [field("Place among equals:", before), field("Priority:", rank), field("Due in minutes:", due)]);
}

function tellRow(line, entry) {
  const made = entry.wanted_bits ? `${quantity(entry.made_bits, "bit")} of ${quantity(entry.wanted_bits, "bit")}` : entry.steps.length ? `${entry.steps_done} of ${entry.steps.length} steps` : "";
  const ready = [entry.ready_in_s === null ? "not known" : `in ${lasting(entry.ready_in_s)}`, entry.ring_s === null ? "" : `${lasting(entry.ring_s)} of ring`,
    entry.due_in_s === null ? "" : entry.due_in_s > 0 ? `due in ${lasting(entry.due_in_s)}` : `due ${lasting(-entry.due_in_s)} ago`,
    entry.unmeasured_steps.length ? `never measured: ${entry.unmeasured_steps.join(", ")}` : "", entry.priority ? `priority ${entry.priority}` : ""];
  tell(line, [entry.number, entry.what, by(entry), state(entry), made, ready.filter(Boolean).join("; ")]);
  const [hold, resume] = line.lastChild.children;
  hold.hidden = entry.state === "held";
  resume.hidden = entry.state !== "held";
}

function tellShort(line, [, pair, told]) {
  const lack = Math.max(0, pair.demand_bits - pair.stock_bits - pair.in_work_bits);
  const why = pair.available ? pair.fault : pair.reason;
  const about = !pair.available ? "not while it is not served" : lack === 0 ? "on its way" : pair.rate_bps > 0 ? `${lasting(lack / pair.rate_bps)} of ${pair.measured ? "ring" : "light"}` : "no rate known";
  tell(line, [pairName(pair.first, pair.second), quantity(pair.demand_bits, "bit"), quantity(pair.stock_bits, "bit"), quantity(pair.in_work_bits, "bit"),
    keyRate(pair), about, why, ago(told)]);
}
