// Numbers over time as the server keeps them, one series at a time: its mean, least and greatest, asked for anew while it is seen.

import { chart } from "/static/chart.js";
import { each, h, say } from "/static/dom.js";
import { lasting, reading, scale } from "/static/format.js";

const SPANS = [["10 minutes", 600], ["a day", 86_400], ["30 days", 2_592_000]];
const AGAIN_MS = 5000;
const LEAST_GAP_S = 60;

// The answer's `element` goes into a page, `update(offers)` takes what there is, each {key, name, unit}, `show(key)` chooses one.
export function trend(store) {
  const series = h("select", {});
  const span = h("select", {}, SPANS.map(([name, seconds]) => h("option", { value: seconds }, name)));
  const canvas = h("div");
  const told = h("p");
  const element = h("section", {}, h("h2", {}, "Trend"), h("p", { class: "filters" }, h("label", {}, "Of ", series), h("label", {}, "over ", span)), canvas, told);
  let offered = [];
  let asked = 0;
  let drawn = {};
  let known = new Set();

  async function draw() {
    asked = performance.now();
    const [{ key, name, unit }, seconds] = [offered.find((one) => one.key === series.value), span.value];
    if (!known.has(key)) known = new Set((await answerTo("/api/series"))?.keys);
    const found = known.has(key) ? await answerTo(`/api/series?key=${encodeURIComponent(key)}&span=${seconds}`) : { points: [] };
    if (!found || key !== series.value || seconds !== span.value) return;
    const { points } = found;
    canvas.hidden = !points.length;
    say(told, points.length ? summary(found, unit) : `Nothing was told of it in the last ${span.selectedOptions[0].textContent}.`);
    if (!points.length) return;
    const [factor, shown] = scale(Math.max(...points.map(([, , low, high]) => Math.max(Math.abs(low), Math.abs(high)))), unit);
    const label = shown ? `${name} (${shown})` : name;
    if (drawn.label !== label) {
      drawn.plot?.destroy();
      drawn = { label, plot: chart(canvas, { x: { label: "time", time: true, range: () => shownFrom() }, y: { label }, series: [{ label: "least", colour: "soft", width: 1 }, { label: "greatest", colour: "soft", width: 1 }, { label: "mean", colour: "blue", points: "few" }] }) };
    }
    const toClock = store.wall() - found.now_s + found.step_s / 2;
    const rows = gapped(points, Math.max(5 * found.step_s, LEAST_GAP_S));
    drawn.plot.set([rows.map(([at]) => at + toClock), ...[2, 3, 1].map((column) => rows.map((row) => (row[column] === null ? null : row[column] / factor)))]);
  }

  const shownFrom = () => [store.wall() - span.value, store.wall()];
  function update(offers) {
    const before = series.value;
    offered = offers;
    each(series, offered, ({ key }) => key, ({ key, name }) => h("option", { value: key }, name), () => {});
    element.hidden = !offered.length;
    if (offered.length && !document.hidden && (before !== series.value || performance.now() - asked > AGAIN_MS)) draw();
  }
  function show(key) {
    series.value = key;
    draw();
    element.scrollIntoView();
  }
  for (const choice of [series, span]) choice.addEventListener("change", draw);
  return { element, update, show };
}

// What the server answers; null while it does not, which the banner says.
async function answerTo(address) {
  const answer = await fetch(address).catch(() => null);
  return answer?.ok ? answer.json() : null;
}

function summary({ points, step_s: step }, unit) {
  const mean = points.reduce((sum, point) => sum + point[1], 0) / points.length;
  const [least, greatest] = [Math.min(...points.map((point) => point[2])), Math.max(...points.map((point) => point[3]))];
  return `Latest ${reading(points.at(-1)[1], unit)}; mean ${reading(mean, unit)}, least ${reading(least, unit)}, greatest ${reading(greatest, unit)} of one point for each ${lasting(step)} in which something was told, ${points.length} in all.`;
}

// A line is drawn over what was told in turn, and broken where nothing was told for longer.
function gapped(points, longest) {
  return points.flatMap((point, index) => (index && point[0] - points[index - 1][0] > longest ? [[point[0], null, null, null], point] : [point]));
}
