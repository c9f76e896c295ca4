// Calibrated values with uncertainty and age, what was never measured, and the curves of a finding.

import { chart } from "/static/chart.js";
import { each, grid, h, row, say, tell } from "/static/dom.js";
import { ago, short } from "/static/format.js";

const COLOURS = ["blue", "red", "amber", "green"];

export function mount(root, store) {
  const about = h("p");
  const page = h("a", { href: "/pages/calibration" }, "The page of all findings");
  const link = h("p", {}, page, ", with all plots.");
  const rows = h("tbody");
  const missing = h("tbody");
  const chosen = h("select", { id: "finding" });
  const told = h("p", { role: "status" });
  const plots = h("div");
  const form = h("form", { class: "filters", onsubmit: (event) => { event.preventDefault(); showCurves(chosen.value, told, plots); } }, h("label", {}, "Finding ", chosen), h("button", { type: "submit" }, "Show"));
  const curves = h("section", {}, h("h2", {}, "Curves"), form, told, plots);
  root.replaceChildren(h("h1", {}, "Calibration"), about, link, grid("Values", ["of", "value", "is", "found by", "age", "state"], rows),
    curves,
    grid("Never measured here", ["of", "step", "finds"], missing));

  function update() {
    const values = store.under("calibration/").map(([key, value]) => [...key.split("/").slice(1), value]);
    const problem = store.get("problem/calibration");
    const lacking = store.get("calibration-missing") ?? [];
    say(about, [problem ? `The calibration cannot be read: ${problem}` : "", values.length ? `${values.length} values, ${values.filter(([, , value]) => value.stale).length} of them stale.` : "No value was calibrated: those of the testbed file stand, which nobody dates."].filter(Boolean).join(" "));
    link.hidden = !store.get("calibration-page");
    each(rows, values, ([owner, name]) => `${owner}/${name}`, () => row(5), (line, [owner, name, value]) => {
      tell(line, [owner, name, value.withheld || figure(value), `${value.step}: ${value.finds}`, `${ago(store.since(value.measured))}, good for ${value.valid_h} h`, value.stale || "good"]);
      line.lastChild.dataset.state = value.stale ? "bad" : "";
    });
    const findings = [...new Set(values.filter(([, , value]) => !value.withheld).map(([owner, , value]) => `${owner}/${value.step}`))];
    each(chosen, findings, (name) => name, (name) => h("option", { value: name }, name), () => {});
    curves.hidden = !findings.length;
    each(missing, lacking, ({ step, owner }) => `${owner}/${step}`, () => row(2), (line, { step, owner, finds }) => tell(line, [owner, step, finds]));
  }
  return { update };
}

// A value, or a few that belong together, each with its uncertainty of one sigma.
function figure({ value, uncertainty, unit }) {
  const values = [value].flat();
  const sigmas = [uncertainty].flat();
  return `${values.map((each, index) => (sigmas[index] ? `${Number(each.toPrecision(6))} ± ${short(sigmas[index])}` : Number(each.toPrecision(6)))).join(" and ")} ${unit}`.trim();
}

async function showCurves(name, told, place) {
  place.replaceChildren();
  say(told, "Asking ...");
  try {
    const answer = await fetch(`/api/finding/${name.split("/").map(encodeURIComponent).join("/")}`);
    const finding = await answer.json();
    say(told, !answer.ok ? finding.error : finding.curves.length ? `${finding.step} of ${finding.owner}, ${finding.measured ?? ""}` : "This finding has no curve.");
    for (const curve of finding.curves ?? []) place.append(...drawn(curve));
  } catch (error) {
    say(told, `The dashboard does not answer (${error.message}).`);
  }
}

// Measured points and fitted lines of a curve, and the same as a table.
function drawn({ title, x_label: x, y_label: y, x: at, measured, fitted }) {
  const order = at.map((_, index) => index).sort((a, b) => at[a] - at[b]);
  const columns = [...Object.entries(measured).map(([name, values], index) => ({ label: `${name}, measured`, values, points: "full", colour: COLOURS[index % COLOURS.length] })),
    ...Object.entries(fitted).map(([name, values], index) => ({ label: `${name}, fitted`, values, colour: COLOURS[index % COLOURS.length], dash: [6, 4] }))];
  const place = h("div");
  const body = h("tbody");
  const data = [at, ...columns.map(({ values }) => values)].map((column) => order.map((index) => column[index]));
  requestAnimationFrame(() => chart(place, { x: { label: x }, y: { label: y }, series: columns }).set(data));
  each(body, data[0].map((_, index) => data.map((column) => column[index])), (line) => line[0], () => row(columns.length), (line, texts) => tell(line, texts.map((each) => (each === null ? "" : Number(each.toPrecision(6))))));
  return [h("h3", {}, title), place, h("details", {}, h("summary", {}, "The same as a table"), grid(title, [x, ...columns.map(({ label }) => label)], body, {}))];
}
