// Pairs: one figure of every pair as a matrix of users, everything of each pair as a table, stock per lane, and the planner's key
// rate against loss with what was measured.

import { books } from "/static/books.js";
import { chart } from "/static/chart.js";
import { each, grid, h, row, say, tell } from "/static/dom.js";
import { ago, pairName, percent, quantity, short } from "/static/format.js";
import { trend } from "/static/trend.js";

const LIGHT = { assumed: "light assumed", gated: "light gated" };
const MONITORING = { monitored: "intensity monitored", calibrated: "intensity calibrated" };
const WORDS = "Red: the latest block gave no key. Grey: the ring cannot serve the pair. Light assumed: believed to be steady and from one side; "
  + "gated: counted by each user in its own window. Intensity monitored: read while key is made; calibrated: believed since the calibration.";

// What is kept of a pair over time: [series of its first user's blocks or of its status, name, unit].
const TRENDS = [["block", "qber", "QBER", "%"], ["block", "phase_error_upper", "phase error, upper bound", "%"], ["block", "secret_bits", "secret bits of a block", "bit"],
  ["pair", "stock_bits", "stock", "bit"], ["pair", "rate_bps", "secret rate", "bit/s"]];

// What is told of a pair: [title, text of a pair's facts].
const FIGURES = [
  ["QBER", ({ block, plan }) => (block?.qber === null || !block ? "" : `${percent(block.qber)}${plan ? ` (limit ${percent(plan.qber_limit, 1)})` : ""}`)],
  ["sifted rate in light", ({ block }) => (block?.light_s ? quantity(block.sifted_bits / block.light_s, "bit/s") : "")],
  ["secret rate in light", ({ block }) => (block?.light_s ? quantity(block.secret_bits / block.light_s, "bit/s") : "")],
  ["secret rate planned", ({ plan }) => (plan ? quantity(plan.rate_bps, "bit/s") : "")],
  ["phase error, upper bound", ({ block }) => (block ? percent(block.phase_error_upper, 1) : "")],
  ["stock", ({ pair, pairAge }) => (pair ? `${quantity(pair.stock_bits, "bit")}, ${ago(pairAge)} ago` : "")],
  ["last block", ({ block, blockAge }) => (block ? `${ago(blockAge)} ago${block.stored ? "" : ", no key"}` : "none yet")],
  ["last abort", ({ abort }) => abort],
  ["its secrecy rests on", ({ pair }) => (pair ? [LIGHT[pair.light], MONITORING[pair.monitoring]].filter(Boolean).join("; ") || "not told" : "")],
];

export function mount(root, store) {
  const figure = h("select", { id: "figure" }, FIGURES.map(([title]) => h("option", {}, title)));
  const choice = h("select", { id: "pair" });
  const users = h("tr", {}, h("td"));
  const matrix = h("tbody");
  const rows = h("tbody");
  const lanes = h("tbody");
  const notes = h("p");
  const points = h("tbody");
  const canvas = h("div");
  const drawn = trend(store);
  const kept = books(store);
  const laneTable = grid("Stock per lane: the smaller of both ends", ["pair"], lanes, {});
  const laneHead = laneTable.querySelector("thead tr");
  root.replaceChildren(h("h1", {}, "Pairs"),
    h("p", {}, h("label", {}, "Show ", figure)),
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Matrix of users" },
      h("table", { class: "matrix" }, h("caption", { class: "quiet" }, "Matrix of users"), h("thead", {}, users), matrix)),
    h("p", { class: "note" }, WORDS),
    grid("Each pair", ["pair", ...FIGURES.map(([title]) => title)], rows), laneTable, kept.element,
    h("h2", {}, "One pair"), h("p", {}, h("label", {}, "Pair ", choice)), drawn.element, h("h2", {}, "Key rate against loss"), canvas, notes,
    h("details", {}, h("summary", {}, "The same as a table"), grid("Key rate against loss", ["what", "loss of both arms (dB)", "secret bits per second of light", "QBER"], points, {})));
  const plot = chart(canvas, {
    x: { label: "loss of both arms (dB)" }, y: { label: "secret bit/s of light", log: true },
    series: [{ label: "planned", colour: "blue" }, { label: "plan of this ring", colour: "blue", points: "open" }, { label: "measured blocks", colour: "red", points: "full" }],
  });

  function update() {
    const all = (store.get("testbed")?.pairs ?? []).map(([first, second]) => facts(store, first, second));
    const shown = FIGURES[figure.selectedIndex][1];
    drawMatrix(users, matrix, store.get("testbed")?.users ?? [], all, shown);
    each(rows, all, ({ name }) => name, () => row(FIGURES.length), (line, one) => tell(line, [one.name, ...FIGURES.map(([, text]) => text(one))]));
    drawLanes(laneHead, lanes, all);
    kept.update();
    each(choice, all, ({ name }) => name, ({ name }) => h("option", { value: name }, name), () => {});
    const chosen = all.find(({ name }) => name === choice.value) ?? all[0];
    if (!chosen) return;
    drawCurve(plot, points, notes, chosen);
    const { first, second } = chosen;
    drawn.update(TRENDS.map(([of, field, name, unit]) => ({ key: `item/${of === "block" ? `${first}/BlockReport` : "orchestrator/PairStatus"}/${first}/${second}/${field}`, name: `${name} of ${chosen.name}`, unit })));
  }
  for (const select of [figure, choice]) select.addEventListener("change", update);
  return { update };
}

function facts(store, first, second) {
  const key = `${first}/${second}`;
  const block = store.get(`item/${first}/BlockReport/${key}`);
  const one = { first, second, name: pairName(first, second), block, blockAge: store.age(`item/${first}/BlockReport/${key}`),
    pair: store.get(`item/orchestrator/PairStatus/${key}`), pairAge: store.age(`item/orchestrator/PairStatus/${key}`), measured: store.get(`measured/${key}`) ?? [], plan: store.get(`plan/${key}`), stock: laneStock(store, first, second), stockAge: Math.max(...[first, second].map((user) => store.age(`item/${user}/Stock`) ?? 0)) };
  one.abort = lastAbort(store, one, store.get(`item/orchestrator/LeaseStatus/${key}`));
  return one;
}

// Bits of each lane: the smaller of what both ends say; null where only one of them said anything.
function laneStock(store, first, second) {
  const told = (user, peer) => new Map((store.get(`item/${user}/Stock`)?.lanes ?? []).filter((lane) => lane.peer === peer).map((lane) => [lane.lane, lane]));
  const [here, there] = [told(first, second), told(second, first)];
  return new Map([...here].map(([name, lane]) => [name, { bits: there.has(name) ? Math.min(lane.bits, there.get(name).bits) : null, low: lane.low_water_bits }]));
}

// Of the latest block or lease where that gave no key; else the latest that stands on record, less the block that may be in work.
function lastAbort(store, { name, block, blockAge, pair }, lease) {
  if (block && !block.stored) return `${ago(blockAge)} ago: ${block.reason}`;
  if (lease && !lease.ok) return lease.reason;
  if (pair?.fault) return pair.fault;
  const kept = store.get("runs")?.rows.find((row) => row.kind === "block" && row.pair === name && !row.ok && row.id !== `block/${lease?.epoch}/${lease?.lease_number}`);
  return kept ? `${ago(store.since(kept.when))} ago: ${kept.result}` : "none on record";
}

function drawMatrix(head, body, users, all, shown) {
  each(head, ["", ...users], (user) => user, (user) => (user ? h("th", { scope: "col" }, user) : h("td")), () => {});
  const of = new Map(all.flatMap((one) => [[`${one.first} ${one.second}`, one], [`${one.second} ${one.first}`, one]]));
  each(body, users, (user) => user, (user) => h("tr", {}, h("th", { scope: "row" }, user), users.map(() => h("td"))), (row, user) => users.forEach((peer, index) => {
    const one = of.get(`${user} ${peer}`);
    const place = row.children[index + 1];
    say(place, one ? shown(one) : "–");
    if (one) place.dataset.state = one.block && !one.block.stored ? "bad" : one.pair && !one.pair.available ? "off" : "";
  }));
}

function drawLanes(head, body, all) {
  const names = [...new Set(all.flatMap(({ stock }) => [...stock.keys()]))];
  if (names.length) each(head, ["pair", ...names, "age"], (name) => name, (name) => h("th", { scope: "col" }, name), () => {});
  const low = (lane) => Boolean(lane) && lane.bits !== null && lane.bits < lane.low;
  const told = (lane) => (!lane ? "" : lane.bits === null ? "one end alone" : `${quantity(lane.bits, "bit")}${low(lane) ? `, below ${quantity(lane.low, "bit")}` : ""}`);
  each(body, all, ({ name }) => `${name} ${names}`, () => row(names.length + 1), (line, { name, stock, stockAge }) => {
    const lanes = names.map((lane) => stock.get(lane));
    tell(line, [name, ...lanes.map(told), stock.size ? ago(stockAge) : ""]);
    lanes.forEach((lane, index) => { line.children[index + 1].dataset.state = low(lane) ? "bad" : ""; });
  });
}

function drawCurve(plot, table, notes, { name, plan, block, measured }) {
  if (!plan) {
    say(notes, `No plan of ${name} is known yet.`);
    plot.set([[], [], [], []]);
    return;
  }
  const rows = [...plan.curve.map(([loss, rate, qber]) => ({ what: "planned", column: 1, loss, rate, qber })),
    { what: "plan of this ring", column: 2, loss: plan.loss_db, rate: plan.rate_bps, qber: plan.qber },
    ...measured.map(([rate, qber]) => ({ what: "measured block", column: 3, loss: plan.loss_db, rate, qber }))].sort((a, b) => a.loss - b.loss);
  plot.set([rows.map(({ loss }) => loss), ...[1, 2, 3].map((column) => rows.map((row) => (row.column === column && row.rate > 0 ? row.rate : column === row.column ? null : undefined)))]);
  say(notes, [`${name}: ${short(plan.loss_db)} dB, planned ${quantity(plan.rate_bps, "bit/s")} of light at QBER ${percent(plan.qber)}; ${quantity(plan.bench_rate_bps, "bit/s")} with the ring's pauses.`,
    measured.length ? `The latest stored block gave ${quantity(measured.at(-1)[0], "bit/s")} of light, ${percent(measured.at(-1)[0] / plan.rate_bps, 0)} of plan.` : "No block was stored while this dashboard looked.",
    block && !block.stored ? "The latest block gave no key: it has no place on a logarithmic axis." : "", ...plan.refusals].filter(Boolean).join(" "));
  each(table, rows, (row) => JSON.stringify(row), () => row(3), (line, { what, loss, rate, qber }) => tell(line, [what, loss.toFixed(1), short(rate), percent(qber)]));
}
